"""BucketSession: files of fixed sizes behave as one session that takes any of these sizes, and says which."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest
from sdk.doubles import INPUT, OUTPUT

from edgekit.buckets import BucketSession
from edgekit.bundle import Bundle, file_entry, staged, write
from edgekit.errors import DeviceUnavailable, SessionClosed, TensorError
from edgekit.manifest import Component, Manifest, Variant
from edgekit.opening import open_session
from edgekit.runtimes.reference import Function
from edgekit.session import Session

SIZES = [{"height": 4, "width": 6}, {"height": 8, "width": 6}]
ROWS = "height 4 × width 6; height 8 × width 6"


def image(height: int, width: int = 6) -> np.ndarray:
    return np.random.default_rng(height).random((1, height, width, 3), np.float32)


def written(folder: Path, sizes: list[dict[str, int]]) -> Bundle:
    """A bundle of one enlarging double for each size, channels last."""
    with staged(folder) as stage:
        variants = []
        for own in sizes:
            name = f"m{own['height']}.json"
            specs = [(s.bound(own).in_layout("NHWC"),) for s in (INPUT, OUTPUT)]
            (stage / name).write_bytes(msgspec.json.encode(Function(specs[0], specs[1], repeat=2)))
            files = (file_entry(stage, name),)
            variants.append(Variant("reference", "fp32", files, inputs=specs[0], outputs=specs[1], sizes=own))
        component = Component((INPUT,), (OUTPUT,), tuple(variants))
        write(stage, Manifest(name="double", components={"model": component}))
    return Bundle.open(folder)


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    with open_session(written(tmp_path / "double", SIZES), "reference") as session:
        yield session


def test_each_input_runs_in_the_file_of_its_size(session: Session) -> None:
    assert isinstance(session, BucketSession)
    assert session.inputs[0].shape == (1, "height", "width", 3) and session.inputs[0].layout == "NHWC"
    assert session.outputs[0].shape == (1, "2*height", "2*width", 3)
    for height in (8, 4, 8):
        assert session.run({"image": image(height)})["upscaled"].shape == (1, 2 * height, 12, 3)
        with session.borrow({"image": image(height)}) as outputs:
            assert outputs["upscaled"].shape == (1, 2 * height, 12, 3)
        assert session.submit({"image": image(height)}).result(10)["upscaled"].shape == (1, 2 * height, 12, 3)
    assert session.placement().runtime == "reference"
    assert session.placement().why == session.why


def test_another_size_lists_those_there_are(session: Session) -> None:
    with pytest.raises(TensorError, match=f"got inputs of height 5, width 6: this bundle has files of {ROWS}"):
        session.run({"image": image(5)})


@pytest.mark.parametrize(
    ("inputs", "word"),
    [
        ({}, "got the inputs"),
        ({"image": [1.0]}, "expected a NumPy array"),
        ({"image": image(4).astype(np.float64)}, "dtype float64"),
        ({"image": image(4)[0]}, "shape"),
        ({"other": image(4)}, "got the inputs"),
        ({"image": image(4) * np.float32("nan")}, "NaN"),
    ],
)
def test_wrong_inputs_are_refused_as_ever(session: Session, inputs: dict[str, object], word: str) -> None:
    with pytest.raises(TensorError, match=word):
        session.run(inputs)  # type: ignore[arg-type]


def test_files_open_when_they_are_needed_and_once(session: Session) -> None:
    assert isinstance(session, BucketSession)
    assert len(session._sessions) == 1
    with ThreadPoolExecutor(8) as pool:
        shapes = list(pool.map(lambda h: session.run({"image": image(h)})["upscaled"].shape[1], [4, 8] * 20))
    assert shapes == [8, 16] * 20 and len(session._sessions) == 2


def test_closing_closes_every_file(session: Session) -> None:
    assert isinstance(session, BucketSession)
    session.run({"image": image(8)})
    session.close()
    for height in (4, 8, 5):
        with pytest.raises(SessionClosed, match="open another"):
            session.run({"image": image(height)})
    with pytest.raises(SessionClosed):
        session.placement()


def test_sizes_open_one_file_whose_error_names_the_others(tmp_path: Path) -> None:
    bundle = written(tmp_path / "double", SIZES)
    with open_session(bundle, "reference", sizes=SIZES[1]) as session:
        assert not isinstance(session, BucketSession) and session.inputs[0].shape == (1, 8, 6, 3)
        with pytest.raises(TensorError, match="got shape .*the bundle has files of .*height 4 × width 6"):
            session.run({"image": image(4)})
        with pytest.raises(TensorError) as refused:
            session.run({"image": image(8).astype(np.float64)})
        assert "has files of" not in str(refused.value)
    with pytest.raises(DeviceUnavailable, match="no file for reference of the sizes"):
        open_session(bundle, "reference", sizes={"height": 7, "width": 6})


def test_one_size_is_said_too(tmp_path: Path) -> None:
    with open_session(written(tmp_path / "double", SIZES[:1]), "reference") as session:
        assert not isinstance(session, BucketSession)
        with pytest.raises(TensorError, match="the bundle has files of height 4 × width 6"):
            session.run({"image": image(8)})


def test_a_shipped_bundle_takes_its_sizes() -> None:
    variants = [v for v in Bundle.open("sr-x2").component().variants if v.format == "tflite" and v.precision == "int8"]
    with open_session("sr-x2", "litert", precision="int8", threads=1) as session:
        for sizes in (v.sizes for v in variants[:2]):
            x = np.zeros((1, sizes["height"], sizes["width"], 3), np.float32)
            (result,) = session.run({session.inputs[0].name: x}).values()
            assert result.shape == (1, 2 * sizes["height"], 2 * sizes["width"], 3)


def test_a_map_changes_files_with_the_sizes(session: Session) -> None:
    heights = [4, 4, 8, 8, 4]
    results = session.map({"image": image(height)} for height in heights)
    assert [result["upscaled"].shape[1] for result in results] == [2 * height for height in heights]
    with pytest.raises(TensorError, match=ROWS):
        for _ in session.map([{"image": image(4)}, {"image": image(5)}]):
            pass
