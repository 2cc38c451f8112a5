"""Programs: exported programs and .pt2 files become bundles; nothing in such a file is unpickled or run."""

from __future__ import annotations

import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import edgekit
from edgekit.errors import InputError
from edgekit.exporters import ExportOptions
from edgekit.exporters.readers import archives
from edgekit.exporters.readers.archives import Kind, kind_of, require_plain
from edgekit.exporters.readers.programs import ProgramReader, from_program, load
from edgekit.exporters.readers.reading import Asked, read
from edgekit.opening import open_session
from edgekit.verify import verify

ONNX = ExportOptions(formats=["onnx"])


class Gained(nn.Module):
    """Two images and a keyword argument → a dict of results; a buffer, one that is not saved, and a plain constant."""

    scale: Tensor
    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.register_buffer("scale", torch.tensor(2.0))
        self.register_buffer("shift", torch.ones(4, 1, 1), persistent=False)
        self.constant = torch.full((4, 1, 1), 3.0)

    def forward(self, image: Tensor, mask: Tensor, *, gain: Tensor) -> dict[str, Tensor]:
        y = self.conv(image) * self.scale * self.shift * mask + gain + self.constant
        return {"result": y, "mean": y.mean((2, 3))}


class Halved(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return nn.functional.pixel_shuffle(x, 2), x * 0.5


def gained(**dynamic: Any) -> torch.export.ExportedProgram:
    torch.manual_seed(0)
    height, width = (torch.export.Dim(n, min=2, max=64) for n in ("height", "width"))
    shapes = {"image": {2: height, 3: width}, "mask": {2: height, 3: width}, "gain": None}
    args = (torch.rand(1, 3, 6, 10), torch.rand(1, 1, 6, 10))
    return torch.export.export(Gained().eval(), args, {"gain": torch.tensor([0.5])}, dynamic_shapes=shapes)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("programs") / "gained.pt2"
    torch.export.save(gained(), path)
    return path


def rewritten(source: Path, target: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """A copy of a .pt2 file with its records changed, by name without the root folder."""
    with zipfile.ZipFile(source) as archive:
        root = archive.namelist()[0].partition("/")[0]
        records = {n.partition("/")[2]: archive.read(n) for n in archive.namelist()}
    change(records)
    writer = torch._C.PyTorchFileWriter(str(target))
    assert root
    for name, data in records.items():
        if name not in (".data/version", "version", ".data/serialization_id", "byteorder"):
            writer.write_record(name, data, len(data))
    writer.write_end_of_file()
    return target


def edited(source: Path, target: Path, change: Callable[[Any], object], record: str = "models/model.json") -> Path:
    def edit(records: dict[str, bytes]) -> None:
        content = json.loads(records[record])
        change(content)
        records[record] = json.dumps(content).encode()

    return rewritten(source, target, edit)


def test_a_file_becomes_a_bundle(saved: Path, tmp_path: Path) -> None:
    bundle = edgekit.export(saved, tmp_path / "b", options=ExportOptions(formats=["onnx", "openvino"]))
    component = bundle.component()
    assert [s.name for s in component.inputs] == ["image", "mask", "gain"]
    assert component.inputs[0].shape == (1, 3, "height", "width") and component.inputs[0].layout == "NCHW"
    assert component.inputs[2].shape == (1,)
    assert {s.name: s.shape for s in component.outputs} == {"result": (1, 4, "height", "width"), "mean": (1, 4)}
    assert all(v.parity is not None and v.parity.max_error < 1e-5 for v in component.variants)
    random = np.random.default_rng(0)
    values = [random.random(s, np.float32) for s in ((1, 3, 9, 12), (1, 1, 9, 12), (1,))]
    with torch.inference_mode():
        truth = torch.export.load(saved).module()(*map(torch.from_numpy, values[:2]), gain=torch.from_numpy(values[2]))
    for engine in ("onnxruntime", "openvino"):
        with open_session(bundle, engine) as session:
            answer = session.run(dict(zip(("image", "mask", "gain"), values, strict=True)))
        np.testing.assert_allclose(answer["result"], truth["result"].numpy(), atol=1e-5)
        np.testing.assert_allclose(answer["mean"], truth["mean"].numpy(), atol=1e-5)


def test_an_object_of_fixed_sizes(tmp_path: Path) -> None:
    program = torch.export.export(Halved(), (torch.rand(1, 4, 5, 6),))
    bundle = edgekit.export(program, tmp_path / "b", options=ONNX)
    assert bundle.component().inputs[0].shape == (1, 4, 5, 6)
    assert [s.name for s in bundle.component().outputs] == ["output0", "output1"]
    assert [s.shape for s in bundle.component().outputs] == [(1, 1, 10, 12), (1, 4, 5, 6)]


def test_free_dimensions_have_usual_names_or_those_asked_for(tmp_path: Path) -> None:
    sizes = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    program = torch.export.export(Halved(), (torch.rand(2, 4, 5, 6),), dynamic_shapes=(sizes,))
    source = from_program(program, Asked())
    assert source.inputs[0].shape == ("batch", 4, "height", "width")
    assert source.outputs[0].shape == ("batch", 1, "2*height", "2*width")
    named = from_program(program, Asked(names=["picture"], dynamic={"picture": {2: "rows"}}))
    assert named.inputs[0].name == "picture" and named.inputs[0].shape == ("batch", 4, "rows", "width")


def test_tokens_have_a_length_and_bounds() -> None:
    length = torch.export.Dim("length", min=2, max=32)
    net = nn.Embedding(50, 8)
    program = torch.export.export(net, (torch.zeros(1, 7, dtype=torch.int64),), dynamic_shapes=({1: length},))
    source = from_program(program, Asked())
    assert source.inputs[0].shape == (1, "length") and source.bounds == {"length": (2, 32)}
    assert source.outputs[0].shape == (1, "length", 8)


def test_the_caller_may_give_examples(saved: Path) -> None:
    arrays = [np.zeros(s, np.float32) for s in ((1, 3, 8, 8), (1, 1, 8, 8), (1,))]
    source = from_program(load(saved), Asked(example_inputs=arrays))
    assert source.probes[0][0].shape == (1, 3, 8, 8)
    for wrong, word in ((arrays[:2], "got 2 example inputs"), ([a.astype(np.float64) for a in arrays], "float64")):
        with pytest.raises(InputError, match=word):
            from_program(load(saved), Asked(example_inputs=wrong))
    with pytest.raises(InputError, match="shape"):
        from_program(load(saved), Asked(example_inputs=[arrays[0][:, :2], *arrays[1:]]))


def test_weights_beside_a_program_are_refused(saved: Path) -> None:
    with pytest.raises(InputError, match="got weights for .*brings its own; leave them out"):
        read(saved, Asked(weights=Path("w.pth")))


def test_a_mean_goes_before_the_only_image_of_a_program(saved: Path, tmp_path: Path) -> None:
    height = torch.export.Dim("height", min=2, max=64)
    program = torch.export.export(Halved(), (torch.rand(1, 4, 6, 8),), dynamic_shapes=({2: height},))
    mean, std = [0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8]
    options = ExportOptions(formats=["onnx"], mean=mean, std=std)
    bundle = edgekit.export(program, tmp_path / "b", options=options)
    assert bundle.component().inputs[0].shape == (1, 4, "height", 8)
    x = np.random.default_rng(0).random((1, 4, 10, 8), np.float32)
    plain = (x - np.reshape(mean, (1, 4, 1, 1))) / np.reshape(std, (1, 4, 1, 1))
    with open_session(bundle, "onnxruntime") as session:
        np.testing.assert_allclose(session.run({bundle.component().inputs[0].name: x})["output1"], plain / 2, atol=1e-5)
    with pytest.raises(InputError, match="expected one image of as many channels"):
        read(saved, Asked(mean=mean, std=std))
    with pytest.raises(InputError, match="give both"):
        read(program, Asked(mean=mean))


def test_training_mode_and_state_are_refused() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.seen.add_(1.0)
            return x + self.seen

    with pytest.raises(InputError, match="training mode"):
        from_program(torch.export.export(nn.Dropout(), (torch.rand(2, 3),)), Asked())
    with pytest.raises(InputError, match="training mode"):
        from_program(torch.export.export(nn.BatchNorm2d(3), (torch.rand(2, 3, 4, 4),)), Asked())
    with pytest.raises(InputError, match="changes its buffers seen"):
        from_program(torch.export.export(Counting(), (torch.rand(2, 3),)), Asked())


def test_a_program_without_examples_asks_for_them(saved: Path) -> None:
    program = load(saved)
    program.example_inputs = None
    with pytest.raises(InputError, match="no example inputs"):
        from_program(program, Asked())


def test_an_input_that_python_has_a_name_for(tmp_path: Path) -> None:
    """nn.Sequential calls its argument `input`, which PyTorch renames in one of its two graphs."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
    height = torch.export.Dim("height", min=4, max=64)
    program = torch.export.export(net.eval(), (torch.rand(1, 3, 16, 16),), dynamic_shapes=({2: height},))
    torch.export.save(program, tmp_path / "net.pt2")
    bundle = edgekit.export(tmp_path / "net.pt2", tmp_path / "b", options=ExportOptions(formats=["onnx", "openvino"]))
    assert bundle.component().inputs[0].shape == (1, 3, "height", 16)
    assert all(v.ok for v in verify(bundle))


def test_arguments_that_are_no_tensors_stay_as_they_are(tmp_path: Path) -> None:
    class Chosen(nn.Module):
        def forward(self, x: Tensor, factor: int, how: str, y: Tensor, z: Tensor | None = None) -> Tensor:
            return x * factor + y if how == "sum" and z is None else x

    program = torch.export.export(Chosen(), (torch.rand(2, 3), 3, "sum", torch.rand(2, 3), None))
    source = from_program(program, Asked())
    assert [s.name for s in source.inputs] == ["x", "y"]
    x, y = source.probes[0]
    np.testing.assert_allclose(source.run([x, y])[0], x * 3 + y, rtol=1e-6)
    assert edgekit.export(program, tmp_path / "b", options=ONNX).component().variants


def test_a_number_as_input_is_refused() -> None:
    class Powered(nn.Module):
        def forward(self, x: Tensor, n: int) -> Tensor:
            return x.reshape(n, -1)

    shapes = ({0: torch.export.Dim.AUTO}, torch.export.Dim.DYNAMIC)
    program = torch.export.export(Powered(), (torch.rand(6, 4), 3), dynamic_shapes=shapes)
    with pytest.raises(InputError, match="the number 'n'"):
        from_program(program, Asked())


# What else PyTorch writes


def test_what_files_are(saved: Path, tmp_path: Path) -> None:
    net = nn.Conv2d(1, 1, 1)
    torch.save(net.state_dict(), tmp_path / "state.pth")
    torch.save(net.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.save(net, tmp_path / "whole.pt")
    torch.save(net, tmp_path / "whole4.pt", pickle_protocol=4)
    torch.save(net, tmp_path / "whole-old.pt", _use_new_zipfile_serialization=False)
    torch.jit.save(torch.jit.trace(net, torch.rand(1, 1, 2, 2)), tmp_path / "script.pt")
    (tmp_path / "text.pt").write_text("hello")
    expected = {
        "state.pth": Kind.TENSORS,
        "old.pth": Kind.TENSORS,
        "whole.pt": Kind.OBJECTS,
        "whole4.pt": Kind.OBJECTS,
        "whole-old.pt": Kind.OBJECTS,
        "script.pt": Kind.SCRIPT,
        "text.pt": Kind.OTHER,
    }
    assert {name: kind_of(tmp_path / name) for name in expected} == expected
    assert kind_of(saved) is Kind.PROGRAM
    assert not ProgramReader().reads(tmp_path / "state.pth") and not ProgramReader().reads("package.module:factory")


def test_torchscript_gets_a_word_on_what_to_do(tmp_path: Path) -> None:
    scripted = torch.jit.trace(nn.Conv2d(1, 1, 1), torch.rand(1, 1, 2, 2))
    torch.jit.save(scripted, tmp_path / "script.pt")
    for source in (scripted, tmp_path / "script.pt", str(tmp_path / "script.pt")):
        with pytest.raises(InputError, match=r"TorchScript.*torch\.export\.save\(program, 'model\.pt2'\)"):
            edgekit.export(source, tmp_path / "b", options=ONNX)


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_whole_module_is_not_unpickled(tmp_path: Path, protocol: int) -> None:
    mark = tmp_path / "ran"
    torch.save(nn.Conv2d(1, 1, 1), tmp_path / "whole.pt", pickle_protocol=protocol)
    torch.save({"state": Evil(mark)}, tmp_path / "evil.pt", pickle_protocol=protocol)
    for name, word in (("whole.pt", "torch.nn.modules.conv.Conv2d"), ("evil.pt", "pathlib")):
        with pytest.raises(InputError, match=rf"pickled objects \(.*{word}.*state_dict\(\), 'weights\.pth'"):
            edgekit.export(tmp_path / name, tmp_path / "b", options=ONNX)
    assert not mark.exists()


@pytest.mark.parametrize("content", [b"", b"rubbish", b"PK\x03\x04rubbish"])
def test_rubbish_named_pt2(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pt2").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.pt2"):
        edgekit.export(tmp_path / "x.pt2", tmp_path / "b", options=ONNX)
    with pytest.raises(InputError, match="there is no file"):
        edgekit.export(tmp_path / "none.pt2", tmp_path / "b", options=ONNX)


def test_a_truncated_file(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "half.pt2").write_bytes(saved.read_bytes()[: saved.stat().st_size // 2])
    with pytest.raises(InputError, match="no readable .pt2 file"):
        load(tmp_path / "half.pt2")


# Hostile .pt2 files: each would run something in torch.export.load or when its graph is rebuilt


def test_an_untouched_copy_loads(saved: Path, tmp_path: Path) -> None:
    copy = edited(saved, tmp_path / "copy.pt2", lambda content: None)
    require_plain(copy)
    assert load(copy).graph_signature.user_inputs


@pytest.mark.parametrize(
    "part", ["data/weights/model_weights_config.json", "data/constants/model_constants_config.json"]
)
def test_a_pickled_weight_is_refused(saved: Path, tmp_path: Path, part: str) -> None:
    mark = tmp_path / "ran"

    def evil(records: dict[str, bytes]) -> None:
        buffer = io.BytesIO()
        torch.save(Evil(mark), buffer)
        config = json.loads(records[part])
        entry = next(iter(config["config"].values()))
        entry["use_pickle"] = True
        records[part.rpartition("/")[0] + "/" + entry["path_name"]] = buffer.getvalue()
        records[part] = json.dumps(config).encode()

    with pytest.raises(InputError, match="is a pickled object"):
        load(rewritten(saved, tmp_path / "evil.pt2", evil))
    assert not mark.exists()


def test_pickled_objects_as_constants_are_refused(saved: Path, tmp_path: Path) -> None:
    def evil(content: Any) -> None:
        next(iter(content["config"].values()))["path_name"] = "opaque_obj_0"

    path = edited(saved, tmp_path / "evil.pt2", evil, "data/constants/model_constants_config.json")
    with pytest.raises(InputError, match="is a pickled object"):
        load(path)


def test_pickled_example_inputs_are_refused(saved: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"

    def evil(records: dict[str, bytes]) -> None:
        buffer = io.BytesIO()
        torch.save(((Evil(mark),), {}), buffer)
        records["data/sample_inputs/model.pt"] = buffer.getvalue()

    with pytest.raises(InputError, match="example inputs are pickled objects"):
        load(rewritten(saved, tmp_path / "evil.pt2", evil))
    assert not mark.exists()


def test_compiled_code_and_several_models_are_refused(saved: Path, tmp_path: Path) -> None:
    for name, word in (("data/aotinductor/model/x.so", "compiled code"), ("models/other.json", "expected the one")):
        with pytest.raises(InputError, match=word):
            load(rewritten(saved, tmp_path / "evil.pt2", lambda records, n=name: records.update({n: b"{}"})))


CODE = "__import__('os').system('true')"


def _set(key: str, value: str) -> Callable[[Any], None]:
    """Set the first field of this name, anywhere."""

    def change(content: Any) -> None:
        pending = [content]
        while pending:
            part = pending.pop()
            if isinstance(part, dict):
                if key in part and isinstance(part[key], str):
                    part[key] = value
                    return
                pending += part.values()
            elif isinstance(part, list):
                pending += part
        raise AssertionError(f"no {key}")

    return change


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("expr_str", CODE),
        ("expr_str", "Symbol('s0').__class__"),
        ("expr_str", "lambdify([], 'x')"),
        ("name", "x=print(1)"),
        ("name", "x\nimport os"),
        ("target", "torch.os.system"),
        ("target", "torch.ops.load_library"),
        ("target", "torch.ops.aten.from_file.default"),
        ("target", "_operator.methodcaller"),
        ("target", "#evil:op"),
        ("parameter_name", 'a")+print(1)+("'),
        ("in_spec", '[1, {"type": "collections.defaultdict", "context": "null", "children_spec": []}]'),
        ("out_spec", '[1, {"type": "builtins.dict", "context": "[{\\"__enum__\\": true}]", "children_spec": []}]'),
    ],
)
def test_text_that_would_be_run_is_refused(saved: Path, tmp_path: Path, key: str, value: str) -> None:
    with pytest.raises(InputError, match="not loaded|an object of its own"):
        load(edited(saved, tmp_path / "evil.pt2", _set(key, value)))


def test_guards_from_the_file_are_never_run(saved: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    code = f"__import__('pathlib').Path({str(mark)!r}).touch() is None"
    path = edited(saved, tmp_path / "evil.pt2", lambda content: content.update(guards_code=[code]))
    source = from_program(load(path), Asked())
    source.run(source.probes[0])
    assert not mark.exists()


def test_an_object_of_its_own_at_the_border_is_refused(tmp_path: Path) -> None:
    from collections import namedtuple

    pair = namedtuple("pair", ["a", "b"])

    class Paired(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return pair(x + 1, x + 2)

    torch.utils._pytree._register_namedtuple(pair, serialized_type_name="tests.pair")
    torch.export.save(torch.export.export(Paired(), (torch.rand(2, 2),)), tmp_path / "x.pt2")
    with pytest.raises(InputError, match="tuples, lists and dicts"):
        load(tmp_path / "x.pt2")


def test_a_pickle_bomb_of_opcodes_is_read_as_opcodes(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps(Evil(tmp_path / "ran"), 4)[:-1])  # no STOP
    assert kind_of(tmp_path / "x.pt") is Kind.OBJECTS
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_a_program_becomes_tflite(saved: Path, tmp_path: Path) -> None:
    options = ExportOptions(buckets=[{"height": 8, "width": 16}])
    bundle = edgekit.export(saved, tmp_path / "b", options=options)
    assert [v.format for v in bundle.component().variants] == ["onnx", "openvino", "tflite"]
    assert all(v.ok for v in verify(bundle))


def repacked(source: Path, target: Path, change: Callable[[dict[str, bytes]], None], method: int) -> Path:
    """A copy that zipfile writes, its records changed, by their whole names."""
    with zipfile.ZipFile(source) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    change(records)
    with zipfile.ZipFile(target, "w", method) as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    return target


@pytest.mark.parametrize(
    ("method", "word"), [(zipfile.ZIP_DEFLATED, "compressed records"), (zipfile.ZIP_STORED, "as 'data/weights/model_w")]
)
def test_a_record_that_is_too_long_to_check_is_refused(
    saved: Path, tmp_path: Path, method: int, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "ran"
    monkeypatch.setattr(archives, "MAX_JSON_BYTES", 2**16)

    def evil(records: dict[str, bytes]) -> None:
        (name,) = [n for n in records if n.endswith("data/weights/model_weights_config.json")]
        config = json.loads(records[name])
        entry = next(iter(config["config"].values()))
        entry["use_pickle"] = True
        buffer = io.BytesIO()
        torch.save(Evil(mark), buffer)
        records[name.rpartition("/")[0] + "/" + entry["path_name"]] = buffer.getvalue()
        records[name] = json.dumps(config).encode() + b" " * (2**16 + 1)

    with pytest.raises(InputError, match=word):
        load(repacked(saved, tmp_path / "evil.pt2", evil, method))
    assert not mark.exists()


@pytest.mark.parametrize("upper", [False, True])
def test_two_records_of_one_name_are_refused(saved: Path, tmp_path: Path, upper: bool) -> None:
    path = repacked(saved, tmp_path / "evil.pt2", lambda records: None, zipfile.ZIP_STORED)
    with zipfile.ZipFile(path, "a") as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("models/model.json")]
        data = archive.read(name)
        with warnings.catch_warnings(action="ignore"):
            archive.writestr(name.replace("model.json", "Model.json") if upper else name, data)
    with pytest.raises(InputError, match="records of one name|holds the models"):
        load(path)


@pytest.mark.parametrize("content", [b"[]", b"{}", b'{"config": []}', b'{"config": {"weight": 1}}'])
def test_a_list_of_weights_that_is_none_is_refused(saved: Path, tmp_path: Path, content: bytes) -> None:
    record = "data/weights/model_weights_config.json"
    with pytest.raises(InputError, match="expected an object|how its tensors are kept"):
        load(rewritten(saved, tmp_path / "x.pt2", lambda records: records.update({record: content})))
