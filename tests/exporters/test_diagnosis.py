"""Diagnosis: the answer to a refusal or a departure names format, component, operator, module, line and remedy."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import edgekit
from edgekit import registry
from edgekit.bundle import Bundle
from edgekit.errors import ExportError, ParityError
from edgekit.exporters import ExportOptions, from_module
from edgekit.exporters.formats import onnx_
from edgekit.exporters.formats.onnx_ import OnnxExporter
from edgekit.exporters.graphs import Exporter, Graph, Refused, Written
from edgekit.exporters.proof import diagnosis
from edgekit.exporters.proof.places import first_line, is_own
from edgekit.exporters.proof.remedies import remedy
from edgekit.exporters.readers import reading
from edgekit.exporters.readers.reading import Normalized
from edgekit.opening import open_session

HERE = re.escape(__file__)
BOTH = ExportOptions(formats=["onnx", "openvino"])


def image(height: int = 8, width: int = 8) -> np.ndarray:
    return np.random.default_rng(1).random((1, 3, height, width), np.float32)


class Deep(nn.Module):
    """A tree with the module under test three levels down, in a list, between innocent ones."""

    def __init__(self, culprit: nn.Module) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 3, 1)
        inner = nn.Sequential(nn.ReLU(), nn.Sequential(nn.Conv2d(3, 3, 1), culprit))
        self.body = nn.ModuleList([nn.Conv2d(3, 3, 3, padding=1), inner])

    def forward(self, image: Tensor) -> Tensor:
        x = self.head(image)
        for block in self.body:
            x = block(x)
        return x


class Deciding(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.mean() > 0:
            x = x * 2
        return x


class Complex(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvals(x[0, 0]).real


class Changing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 1.01 if torch.compiler.is_exporting() else x


class Random(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


class Flattening(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(1, 3, 4, x.shape[2] // 4, -1).sum(2)


class FixedInside(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(1, 3, 64)


def failure(module: nn.Module, out: Path, options: ExportOptions = BOTH) -> ExportError:
    with pytest.raises(ExportError) as caught:
        edgekit.export(Deep(module), out, [image()], options=options)
    return caught.value


def test_control_flow_on_values_is_found_in_the_tree(tmp_path: Path) -> None:
    told = str(failure(Deciding(), tmp_path / "b"))
    at = rf"onnx: Deep does not convert \(at module 'body\.1\.1\.1' \(Deciding\), line {HERE}:\d+\)"
    assert re.search(at, told) and "torch.where" in told
    assert "openvino: Deep does not convert, for the same reason as onnx" in told


def test_an_operator_that_onnx_lacks_is_named(tmp_path: Path) -> None:
    error = failure(Complex(), tmp_path / "b", ExportOptions(formats=["onnx"]))
    line = Path(__file__).read_text().splitlines().index("        return torch.linalg.eigvals(x[0, 0]).real") + 1
    at = rf"operator aten\.linalg_eig, module 'body\.1\.1\.1' \(Complex\), line {HERE}:{line}\b"
    assert re.search(at, str(error)) and "complex numbers have no place" in str(error)
    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)  # type: ignore[arg-type]
    assert any(isinstance(cause, Refused) for cause in causes) and "linalg_eig" in str(causes[-1])


def test_an_operator_that_tflite_lacks_is_named_from_the_child(tmp_path: Path) -> None:
    told = str(failure(Complex(), tmp_path / "b", ExportOptions(formats=["tflite"])))
    assert re.search(rf"operator aten\.linalg_eig\w*, module 'body\.1\.1\.1' \(Complex\), line {HERE}:\d+", told)
    assert "Lowering not found" in told


def test_the_component_is_named_and_the_other_one_is_whole(tmp_path: Path) -> None:
    class Cubic(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return torch.special.bessel_j0(image)

    sources = {"encoder": from_module(nn.Conv2d(3, 4, 1), [image()]), "decoder": from_module(Cubic(), [image()])}
    with pytest.raises(ExportError, match=r"onnx: Cubic \(component 'decoder'\) does not convert \(at operator"):
        edgekit.export(sources, tmp_path / "b", options=ExportOptions(formats=["onnx"]))


def test_a_module_that_departs_under_export_is_found(tmp_path: Path) -> None:
    error = failure(Changing(), tmp_path / "b")
    assert isinstance(error, ParityError)
    at = rf"onnx fp32 .*'output'.*First at .*module 'body\.1\.1\.1' \(Changing\), line {HERE}:\d+: it is torch\.export"
    assert re.search(at, str(error)) and "is_exporting" in str(error)
    assert "for the same reason as onnx fp32" in str(error)


def test_a_module_that_is_random_is_found(tmp_path: Path) -> None:
    told = str(failure(Random(), tmp_path / "b", ExportOptions(formats=["onnx"])))
    at = r"operator aten\.rand_like, module 'body\.1\.1\.1' \(Random\), line .*: PyTorch itself answers differently"
    assert re.search(at, told) and "noise as an input" in told


def test_sizes_that_must_be_multiples_are_exported_as_such(tmp_path: Path) -> None:
    dynamic = {"image": {2: "height", 3: "width"}}
    bundle = edgekit.export(Deep(Flattening()), tmp_path / "b", [image()], dynamic=dynamic, options=BOTH)
    other = image(16, 12)
    for runtime in ("onnxruntime", "openvino"):
        with open_session(bundle, runtime) as session:
            assert session.inputs[0].shape == (1, 3, "height", "width")
            assert session.run({"image": other})["output"].shape == (1, 3, 4, 12)


def test_a_free_dimension_that_is_fixed_inside_is_the_cause(tmp_path: Path) -> None:
    options = ExportOptions(formats=["onnx", "tflite"], buckets=[{"height": 8}])
    with pytest.raises(ExportError, match=r"Constraints violated \(height\)|a free dimension is the cause") as caught:
        edgekit.export(
            Deep(FixedInside()), tmp_path / "b", [image()], dynamic={"image": {2: "height"}}, options=options
        )
    assert "buckets" in str(caught.value)
    assert [v.format for v in Bundle.open(tmp_path / "b").component().variants] == ["tflite"]


class Picky(OnnxExporter):
    """Refuses kernels of 5, and does not say where."""

    def convert(self, graph: Graph, sizes: Mapping[str, int], folder: Path, stem: str) -> Written:
        for node in graph.program(sizes).graph.nodes:
            if "conv2d" in str(node.target) and node.args[1].meta["val"].shape[-1] == 5:
                raise Refused("no")
        return super().convert(graph, sizes, folder, stem)


class Careless(OnnxExporter):
    """Writes ReLU for every GELU."""

    def convert(self, graph: Graph, sizes: Mapping[str, int], folder: Path, stem: str) -> Written:
        program = graph.program(sizes)
        for node in program.graph.nodes:
            if "gelu" in str(node.target):
                node.target, node.kwargs = torch.ops.aten.relu.default, {}
        return super().convert(graph, sizes, folder, stem)


def told_by(exporter: Exporter, module: nn.Module, seconds: float = 60.0) -> str:
    graph = Graph(module, from_module(module, [image()]))
    return str(diagnosis.explained(Refused("no"), exporter, graph, {}, seconds))


def test_a_converter_that_says_nothing_is_asked_part_by_part() -> None:
    told = told_by(Picky(), Deep(nn.Conv2d(3, 3, 5)))
    assert (
        "(at operator aten.conv2d, module 'body.1.1.1' (Conv2d)" in told
        and told.endswith("does not convert: no") is False
    )


def test_a_search_that_has_no_time_or_fails_leaves_the_plain_message(monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.monotonic()
    assert told_by(Picky(), Deep(nn.Conv2d(3, 3, 5)), 0.0).endswith(": no")
    assert time.monotonic() - began < 5

    def broken(*arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(diagnosis, "_search_refusal", broken)
    assert told_by(Picky(), Deep(nn.Conv2d(3, 3, 5))) == "onnx: Deep does not convert: no"


def test_an_engine_that_computes_something_else_is_followed_to_the_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry.TABLES["exporters"], "onnx", f"{__name__}:Careless")
    told = str(failure(nn.Sequential(nn.Conv2d(3, 3, 1), nn.GELU()), tmp_path / "b", ExportOptions(formats=["onnx"])))
    assert re.search(r"operator aten\.gelu, module 'body\.1\.1\.1\.1' \(GELU\).*the onnx file of this part", told)


def test_a_module_whose_parts_are_all_sound_is_named_with_its_operator() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, image: Tensor) -> Tensor:
            return nn.functional.conv2d(self.second(self.first(image)), torch.ones(3, 3, 5, 5))

    told = told_by(Picky(), Deep(Outer()))
    assert re.search(rf"operator aten\.conv2d, module 'body\.1\.1\.1' \(Outer\), line {HERE}:\d+", told)


@pytest.mark.parametrize(
    ("words", "helps"),
    [
        ("aten.instance_norm Lowering not found", "InstanceNorm"),
        ("ConvTranspose2d output_padding", "interpolate"),
        ("aten.leaky_relu", "torch.maximum"),
        ("unsupported element type i64", "int32"),
        ("Constraints violated (height)", "x.shape[2]"),
        ("Could not guard on data-dependent expression", "torch.where"),
        ("nothing known", ""),
    ],
)
def test_remedies(words: str, helps: str) -> None:
    assert helps in remedy(words) and bool(helps) == bool(remedy(words))


class Returning(nn.Module):
    """Calls a module and gives a dictionary, for which it is exported in a wrapper of ours."""

    def __init__(self, culprit: nn.Module) -> None:
        super().__init__()
        self.inner = culprit

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"found": self.inner(image)}


@pytest.mark.parametrize(
    ("culprit", "format", "at"),
    [
        (Deciding(), "onnx", "module 'inner' (Deciding), line "),
        (Complex(), "onnx", "operator aten.linalg_eig, module 'inner' (Complex), line "),
        (Complex(), "tflite", ", module 'inner' (Complex), line "),
        (Random(), "onnx", "operator aten.rand_like, module 'inner' (Random), line "),
    ],
)
def test_wrappers_of_ours_are_not_shown(tmp_path: Path, culprit: nn.Module, format: str, at: str) -> None:
    """Around the user's network are then what names its outputs, and what normalises its image."""
    options = ExportOptions(formats=[format])
    asked = {"mean": [0.5] * 3, "std": [0.5] * 3}
    for module in (Returning(culprit), Normalized(Returning(culprit), **asked)):
        with pytest.raises(ExportError) as caught:
            edgekit.export(module, tmp_path / "b", [image()], options=options)
        told = str(caught.value)
        assert at in told and not re.search(r"Flat|Normalized|Alone|'module", told), told


def test_our_own_files_are_not_the_user_s() -> None:
    assert not is_own(diagnosis.__file__) and not is_own(onnx_.__file__) and not is_own(reading.__file__)
    assert is_own(__file__) and is_own("/home/me/exporters_of_mine/net.py")


def test_an_error_without_words_is_told_by_its_class() -> None:
    assert (
        first_line(ValueError("\n  \n two\nthree")) == "two" and first_line(KeyboardInterrupt()) == "KeyboardInterrupt"
    )
