"""What can go wrong in a quantization: every time a clear error, and the bundle as it was before."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.bundle import Bundle
from edgekit.errors import EdgekitError, InputError, QuantizationError
from edgekit.exporters import ExportOptions, export
from edgekit.quantization import Metric, QuantizeOptions, quantize
from edgekit.verify import verify

ONNX = QuantizeOptions(formats=["onnx"], correct=[], time_it=False)
Arrays = list[tuple[np.ndarray, ...]]


class Net(nn.Module):
    """Two convolutions around an operator that no quantizer knows."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.last(torch.cumsum(torch.relu(self.first(image)), dim=3) / 16)


@pytest.fixture(scope="module")
def network() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory, network: Net) -> Bundle:
    image = np.random.default_rng(0).random((1, 3, 16, 16), np.float32)
    return export(network, tmp_path_factory.mktemp("bad") / "net", [image], options=ExportOptions(formats=("onnx",)))


@pytest.fixture
def bundle(fresh: Bundle, tmp_path: Path) -> Bundle:
    return Bundle.open(shutil.copytree(fresh.folder, tmp_path / "net"))


class Twice(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return image, image + 1


@pytest.fixture
def source(fresh: Bundle, network: Net) -> Any:
    from edgekit.exporters.sources import from_module

    golden = fresh.golden()
    return from_module(network, [golden["image"]])


@pytest.fixture
def calibration() -> Arrays:
    random = np.random.default_rng(1)
    return [(random.random((1, 3, 16, 16), np.float32),) for _ in range(8)]


class Given(Metric):
    """Says for int8 what it was given."""

    name, data = "given", "none"

    def __init__(self, value: float) -> None:
        self.int8 = value

    def value(self, bundle: Bundle, runtime: str, precision: str) -> float:
        return 1.0 if precision == "fp32" else self.int8


def refused(bundle: Bundle, says: str, *args: Any, kind: type[EdgekitError] = QuantizationError, **named: Any) -> None:
    """The call fails with these words, and leaves the bundle's folder as it was, with nothing beside it."""
    before, beside = bundle.hash, sorted(bundle.folder.parent.iterdir())
    with pytest.raises(kind, match=says):
        quantize(bundle, *args, **{"options": ONNX, **named})
    assert Bundle.open(bundle.folder).hash == before and sorted(bundle.folder.parent.iterdir()) == beside
    Bundle.open(bundle.folder).check_files()


def test_calibration_that_shows_nothing(bundle: Bundle, source: Any, tmp_path: Path) -> None:
    def image(value: float, shape: tuple[int, ...] = (1, 3, 16, 16)) -> Arrays:
        return [(np.full(shape, value, np.float32),)]

    refused(bundle, "needs calibration inputs", source=source)
    refused(bundle, "got no calibration inputs", [], source=source)
    refused(bundle, "every calibration value of image is 0.5", image(0.5), source=source)
    refused(bundle, "NaN", image(float("nan")), source=source)
    refused(bundle, r"calibration input 0: .*shape", image(0.5, (1, 3, 8, 8)), source=source)
    refused(bundle, "float32", [(np.zeros((1, 3, 16, 16), np.int64),)], source=source)
    refused(bundle, "has 2 arrays: expected 1", [(np.zeros((1, 3, 16, 16), np.float32),) * 2], source=source)
    refused(bundle, "no calibration data at", tmp_path / "nowhere", source=source)
    np.savez(tmp_path / "none.npz", image=np.zeros((0, 1, 3, 16, 16), np.float32))
    shutil.move(tmp_path / "none.npz", (tmp_path / "data").absolute())
    (tmp_path / "data").rename(tmp_path.parent / f"{tmp_path.name}.npz")
    refused(bundle, "got no calibration inputs", tmp_path.parent / f"{tmp_path.name}.npz", source=source)
    refused(bundle, r"expected \['model'\]", {"encoder": image(0.5)}, source=source)


def test_metrics_that_say_nothing(bundle: Bundle, source: Any, calibration: Arrays, tmp_path: Path) -> None:
    refused(bundle, "given of onnx int8 on onnxruntime is nan", calibration, Given(float("nan")), source=source)
    refused(bundle, "without a metric", calibration, source=source, max_drop=1.0)
    refused(bundle, "expected 0 or more", calibration, Given(1.0), source=source, max_drop=-1.0)
    refused(bundle, "expected 0 or more", calibration, Given(1.0), source=source, max_drop=float("nan"))
    refused(bundle, "without validation data", calibration, "snr", kind=InputError, source=source)
    np.save(tmp_path.parent / f"{tmp_path.name}.npy", np.stack([a for (a,) in calibration]))
    named = {"kind": InputError, "source": source, "validation": tmp_path.parent / f"{tmp_path.name}.npy"}
    refused(bundle, "no metric 'beauty'", calibration, "beauty", **named)
    refused(bundle, "metric 'accuracy' is of task classify", calibration, "accuracy", **named)


def test_the_wrong_network(bundle: Bundle, calibration: Arrays) -> None:
    from edgekit.exporters.sources import from_module

    torch.manual_seed(7)
    other = from_module(Net(), [calibration[0][0]])
    refused(bundle, "does not answer as net does", calibration, source=other)


def test_a_source_that_is_none(bundle: Bundle, calibration: Arrays) -> None:
    refused(bundle, "got int for 'model': expected a torch.nn.Module", calibration, kind=InputError, source=3)
    refused(
        bundle, "got encoder: net has the components model", calibration, kind=InputError, source={"encoder": Net()}
    )
    refused(bundle, "does not take the bundle's inputs", calibration, source=torch.nn.Conv2d(7, 3, 1))
    refused(bundle, "gives output0, output1: net has output", calibration, source=Twice())


def test_names_that_are_none(bundle: Bundle, source: Any, calibration: Arrays) -> None:
    refused(bundle, "'neck' matches no layer", calibration, source=source, options=replace(ONNX, keep_float=["neck"]))
    with pytest.raises(EdgekitError, match="int3"):
        quantize(bundle, calibration, source=source, options=replace(ONNX, scheme="int3"))  # type: ignore[arg-type]
    with pytest.raises(EdgekitError, match="magic"):
        quantize(bundle, calibration, source=source, options=replace(ONNX, correct=["magic"]))


def test_an_operator_that_no_quantizer_knows_stays_float(bundle: Bundle, source: Any, calibration: Arrays) -> None:
    result = quantize(bundle, calibration, source=source, options=ONNX)
    assert {layer.name for layer in result.layers["model"]} >= {"first", "last"}
    assert all(verdict.ok is not False for verdict in verify(result.bundle))


def test_quantizing_again_replaces_what_was_made(bundle: Bundle, source: Any, calibration: Arrays) -> None:
    quantize(bundle, calibration, source=source, options=ONNX)
    again = quantize(bundle.folder, calibration, source=source, options=ONNX).bundle
    assert [v.precision for v in again.component().variants] == ["fp32", "int8"]
    assert all(verdict.ok is not False for verdict in verify(again))


def test_a_metric_of_the_callers_that_fails(bundle: Bundle, source: Any, calibration: Arrays) -> None:
    class Broken(Given):
        def value(self, bundle: Bundle, runtime: str, precision: str) -> float:
            raise ZeroDivisionError("no data")

    before = bundle.hash
    with pytest.raises(ZeroDivisionError, match="no data"):
        quantize(bundle, calibration, Broken(0), source=source, options=ONNX)
    assert Bundle.open(bundle.folder).hash == before


def test_a_budget_that_has_run_out_keeps_the_first_attempt(bundle: Bundle, source: Any, calibration: Arrays) -> None:
    options = replace(ONNX, budget_s=0.0)
    result = quantize(bundle, calibration, Given(0.0), max_drop=0.5, source=source, options=options)
    assert not result.met and len(result.attempts) == 1
    assert any("budget of 0 s ran out" in note for note in result.notes)
    assert [v.precision for v in result.bundle.component().variants] == ["fp32", "int8"]


def test_a_full_disk(bundle: Bundle, source: Any, calibration: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    before, copy = bundle.hash, shutil.copy
    copied: list[Any] = []

    def full(*args: Any, **named: Any) -> Any:
        copied.append(args)
        if len(copied) > 6:  # at the very end, when the result is put together
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return copy(*args, **named)

    monkeypatch.setattr(shutil, "copy", full)
    with pytest.raises(OSError, match="No space left"):
        quantize(bundle, calibration, source=source, options=ONNX)
    assert Bundle.open(bundle.folder).hash == before
    assert [p.name for p in bundle.folder.parent.iterdir()] == ["net"]


RUN = """
import sys, torch, numpy as np
sys.path.insert(0, sys.argv[2])
from edgekit.quantization import QuantizeOptions, quantize
options = QuantizeOptions(formats=["onnx"], time_it=False, progress=lambda step: print(step, flush=True))
quantize(sys.argv[1], "random", options=options)
"""


def command(bundle: Bundle) -> list[str]:
    return [sys.executable, "-c", RUN, str(bundle.folder), str(Path(__file__).parents[1])]


@pytest.fixture
def carrying(tmp_path: Path) -> Bundle:
    """A bundle that carries its network, for another process."""
    return Bundle.open(shutil.copytree(Bundle.open("digits-cnn").folder, tmp_path / "digits"))


@pytest.mark.slow
def test_a_kill_in_the_middle(carrying: Bundle) -> None:
    before = carrying.hash
    with subprocess.Popen(command(carrying), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "onnx int8" in line:
                process.send_signal(signal.SIGKILL)
                break
    left = [p for p in carrying.folder.parent.iterdir() if p != carrying.folder]
    assert process.returncode == -signal.SIGKILL and len(left) == 1 and left[0].name.startswith(".digits.quantize-")
    assert Bundle.open(carrying.folder).hash == before
    quantize(carrying, "random", options=ONNX)
    assert [p.name for p in carrying.folder.parent.iterdir()] == ["digits"]  # the next run cleans up


@pytest.mark.slow
def test_files_that_may_not_grow(carrying: Bundle) -> None:
    """A limit of the system on a file's size, as a full disk has it."""
    before = carrying.hash
    limit = max(v.bytes for v in carrying.component().variants) // 4

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(command(carrying), capture_output=True, text=True, preexec_fn=limited)
    assert done.returncode != 0 and "File too large" in done.stderr
    assert Bundle.open(carrying.folder).hash == before
    assert [p.name for p in carrying.folder.parent.iterdir()] == ["digits"]
