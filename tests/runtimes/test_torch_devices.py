"""PyTorch's devices: what is absent is listed with what it takes, and fp32 on a GPU is fp32."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from edgekit.errors import DeviceUnavailable
from edgekit.opening import open_session
from edgekit.runtimes.torch_ import TorchRuntime, _exact


def test_convolutions_are_not_rounded_to_tf32_on_a_gpu() -> None:
    before = torch.backends.cudnn.allow_tf32
    with _exact(torch, SimpleNamespace(type="cuda")):
        assert not torch.backends.cudnn.allow_tf32
    with _exact(torch, SimpleNamespace(type="cpu")):
        assert torch.backends.cudnn.allow_tf32 == before
    assert torch.backends.cudnn.allow_tf32 == before


def test_the_processor_and_every_gpu_are_listed() -> None:
    rows = TorchRuntime().devices()
    assert rows[0].name == "cpu" and rows[0].usable
    for row in rows[1:]:
        assert row.name.startswith("gpu") and (row.usable or row.why)


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_absent_is_refused() -> None:
    with pytest.raises(DeviceUnavailable, match="torch has no gpu:1 here: use device='cpu'"):
        open_session("sr-x2", "torch", device="gpu:1", precision="fp32")
