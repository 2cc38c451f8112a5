"""What `edgekit export` is told: every form of its options, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekit.cli import described
from edgekit.errors import InputError
from edgekit.images import write_image


def test_shapes_make_seeded_examples() -> None:
    told = described.inputs(["image=1x3xheightx32", "ids=1x4:int64"], [], ["ids:1=length"], [{"height": 48}])
    assert told.names == ("image", "ids")
    image, ids = told.arrays
    assert (image.shape, image.dtype, ids.shape, ids.dtype) == ((1, 3, 48, 32), np.float32, (1, 4), np.int64)
    assert told.dynamic == {"image": {2: "height"}, "ids": {1: "length"}}
    assert 0 <= image.min() < image.max() <= 1 and set(ids.ravel()) <= {0, 1}
    np.testing.assert_array_equal(image, described.inputs(["image=1x3x48x32"], [], [], []).arrays[0])


def test_nothing_said_is_nothing_known() -> None:
    assert described.inputs([], [], [], []) == described.Inputs((), (), {})


def test_examples_are_files(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", np.full((40, 50, 3), 255, np.uint8))
    np.save(tmp_path / "b.npy", np.arange(6, dtype=np.float32).reshape(1, 6))
    told = described.inputs(
        ["grey=1x1x16x16"],
        [f"image={tmp_path / 'a.png'}", f"code={tmp_path / 'b.npy'}", f"grey={tmp_path / 'a.png'}"],
        [],
        [],
    )
    shapes = dict(zip(told.names, (a.shape for a in told.arrays), strict=True))
    assert shapes == {"grey": (1, 1, 16, 16), "image": (1, 3, 40, 50), "code": (1, 6)}
    assert told.arrays[1].max() == 1.0
    with pytest.raises(InputError, match="picture .* for an input of"):
        described.inputs(["code=1x6"], [f"code={tmp_path / 'a.png'}"], [], [])
    (tmp_path / "c.npy").write_bytes(b"no array")
    with pytest.raises(InputError, match="is no array"):
        described.inputs([], [f"code={tmp_path / 'c.npy'}"], [], [])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2", 2),
        ("0.5", 0.5),
        ("true", True),
        ("null", None),
        ('["a", "b"]', ["a", "b"]),
        ("plain words", "plain words"),
    ],
)
def test_settings_are_json_or_text(text: str, value: object) -> None:
    assert described.value(text) == value


def test_settings_come_from_files(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\ndog\n\n")
    (tmp_path / "names.json").write_text('["cat", "dog"]')
    assert described.value(f"@{tmp_path}/names.txt") == described.value(f"@{tmp_path}/names.json") == ["cat", "dog"]
    with pytest.raises(InputError, match="cannot be read"):
        described.value(f"@{tmp_path}/none.txt")


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (described.shape, "image", "expected NAME=SHAPE"),
        (described.shape, "image=1x3:int9", "got the dtype int9"),
        (lambda t: described.free_axes([t]), "image:h=2", "expected NAME:AXIS=DIMENSION"),
        (lambda t: described.free_axes([t]), "2=height", "expected NAME:AXIS=DIMENSION"),
        (lambda t: described.inputs([], [], [t], []), "image:2=height", "name each input"),
        (described.bounds, "1,0", "expected LOW,HIGH"),
        (described.numbers, "1,a", "expected numbers"),
        (described.layout, "CHW", "expected NCHW or NHWC"),
        (lambda t: described.pairs([t], str), "scale", "expected NAME=VALUE"),
    ],
)
def test_what_cannot_be_read_is_refused(read, text: str, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=message):
        read(text)


@pytest.mark.parametrize(
    ("source", "name"),
    [("nets.py:build", "build"), ("my.nets:build", "build"), ("org/Small-1.7B", "Small-1.7B"), ("a b", "a-b")],
)
def test_a_bundle_is_named_after_its_source(source: str, name: str) -> None:
    assert described.bundle_name(source) == name


def test_a_bundle_never_takes_its_source_s_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny-lm").mkdir()
    (tmp_path / "net.onnx").touch()
    assert described.bundle_name("tiny-lm") == "tiny-lm-edge"
    assert described.bundle_name(str(tmp_path / "net.onnx")) == "net"


def test_drawn_values_lie_in_the_range_that_is_stated() -> None:
    image, ids = described.inputs(["image=1x3x8x8", "ids=1x4:int64"], [], [], [], {"image": (0.0, 255.0)}).arrays
    assert 200 < image.max() <= 255 and image.dtype == np.float32 and set(ids.ravel()) <= {0, 1}


def test_names_with_an_x_are_told_by_commas() -> None:
    assert described.shape("tokens=1,max_length")[1][0] == [1, "max_length"]
    for text in ("tokens=1xmax_length", "tokens=1xmax", "tokens=1xx2"):
        with pytest.raises(InputError, match="commas between the sizes"):
            described.shape(text)
