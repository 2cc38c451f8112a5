"""What the desktop program does without Qt: results, tiles, being stopped, and copies of large pictures."""

from __future__ import annotations

import numpy as np
import pytest

import edgekit
from edgekit.demos.desktop.making import Cancelled, Job, Maker, Wish, image_bundle, offered
from edgekit.demos.desktop.pictures import Part, Picture
from edgekit.errors import BundleNotFound, ImageError, InputError


def test_the_result_is_what_the_task_gives_and_the_model_stays_open(photo: np.ndarray) -> None:
    picture = Picture.of(photo)
    with Maker() as maker:
        made = maker.make(Job(picture, Wish("sr-x2", "onnxruntime", "int8")), lambda done, total: None)
        again = maker.make(Job(picture, Wish("sr-x2", "onnxruntime", "int8")), lambda done, total: None)
        other = maker.make(Job(picture, Wish("style-wave", "onnxruntime", "int8", 0.5)), lambda done, total: None)
    assert (made.first, again.first, other.first) == (True, False, True)
    assert (made.bundle, made.placement.runtime, made.placement.precision) == ("sr-x2", "onnxruntime", "int8")
    assert made.milliseconds > 0
    np.testing.assert_array_equal(made.picture.image, edgekit.load("sr-x2", "onnxruntime", precision="int8")(photo))
    half = edgekit.load("style-wave", "onnxruntime", precision="int8")(photo, 0.5)
    np.testing.assert_array_equal(other.picture.image, half)


def test_a_job_is_stopped_between_two_tiles(photo: np.ndarray) -> None:
    job = Job(Picture.of(np.tile(photo, (2, 3, 1))), Wish("sr-x2", "onnxruntime"))
    told: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        told.append((done, total))
        if done == 2:
            job.stop.set()

    with Maker() as maker, pytest.raises(Cancelled):
        maker.make(job, progress)
    total = told[0][1]
    assert total > 3 and told == [(0, total), (1, total), (2, total)]


def test_a_result_beyond_the_limit_is_refused_before_any_work() -> None:
    wide = Picture((np.zeros((1200, 30000, 3), np.uint8),))
    with Maker() as maker, pytest.raises(ImageError, match=r"120,000 × 4,800 \(576 megapixels\).*537.*smaller picture"):
        maker.make(Job(wide, Wish("sr-x4")), lambda done, total: pytest.fail("a tile was run"))


def test_bundles_that_turn_a_picture_into_another() -> None:
    found = offered()
    assert {"sr-x2", "sr-x4", "style-wave", "style-udnie"} <= set(found)
    assert found["sr-x2"] == "×2" and "Hokusai" in found["style-wave"]
    with pytest.raises(InputError, match="shakespeare-gpt has the task 'write'"):
        image_bundle("shakespeare-gpt")
    with pytest.raises(BundleNotFound):
        image_bundle("/nowhere")


def test_a_part_is_cut_from_the_copy_that_is_fine_enough() -> None:
    ramp = np.broadcast_to(np.linspace(0, 255, 4000).astype(np.uint8)[None, :, None], (3000, 4000, 3))
    picture = Picture.of(np.ascontiguousarray(ramp))
    assert [level.shape[:2] for level in picture.levels] == [(3000, 4000), (1500, 2000), (750, 1000)]
    whole, really = picture.cut(Part(0, 0, 1, 1), 900)
    assert whole.shape == (750, 1000, 3) and really == Part(0, 0, 1, 1)
    part, really = picture.cut(Part(0.5, 0.5, 0.6, 0.6), 400)
    assert part.shape[1] in (402, 403) and really.left <= 0.5 and really.right >= 0.6
    assert abs(int(part[0, 1, 0]) - 127) <= 2
