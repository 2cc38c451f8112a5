"""`make run`: pictures, a table with every engine and precision, and a plain word on bad photos."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from click.testing import CliRunner

from edgekit.demos import upscale_photo
from edgekit.images import read_image, write_image


def test_writes_pictures_table_and_samples(tmp_path: Path, photo: np.ndarray) -> None:
    write_image(tmp_path / "mine.png", np.ascontiguousarray(photo[:101, :121]))
    done = CliRunner().invoke(upscale_photo.main, [str(tmp_path / "mine.png"), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    for engine in ("openvino", "onnxruntime", "litert"):
        for precision in ("fp32", "int8"):
            assert read_image(tmp_path / "out" / f"mine-{engine}-{precision}.png").shape == (28 + 200, 3 * 240, 3)
            assert engine in done.output and precision in done.output
    assert read_image(tmp_path / "out" / "mine-x2.png").shape == (202, 242, 3)
    assert "← auto" in done.output and "auto takes" in done.output
    rows = json.loads((tmp_path / "out" / "mine.json").read_text())["reports"][0]["rows"]
    assert len(rows) == 6 and all(not row["error"] for row in rows)


def test_says_what_is_wrong_with_a_photo(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("not a photo")
    for name, word in {"text.jpg": "not an image", "none.jpg": "no image file"}.items():
        done = CliRunner().invoke(upscale_photo.main, [str(tmp_path / name), "--out", str(tmp_path / "out")])
        assert done.exit_code == 2 and word in done.output.replace("\n", " ")
    assert not (tmp_path / "out").exists()
