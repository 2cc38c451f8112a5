"""Shelf: weights move to a file and back, values and sharing unchanged, and leave memory in between."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from edgekit.exporters import shelf

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mapped pages are released on Linux alone")


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def network() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2048, 2048), nn.BatchNorm1d(2048), nn.Linear(2048, 2048), nn.Linear(2048, 2048))
    net[3].weight = net[2].weight
    return net.eval()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "LARGE_BYTES", 2**20)


def test_values_and_sharing_stay(small: None, tmp_path: Path) -> None:
    net, x = network(), torch.rand(2, 2048)
    before, truth = {k: v.clone() for k, v in net.state_dict().items()}, net(x)
    places = [p.data_ptr() for p in net.parameters()]
    with shelf.shelved([net], tmp_path):
        assert net[0].weight.untyped_storage().filename is not None
        assert net[3].weight is net[2].weight and net[0].bias.untyped_storage().filename is None  # small ones stay
        shelf.rest(net)
        assert torch.equal(net(x), truth)
        assert [p.data_ptr() for p in net.parameters()] != places
    assert net[0].weight.untyped_storage().filename is None and list(tmp_path.iterdir()) == []
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    net[0].weight.data.add_(1.0)  # memory of its own, as before


def test_resting_weights_are_not_in_memory(small: None, tmp_path: Path) -> None:
    net = network()
    with shelf.shelved([net], tmp_path):
        used = sum(float(p.sum()) for p in net.parameters())
        held = resident_mb()
        shelf.rest(net)
        rested = resident_mb()
        assert held - rested > 30  # of 32 MiB
        assert sum(float(p.sum()) for p in net.parameters()) == used
        assert resident_mb() - rested > 30


def test_a_file_that_is_mapped_is_let_go(small: None, tmp_path: Path) -> None:
    """safetensors maps the whole file: one small tensor that stayed would keep all of it."""
    from safetensors.torch import load_file, save_file

    def made() -> nn.Sequential:
        return nn.Sequential(nn.Linear(2048, 2048), nn.LayerNorm(2048)).eval()

    net = made()
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    with torch.device("meta"):
        empty = made()
    empty.load_state_dict(load_file(tmp_path / "w.safetensors"), assign=True)
    with shelf.shelved([empty], tmp_path):
        assert "w.safetensors" not in Path("/proc/self/maps").read_text()
        assert torch.equal(empty[0].weight, net[0].weight)


def test_views_of_one_storage(small: None, tmp_path: Path) -> None:
    whole = torch.rand(1024, 1024)
    net = nn.Module()
    net.register_buffer("top", whole[:512])
    net.register_buffer("turned", whole.t())
    with shelf.shelved([net], tmp_path):
        assert net.top.untyped_storage().data_ptr() == net.turned.untyped_storage().data_ptr()
        assert torch.equal(net.top, whole[:512]) and torch.equal(net.turned, whole.t())


def test_small_models_are_left_alone(tmp_path: Path) -> None:
    net = network()
    with shelf.shelved([net], tmp_path):
        assert net[0].weight.untyped_storage().filename is None
        shelf.rest(net)


def test_weights_come_back_after_an_error(small: None, tmp_path: Path) -> None:
    net = network()
    with pytest.raises(KeyError), shelf.shelved([net], tmp_path):
        raise KeyError
    assert net[0].weight.untyped_storage().filename is None
