"""External data: weights beside an .onnx file are read from its folder alone, as made by people and by attackers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.errors import BundleError, BundleNotFound, EdgekitError, EngineError, UnsafePath
from edgekit.opening import open_session, runtime
from edgekit.runtimes import external_data
from edgekit.runtimes.external_data import locations, require_inside
from edgekit.session import Model

WEIGHTS = np.arange(12, dtype=np.float32).reshape(3, 4)
ENGINES = ("onnxruntime", "openvino")


def tensor(location: str, name: str = "w") -> TensorProto:
    """A tensor whose values lie in a file."""
    made = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=WEIGHTS.shape)
    made.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(WEIGHTS.nbytes))):
        made.external_data.add(key=key, value=value)
    return made


def model(*initializers: TensorProto) -> onnx.ModelProto:
    """y = x · w."""
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [1, 3]), ("y", [1, 4]))]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def saved(folder: Path, location: str, weights: bool = True) -> Path:
    folder.mkdir(exist_ok=True)
    if weights:
        (folder / "w.bin").write_bytes(WEIGHTS.tobytes())
    (folder / "m.onnx").write_bytes(model(tensor(location)).SerializeToString())
    return folder / "m.onnx"


@pytest.mark.parametrize("engine", ENGINES)
def test_weights_beside_the_model_run(tmp_path: Path, engine: str) -> None:
    with open_session(saved(tmp_path, "w.bin"), engine) as session:
        (answer,) = session.run({"x": np.ones((1, 3), np.float32)}).values()
    np.testing.assert_array_equal(answer, WEIGHTS.sum(0, keepdims=True))


def test_weights_in_a_folder_beside_the_model(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    path = saved(tmp_path, "parts/w.bin")
    (tmp_path / "w.bin").rename(tmp_path / "parts" / "w.bin")
    assert require_inside(path) == [tmp_path / "parts" / "w.bin"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "location", ["/etc/passwd", "../w.bin", "a/../../w.bin", "C:\\w.bin", "..\\w.bin", "w.bin\0.txt", "", "./"]
)
def test_a_path_that_leaves_the_folder_is_refused_by_name(tmp_path: Path, engine: str, location: str) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHTS.tobytes())
    path = saved(tmp_path / "inner", location)
    with pytest.raises(BundleError, match="external data"):
        open_session(path, engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_links_are_refused(tmp_path: Path, engine: str) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "w.bin").write_bytes(WEIGHTS.tobytes())
    inner = tmp_path / "inner"
    file = saved(inner, "link.bin", weights=False)
    (inner / "link.bin").symlink_to(secret / "w.bin")
    with pytest.raises(UnsafePath, match="'link.bin', a link"):
        open_session(file, engine)
    file = saved(inner, "folder/w.bin", weights=False)
    (inner / "folder").symlink_to(secret)
    with pytest.raises(UnsafePath, match="'folder/w.bin', a link"):
        open_session(file, engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_not_there_or_no_file(tmp_path: Path, engine: str) -> None:
    for location in ("none.bin", "*/_ORT_MEM_ADDR_/*"):  # the second is ONNX Runtime's mark for an address in memory
        with pytest.raises(BundleNotFound, match="not there"):
            open_session(saved(tmp_path, location), engine)
    (tmp_path / "folder").mkdir()
    with pytest.raises(BundleNotFound, match="not there"):
        open_session(saved(tmp_path, "folder"), engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_bundle_lists_what_its_model_reads(tmp_path: Path, engine: str) -> None:
    path = saved(tmp_path, "w.bin")
    (tmp_path / "other.bin").write_bytes(b"")

    def opened(*files: str) -> None:
        made = Model(path, "onnx", "fp32", files=tuple(tmp_path / f for f in files))
        runtime(engine).open(made, "cpu", 1, runtime(engine).options()).close()

    opened("m.onnx", "w.bin")
    with pytest.raises(BundleError, match=r"'w\.bin', which the manifest does not list"):
        opened("m.onnx", "other.bin")


# Every place that a tensor can lie in


def _attribute(made: onnx.ModelProto, attribute: onnx.AttributeProto) -> None:
    made.graph.node[0].attribute.append(attribute)


def _sparse() -> onnx.SparseTensorProto:
    indices = numpy_helper.from_array(np.arange(3), "i")
    return onnx.SparseTensorProto(values=tensor("hidden.bin"), indices=indices, dims=[3, 4])


def _subgraph() -> onnx.GraphProto:
    return helper.make_graph([], "inner", [], [], [tensor("hidden.bin")])


def _function(made: onnx.ModelProto) -> None:
    node = helper.make_node("Constant", [], ["y"], value=tensor("hidden.bin"))
    made.functions.append(helper.make_function("own", "F", [], ["y"], [node], [helper.make_opsetid("", 20)]))


def _nested(made: onnx.ModelProto) -> None:
    inner = _subgraph()
    for _ in range(8):
        node = helper.make_node("If", ["c"], ["y"])
        node.attribute.append(helper.make_attribute("then_branch", inner))
        inner = helper.make_graph([node], "outer", [], [])
    _attribute(made, helper.make_attribute("then_branch", inner))


def _training(made: onnx.ModelProto) -> None:
    made.training_info.add().algorithm.CopyFrom(_subgraph())


PLACES: dict[str, Callable[[onnx.ModelProto], object]] = {
    "initializer": lambda m: m.graph.initializer.append(tensor("hidden.bin")),
    "sparse initializer": lambda m: m.graph.sparse_initializer.append(_sparse()),
    "attribute": lambda m: _attribute(m, helper.make_attribute("value", tensor("hidden.bin"))),
    "attributes": lambda m: _attribute(m, helper.make_attribute("values", [tensor("hidden.bin")])),
    "sparse attribute": lambda m: _attribute(m, helper.make_attribute("sparse_value", _sparse())),
    "subgraphs": lambda m: _attribute(m, helper.make_attribute("branches", [_subgraph()])),
    "subgraphs in subgraphs": _nested,
    "function": _function,
    "training": _training,
}


@pytest.mark.parametrize("place", PLACES)
def test_every_place_is_looked_at(tmp_path: Path, place: str) -> None:
    made = model(tensor("w.bin"))
    PLACES[place](made)
    (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
    assert sorted(locations(tmp_path / "m.onnx")) == ["hidden.bin", "w.bin"]


def test_a_message_in_two_parts_is_read_as_one(tmp_path: Path) -> None:
    """Protobuf merges a message that comes twice: both halves count."""
    plain, hidden = model(numpy_helper.from_array(WEIGHTS, "w")), onnx.ModelProto()
    hidden.graph.initializer.append(tensor("../hidden.bin"))
    (tmp_path / "m.onnx").write_bytes(plain.SerializeToString() + hidden.SerializeToString())
    assert locations(tmp_path / "m.onnx") == ["../hidden.bin"]


def test_a_path_given_twice_counts_twice(tmp_path: Path) -> None:
    made = tensor("w.bin").SerializeToString()
    entry = b"\x0a\x08location\x12\x05w.bin"
    assert entry in made
    twice = entry + b"\x12\x06../bad"
    made = made.replace(bytes([len(entry)]) + entry, bytes([len(twice)]) + twice)
    graph = b"\x2a" + _varint(len(made)) + made
    (tmp_path / "m.onnx").write_bytes(b"\x3a" + _varint(len(graph)) + graph)
    assert "../bad" in locations(tmp_path / "m.onnx")


# Damage and bombs


def _varint(number: int) -> bytes:
    parts = []
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def test_models_without_external_data_are_not_walked(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\xff" * 1000)
    assert locations(path) == []  # the engine says what is wrong


@pytest.mark.parametrize(
    "content",
    [
        b"\x3a\xff\xff\xff\xff\x0flocation",  # a graph longer than the file
        b"\x3a" + b"\xff" * 12 + b"location",  # a length that does not end
        b"\x3b\x0blocation",  # groups, which ONNX does not have
        b"location",
        b"\x3a\x0clocation",
    ],
)
def test_broken_messages_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(EngineError, match=r"'m\.onnx' is not a sound \.onnx file"):
        locations(tmp_path / "m.onnx")
    for engine in ENGINES:
        with pytest.raises(EdgekitError, match=r"m\.onnx"):
            open_session(tmp_path / "m.onnx", engine)


def test_messages_too_deep_or_too_many_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"\x3a\x00location"
    inner = b""
    for _ in range(200):  # graph → node → attribute → graph …
        for tag in (b"\x32", b"\x2a", b"\x0a"):
            inner = tag + _varint(len(inner)) + inner
    (tmp_path / "deep.onnx").write_bytes(b"\x3a" + _varint(len(inner)) + inner + b"\x12\x08location")
    with pytest.raises(EngineError, match="deep"):
        locations(tmp_path / "deep.onnx")
    monkeypatch.setattr(external_data, "MAX_FIELDS", 1000)
    (tmp_path / "many.onnx").write_bytes(b"\x08\x01" * 2000 + data)
    with pytest.raises(EngineError, match="more than 1000 fields"):
        locations(tmp_path / "many.onnx")


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"")
    for engine in ENGINES:
        with pytest.raises(EngineError, match="empty"):
            open_session(tmp_path / "m.onnx", engine)


def test_damaged_models_never_escape_as_other_errors(tmp_path: Path) -> None:
    data = saved(tmp_path, "w.bin").read_bytes()
    random = np.random.default_rng(0)
    for _ in range(300):
        bad = bytearray(data)
        for place in random.integers(0, len(bad), 3):
            bad[place] = random.integers(0, 256)
        (tmp_path / "m.onnx").write_bytes(bad[: random.integers(1, len(bad) + 1)])
        with contextlib.suppress(EdgekitError):
            require_inside(tmp_path / "m.onnx")


def test_large_models_are_searched_fast(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(
        model(numpy_helper.from_array(np.zeros(2**24, np.float32), "w")).SerializeToString()
    )
    start = time.perf_counter()
    assert locations(tmp_path / "m.onnx") == []
    assert time.perf_counter() - start < 2.0  # 64 MiB
