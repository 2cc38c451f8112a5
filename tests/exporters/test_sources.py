"""Sources: modules as people have them: named and optional inputs, dictionaries of outputs, sizes, weights files."""

from __future__ import annotations

import sys
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import edgekit
from edgekit.errors import ExportError, InputError
from edgekit.exporters import ExportOptions
from edgekit.exporters.sources import Source, filled, from_factory, from_module
from edgekit.opening import open_session
from edgekit.quantization import QuantizeOptions

FREE = {"image": {2: "height", 3: "width"}}
TOKENS = np.arange(6).reshape(2, 3)


def image(height: int = 16, width: int = 24) -> np.ndarray:
    return np.random.default_rng(1).random((1, 3, height, width), np.float32)


class Many(nn.Module):
    """Optional and keyword-only arguments; a dictionary with a scalar, a nested list, None and a number."""

    def forward(self, tokens: Tensor, mask: Tensor | None = None, *, scale: float = 2.0, extra: Any = None) -> Any:
        x = tokens.float() * scale
        if mask is not None:
            x = x * mask
        if extra is not None:
            x = x + extra
        return {"logits": x, "loss": x.sum(), "aux": [x - 1, {"positive": x > 0}], "none": None, "steps": 3}


@dataclass
class Boxes:
    scores: Tensor
    ids: Tensor


class Pair(NamedTuple):
    first: Tensor
    image: Tensor


def names(source: Source) -> tuple[list[str], list[str]]:
    return [s.name for s in source.inputs], [s.name for s in source.outputs]


def test_inputs_take_the_names_of_parameters() -> None:
    assert names(from_module(Many(), [TOKENS]))[0] == ["tokens"]
    mask = TOKENS > 2
    source = from_module(Many(), [TOKENS, mask])
    assert [(s.name, s.dtype) for s in source.inputs] == [("tokens", "int64"), ("mask", "bool")]
    assert names(from_module(nn.Conv2d(3, 4, 1), [image()]))[0] == ["image"]
    assert names(from_module(nn.Linear(3, 4), [image()[0, :, 0].T]))[0] == ["input"]


def test_keyword_only_arguments_are_reached_by_name() -> None:
    extra = np.ones((2, 3))
    for source in (
        from_module(Many(), {"tokens": TOKENS, "extra": extra}),
        from_module(Many(), [TOKENS, extra], names=["tokens", "extra"]),
    ):
        assert names(source)[0] == ["tokens", "extra"]
        np.testing.assert_array_equal(source.run(source.probes[0])[0], TOKENS * 2 + 1)


def test_nested_outputs_become_named_tensors() -> None:
    source = from_module(Many(), [TOKENS])
    assert [(s.name, s.dtype, s.shape) for s in source.outputs] == [
        ("logits", "float32", (2, 3)), ("loss", "float32", (1,)), ("aux0", "float32", (2, 3)),
        ("aux1_positive", "bool", (2, 3)),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda x: Boxes(x, x.argmax(1)), ["scores", "ids"]),
        (lambda x: Pair(x, x * 2), ["first", "image_out"]),
        (lambda x: OrderedDict(a=x, b=x * 2), ["a", "b"]),
        (lambda x: [x, (x * 2, x * 3)], ["output0", "output1_0", "output1_1"]),
        (lambda x: (x,), ["output"]),
    ],
)
def test_outputs_of_every_kind(make: Any, expected: list[str]) -> None:
    class Net(nn.Module):
        def forward(self, image: Tensor) -> Any:
            return make(image)

    assert names(from_module(Net(), [image()]))[1] == expected


def test_a_module_of_many_kinds_runs_in_every_engine(tmp_path: Path) -> None:
    """int64 and bool inputs, keyword-only floats, a dictionary with a scalar and truth values, free length."""
    free = {"tokens": {1: "length"}, "mask": {1: "length"}}
    inputs = {"tokens": TOKENS, "mask": TOKENS > 2}
    options = ExportOptions(buckets=[{"length": 3}])
    bundle = edgekit.export(Many().train(), tmp_path / "b", inputs, dynamic=free, options=options)
    assert bundle.component().outputs[0].shape == (2, "length")
    tflite = bundle.component().variants[2]
    assert [s.dtype for s in tflite.inputs] == ["int32", "bool"] and tflite.parity is not None
    for runtime in ("onnxruntime", "openvino", "litert"):
        with open_session(bundle, runtime, precision="fp32", sizes={"length": 3}) as session:
            feeds = {s.name: inputs[s.name].astype(s.dtype) for s in session.inputs}
            outputs = session.run(feeds)
        np.testing.assert_allclose(outputs["logits"], TOKENS * 2.0 * inputs["mask"])
        assert float(outputs["loss"].reshape(-1)[0]) == 24.0 and outputs["aux1_positive"].sum() == 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_converted_and_said(dtype: torch.dtype) -> None:
    net = nn.Conv2d(3, 4, 1).to(dtype).train()
    source = from_module(net, [torch.rand(1, 3, 4, 4, dtype=dtype)])
    assert source.inputs[0].dtype == source.outputs[0].dtype == "float32"
    assert source.notes == ("Conv2d was converted to float32, in which every comparison is made",)
    assert net.weight.dtype == dtype and not source.module.training
    assert source.run(source.probes[0])[0].dtype == np.float32


@pytest.mark.parametrize(
    ("net", "expected"),
    [
        (nn.Conv2d(3, 4, 3), ("height-2", "width-2")),
        (nn.ConvTranspose2d(3, 4, 4, 2), ("2*height+2", "2*width+2")),
        (nn.ConvTranspose2d(3, 4, 3, 2, 1), ("2*height-1", "2*width-1")),
        (nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 4, 1)), ("height/2", "width/2")),
        (nn.Conv2d(3, 4, 3, 2, 1), ("output_2", "output_3")),  # rounds: no rule for every size
        (nn.AdaptiveAvgPool2d(16), (16, 16)),  # as many as the height happens to be
        (nn.Upsample(scale_factor=2), ("2*height", "2*width")),
    ],
)
def test_sizes_of_outputs_follow_the_free_dimensions(net: nn.Module, expected: tuple[int | str, int | str]) -> None:
    assert from_module(net, [image()], dynamic=FREE).outputs[0].shape[2:] == expected


def test_a_size_of_two_dimensions_has_a_name_of_its_own() -> None:
    assert from_module(nn.Flatten(2), [image()], dynamic=FREE).outputs[0].shape == (1, 3, "output_2")


def test_a_size_that_follows_the_values_has_a_name_of_its_own() -> None:
    class Positive(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x[:, 0][x[:, 0] > 0.5], x + 1

    first, second = from_module(Positive(), [np.random.default_rng(0).random((9, 7), np.float32)]).outputs
    assert first.shape == ("output0_0",) and second.shape == (9, 7)


def test_tflite_states_every_size(tmp_path: Path) -> None:
    options = ExportOptions(formats=("tflite",), buckets=[{"height": 8, "width": 12}])
    made = edgekit.export(nn.Flatten(2), tmp_path / "net", [image()], dynamic=FREE, options=options)
    assert made.component().outputs[0].shape == (1, 3, "output_2")
    with open_session(made, "litert") as session:
        assert session.outputs[0].shape == (1, 3, 96)


def test_examples_may_be_views_and_want_gradients() -> None:
    example = torch.rand(1, 4, 6, 3, requires_grad=True).permute(0, 3, 1, 2)
    source = from_module(nn.Conv2d(3, 4, 1), [example])
    assert source.probes[0][0].flags.c_contiguous and source.inputs[0].shape == (1, 3, 4, 6)


def test_refuses_what_is_no_example() -> None:
    with pytest.raises(InputError, match="example input 1 is float: .*keep their defaults"):
        from_module(Many(), [TOKENS, 3.0])
    with pytest.raises(InputError, match="got 2 example inputs for Conv2d, whose forward takes input"):
        from_module(nn.Conv2d(3, 4, 1), [image(), image()])
    with pytest.raises(InputError, match="no example inputs.*--input"):
        from_module(Many(), [])


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"params": {}, "params_ema": state},
        lambda state: {"generator": {f"module.{k}": v for k, v in state.items()}},
        lambda state: {"model": {f"_orig_mod.{k}": v for k, v in state.items()}},
        lambda state: {k.removeprefix("model."): v for k, v in state.items()},
    ],
)
def test_weights_from_under_what_training_wraps_around_them(tmp_path: Path, wrapped: Any) -> None:
    trained, fresh = Net(), Net()
    torch.save(wrapped(trained.state_dict()), tmp_path / "w.pth")
    filled(fresh, tmp_path / "w.pth")
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), fresh.parameters(), strict=True))


def test_weights_that_do_not_fit_are_listed_shortly(tmp_path: Path) -> None:
    state = {f"other.{i}": torch.zeros(1) for i in range(5)} | {"model.0.weight": torch.zeros(4, 3, 2, 2)}
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(InputError) as caught:
        filled(Net(), tmp_path / "w.pth")
    told = str(caught.value)
    assert "missing: model.0.bias, model.1.weight, model.1.bias and 2 more" in told
    assert "unexpected: other.0, other.1, other.2 and 2 more" in told
    assert "model.0.weight is (4, 3, 2, 2), not (4, 3, 1, 1)" in told


def test_a_pickled_module_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("import torch\ndef build():\n    return torch.nn.Conv2d(3, 4, 1)\n")
    torch.save(nn.Conv2d(3, 4, 1), tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"w\.pth.*nothing is unpickled.*state_dict\(\)"):
        from_factory(f"{tmp_path / 'net.py'}:build", tmp_path / "w.pth")


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: state,
        lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}},
        lambda state: {k.removeprefix("model."): v for k, v in state.items()},
        lambda state: {k.removeprefix("model.net."): v for k, v in state.items()},
    ],
)
def test_prefixes_that_are_the_module_s_own_stay(tmp_path: Path, wrapped: Any) -> None:
    """A "model.net." may be what training put there, or names of the network."""

    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.ModuleDict({"net": nn.Sequential(nn.Conv2d(3, 4, 1))})

    trained, fresh = Nested(), Nested()
    if list(wrapped(trained.state_dict())) == ["0.weight", "0.bias"]:
        trained, fresh = trained.model, fresh.model  # one prefix is put back, not two
    torch.save(wrapped(trained.state_dict()), tmp_path / "w.pth")
    filled(fresh, tmp_path / "w.pth")
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), fresh.parameters(), strict=True))


FACTORY = """
from __future__ import annotations
from dataclasses import dataclass
import torch
from torch import nn
import beside_{stem}

@dataclass
class Settings:
    channels: int = 4

class Net(nn.Sequential):
    pass

def build():
    import later_{stem}
    return Net(nn.Conv2d(3, Settings().channels, later_{stem}.KERNEL + beside_{stem}.MORE))

def needs(path):
    return nn.Conv2d(3, path, 1)

def broken():
    return nn.Conv2d(3, 4, 1).no_such_thing

CONSTANT = 3
"""


def factory(folder: Path, stem: str = "net_of_mine") -> Path:
    (folder / f"beside_{stem}.py").write_text("MORE = 0\n")
    (folder / f"later_{stem}.py").write_text("KERNEL = 1\n")
    (folder / f"{stem}.py").write_text(FACTORY.format(stem=stem))
    return folder / f"{stem}.py"


def test_a_file_is_imported_as_python_itself_would(tmp_path: Path) -> None:
    """Dataclasses under postponed annotations, imports of what lies beside it, and those inside the factory."""
    path = list(sys.path)
    assert isinstance(from_factory(f"{factory(tmp_path)}:build"), nn.Sequential)
    assert sys.path == path and sys.modules["net_of_mine"].CONSTANT == 3


def test_a_file_named_as_a_library_leaves_the_library_alone(tmp_path: Path) -> None:
    assert from_factory(f"{factory(tmp_path, 'dataclasses')}:build") is not None
    assert sys.modules["dataclasses"].__name__ == "dataclasses" and not hasattr(sys.modules["dataclasses"], "Net")


def test_what_is_not_there_is_told_with_what_is(tmp_path: Path) -> None:
    file = factory(tmp_path)
    with pytest.raises(InputError, match=r"cannot find '.*:buidl': it has Settings, Net, build, needs, broken; expect"):
        from_factory(f"{file}:buidl")
    with pytest.raises(InputError, match=r"cannot find '.*none\.py:build': no file '.*none\.py'"):
        from_factory(f"{tmp_path / 'none.py'}:build")
    for place in ("no_such_package.models", "torch.no_such_module", ""):
        with pytest.raises(InputError, match=rf"cannot find '{place}:build': .*; expected package\.module:factory"):
            from_factory(f"{place}:build")


def test_errors_of_the_factory_are_its_own(tmp_path: Path) -> None:
    file = factory(tmp_path)
    with pytest.raises(InputError, match=r"needs' raised TypeError: needs\(\) missing 1 .*called without arguments"):
        from_factory(f"{file}:needs")
    with pytest.raises(InputError, match=r"broken' raised AttributeError: .*no_such_thing.* \(line .*mine\.py:23\)"):
        from_factory(f"{file}:broken")
    (tmp_path / "lacking.py").write_text("import no_such_library\n")
    with pytest.raises(InputError, match=r"raised ModuleNotFoundError: No module named 'no_such_library' .*py:1\)$"):
        from_factory(f"{tmp_path / 'lacking.py'}:build")
    assert "lacking" not in sys.modules


def test_names_beside_those_of_parameters_are_refused_where_they_would_move() -> None:
    class Less(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a - 2 * b

    both = [np.ones((1, 4), np.float32), np.zeros((1, 4), np.float32)]
    assert from_module(Less(), both, ["b", "a"]).run(both)[0][0, 0] == -2
    assert (
        from_module(Less(), both, ["x", "y"]).run(both)[0][0, 0]
        == from_module(Less(), both, ["a", "y"]).run(both)[0][0, 0]
        == 1
    )
    with pytest.raises(InputError, match="whose forward takes a, b: 'a' would be given as 'b'"):
        from_module(Less(), both, ["x", "a"])


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_a_free_batch_may_have_one_in_the_example(format: str, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    options = ExportOptions(formats=(format,))
    made = edgekit.export(net, tmp_path / "net", [image()], dynamic={"image": {0: "batch"}}, options=options)
    with open_session(made, format if format == "openvino" else "onnxruntime") as session:
        for count in (1, 3):
            x = np.concatenate([image()] * count)
            truth = net(torch.from_numpy(x)).detach().numpy()
            np.testing.assert_allclose(session.run({"image": x})["output"], truth, atol=1e-5)


class Placed(nn.Module):
    """A table of places, as position embeddings are, bounds a length."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, 32, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table[:, : x.shape[1]]


def test_bounds_that_a_network_has_of_itself_are_taken(tmp_path: Path) -> None:
    net, x, told = Placed(), np.ones((1, 5, 8), np.float32), list[str]()
    options = ExportOptions(formats=("onnx",), progress=told.append)
    made = edgekit.export(net, tmp_path / "net", [x], dynamic={"x": {1: "length"}}, options=options)
    assert any("length is at most 32 in this network" in line for line in told)
    with open_session(made, "onnxruntime") as session:
        assert session.run({"x": np.ones((1, 32, 8), np.float32)})["output"].shape == (1, 32, 8)


class Spotter(nn.Module):
    """Steps of sound, forwards and backwards."""

    def __init__(self, kind: type[nn.RNNBase], reshaped: bool = False) -> None:
        super().__init__()
        self.steps = kind(6, 8, batch_first=True, bidirectional=True)
        self.head = nn.Linear(16, 3)
        self.reshaped = reshaped

    def forward(self, frames: Tensor) -> Tensor:
        steps: Tensor = self.steps(frames)[0]
        if self.reshaped:  # into as many steps as there were in the example
            steps = steps + torch.zeros(frames.shape[1], 1)[: int(frames.shape[1])]
        return self.head(steps.mean(1))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers_take_any_number_of_steps(kind: type[nn.RNNBase], tmp_path: Path) -> None:
    net, frames = Spotter(kind), np.random.default_rng(0).random((1, 12, 6), np.float32)
    free, options = {"frames": {0: "batch", 1: "time"}}, ExportOptions(formats=("onnx", "openvino"))
    made = edgekit.export(net, tmp_path / "net", [frames], dynamic=free, options=options)
    for engine in ("onnxruntime", "openvino"):
        with open_session(made, engine) as session:
            for count, steps in ((1, 1), (3, 7), (2, 40)):
                x = np.random.default_rng(1).random((count, steps, 6), np.float32)
                truth = net.eval()(torch.from_numpy(x)).detach().numpy()
                np.testing.assert_allclose(session.run({"frames": x})["output"], truth, atol=1e-5)


def test_steps_that_a_network_makes_a_constant_of_are_refused(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).random((1, 12, 6), np.float32)
    options = ExportOptions(formats=("onnx",))
    with pytest.raises(ExportError, match=r"time 13: .*PyTorch traces time as a constant: fix it"):
        edgekit.export(
            Spotter(nn.LSTM, True), tmp_path / "net", [frames], dynamic={"frames": {1: "time"}}, options=options
        )


def test_bounds_may_be_given(tmp_path: Path) -> None:
    x = np.ones((1, 5, 8), np.float32)
    length = torch.export.Dim("length", min=4, max=32)
    source = from_module(Placed(), [x], dynamic={"x": {1: length}})
    assert source.inputs[0].shape == (1, "length", 8) and source.bounds == {"length": (4, 32)}
    for given in (7, "2 lengths", 2 * length, torch.export.Dim.AUTO):
        with pytest.raises(InputError, match=r"axis 1 of 'x': expected the name of a free dimension"):
            from_module(Placed(), [x], dynamic={"x": {1: given}})


def test_a_module_trains_on_as_it_did(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5)).train()
    net[1].eval()
    edgekit.export(net, tmp_path / "net", [image()], options=ExportOptions(formats=("onnx",)))
    assert [m.training for m in net.modules()] == [True, True, False, True]
    edgekit.quantize(tmp_path / "net", [(image(),)], source=net, options=QuantizeOptions(time_it=False))
    assert [m.training for m in net.modules()] == [True, True, False, True]


def test_a_single_array_is_the_example_of_a_single_input() -> None:
    assert from_module(nn.Conv2d(3, 4, 1), image()).inputs[0].shape == (1, 3, 16, 24)


def test_what_is_no_source_is_told_what_is_missing(tmp_path: Path) -> None:
    class Keywords(nn.Module):
        def forward(self, **given: Tensor) -> Tensor:
            return given["x"]

    class Doubles(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.double())

    with pytest.raises(InputError, match="takes no tensor by a name of its own: give forward a parameter for each"):
        from_module(Keywords(), [TOKENS])
    with pytest.raises(InputError, match="does not run on inputs .*; Doubles was converted to float32"):
        from_module(Doubles(), [np.ones((1, 3), np.float32)])
    with pytest.raises(InputError, match="the output 'output' is torch.complex64, .* torch.view_as_real"):
        from_module(Spectrum(), [np.ones((1, 8), np.float32)])
    with pytest.raises(InputError, match="got a state dict of 2 tensors: pass the module that they fill"):
        edgekit.export(nn.Linear(3, 2).state_dict(), tmp_path / "net", [np.ones((1, 3), np.float32)])


class Spectrum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.rfft(x)


def test_an_axis_that_is_not_there_cannot_be_free() -> None:
    for axis in (7, -1):
        with pytest.raises(InputError, match=rf"axis {axis} of 'image', whose shape is \(1, 3, 16, 24\)"):
            from_module(nn.Conv2d(3, 4, 1), [image()], dynamic={"image": {axis: "width"}})
