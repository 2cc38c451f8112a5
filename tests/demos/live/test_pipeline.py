"""The pipeline end to end on real models, its controller, smoothing, figures and recorder."""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from demos.live.doubles import Camera, Plug, until

from edgekit.demos.live import figures as figures_module
from edgekit.demos.live import report
from edgekit.demos.live.capture import Pace
from edgekit.demos.live.controller import LADDER, MOST_SKIPPED, Controller
from edgekit.demos.live.effects import Effect, Wish, choices
from edgekit.demos.live.figures import Figures, summary
from edgekit.demos.live.frames import Frame, Shown
from edgekit.demos.live.pipeline import Pipeline, Setup
from edgekit.demos.live.recorder import Recorder, snapshot
from edgekit.demos.live.slots import now
from edgekit.demos.live.smoothing import LEAST, Smoother
from edgekit.demos.live.sources import Wanted, opener
from edgekit.demos.live.stamps import read_stamp
from edgekit.errors import BundleNotFound, EngineError, InputError
from edgekit.images import UInt8, read_image
from edgekit.video import VideoReader

SMALL = Wanted((96, 128), 100.0)
RUN = {"runtime": "onnxruntime", "precision": "int8", "threads": 1}


def test_every_effect(photo: UInt8) -> None:
    image = np.ascontiguousarray(photo[:96, :128])
    made = {}
    for name, (height, width) in {
        "style-wave": (96, 128),
        "sr-x2": (192, 256),
        "both": (192, 256),
        "compare": (96, 256),
    }.items():
        with Effect.opened(Wish.named(name, **RUN)) as effect:
            done = effect(image, 1.0)
            assert done.image.shape == (height, width, 3) and done.model_ms is not None and done.working == (96, 128)
            smaller = effect(image, 0.5)
            assert smaller.image.shape == (height, width, 3) and smaller.working == (48, 64)
            assert all(
                place["engine"] == "onnxruntime" and place["precision"] == "int8" for place in effect.placements()
            )
            made[name] = done.image
    assert (made["compare"][:, :128] == image).all() and (made["compare"][:, 128:] == made["style-wave"]).all()
    with Effect.opened(Wish(effect="none", mirror=True)) as effect:
        done = effect(image, 0.5)
        assert (done.image == image[:, ::-1]).all() and done.model_ms is None


def test_the_seam_parts_before_and_after(photo: UInt8) -> None:
    image = np.ascontiguousarray(photo[:96, :128])
    wish = Wish.named("style-wave", **RUN)
    with Effect.opened(wish) as effect:
        painted = effect(image, 1.0).image
        effect.changed(replace(wish, split=0.25))
        parted = effect(image, 1.0).image
    assert (parted[:, :31] == image[:, :31]).all() and (parted[:, 31:33] == 255).all()
    assert (parted[:, 33:] == painted[:, 33:]).all()


def test_what_is_no_effect() -> None:
    with pytest.raises(InputError, match="of task 'generate'"):
        Wish.named("digits-gan")
    with pytest.raises(BundleNotFound):
        Wish.named("no-such")
    assert "style-wave" in choices()["stylize"] and "sr-x2" in choices()["upscale"]


def test_a_whole_frame_is_one_tile() -> None:
    """640 × 480 with its border is more than the tile that photos are cut into: two tiles cost three times as much."""
    with Effect.opened(Wish.named("style-wave", **RUN)) as effect:
        assert effect._tasks[0].tile_count(np.zeros((480, 640, 3), np.uint8)) == 1


def test_on_demand_no_frame_is_lost_and_ages_stay_low() -> None:
    with Pipeline(opener("synthetic", SMALL), Wish.named("style-wave", **RUN), Setup(Pace(demand=True))) as pipeline:
        pipeline.start()
        frames = shown(pipeline, 20)
        assert [frame.source.number for frame in frames] == list(range(20)) and pipeline.dropped == 0
        values = report.report(pipeline)
    assert (
        values["engine"] == "onnxruntime" and values["precision"] == "int8" and values["size"]["working"] == [128, 96]
    )
    period = 1000 / values["fps"]
    assert values["age_ms"]["p50"] < 3.5 * period  # two frames and the model's time, on a busy machine
    assert 0 <= values["overhead_share"] < 2 and values["model_ms"] > 0


def test_a_slow_view_sees_the_latest() -> None:
    """The source gives 100 frames a second, the view takes ten: what it sees is new, and what it missed is counted."""
    with Pipeline(opener("synthetic", SMALL), Wish(effect="none")) as pipeline:
        pipeline.start()
        seen, ages, numbers = 0, [], []
        for _ in range(8):
            taken = pipeline.output.take(seen, 5.0)
            assert taken is not None
            seen = taken.number
            ages.append(now() - taken.item.source.captured)
            numbers.append(read_stamp(taken.item.image))
            time.sleep(0.1)
    assert sorted(ages)[4] < 0.05 and pipeline.dropped > 20
    assert numbers == sorted(numbers) and None not in numbers  # type: ignore[type-var]


def test_other_models_take_over_between_two_frames() -> None:
    with Pipeline(opener("synthetic", SMALL), Wish.named("style-wave", **RUN)) as pipeline:
        pipeline.start()
        shown(pipeline, 3)
        pipeline.wish(effect="upscale", mirror=True)
        assert until(lambda: pipeline.wished.effect == "upscale", 20)
        assert until(lambda: pipeline.shown_size == (192, 256)) and pipeline.placements[0]["bundle"] == "sr-x2"
        pipeline.wish(split=0.5)  # no model is opened for it
        assert until(lambda: pipeline.wished.split == 0.5)
        pipeline.wish(runtime="torch", precision="int8")
        assert until(lambda: bool(pipeline.notice) and not pipeline.notice.endswith("…"), 20)
        assert pipeline.wished.runtime == "onnxruntime" and pipeline.wanted == pipeline.wished  # it goes on as it was
        assert shown(pipeline, 2)


def test_a_dead_camera_ends_the_run_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.demos.live.capture.BACKOFF_S", (0.02,))
    with Pipeline(Plug(Camera(lasts=3)), Wish(effect="none"), Setup(Pace(patience=0.1))) as pipeline:
        pipeline.start()
        assert until(lambda: pipeline.over) and "unplugged" in str(pipeline.error)


def test_a_failing_model_ends_the_run_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise EngineError("the engine broke")

    monkeypatch.setattr(Effect, "__call__", fail)
    with Pipeline(opener("synthetic", SMALL), Wish(effect="none")) as pipeline:
        pipeline.start()
        assert until(lambda: pipeline.over) and "the engine broke" in str(pipeline.error)


def test_nothing_is_left_running() -> None:
    before = threading.active_count()
    for _ in range(3):
        with Pipeline(opener("synthetic", SMALL), Wish(effect="none"), Setup(seconds=0.1)) as pipeline:
            pipeline.start()
            assert until(lambda pipeline=pipeline: pipeline.over)  # type: ignore[misc]
    assert until(lambda: threading.active_count() == before)


# --- controller -----------------------------------------------------------------------------------------------------


def run_controller(controller: Controller, full_cost_s: float, seconds: float, start: float = 0.0) -> None:
    """A machine on which a frame of the full size costs so much, and a smaller one less in proportion."""
    at = start
    while at < start + seconds:
        cost = full_cost_s * controller.scale**2
        at += max(cost, 1 / 30) * controller.every
        controller.observe(cost, at)


def test_the_size_that_fits_is_taken_at_once_and_kept() -> None:
    controller = Controller(24.0)
    run_controller(controller, 0.060, 60)
    assert controller.scale == 0.75 and controller.every == 1  # 0.060 · 0.75² = 34 ms of 42
    assert len(controller.actions) == 1 and "75%" in controller.actions[0].what and controller.actions[0].at_s < 2


def test_it_returns_where_there_is_room_and_does_not_swing() -> None:
    controller = Controller(24.0)
    run_controller(controller, 0.080, 10)
    assert controller.scale < 0.75
    run_controller(controller, 0.010, 60, 10)
    assert controller.scale == 1.0
    taken = len(controller.actions)
    run_controller(controller, 0.041, 60, 70)
    assert len(controller.actions) == taken


def test_frames_are_skipped_below_the_smallest_size() -> None:
    controller = Controller(24.0)
    run_controller(controller, 0.5, 20)
    assert controller.scale == LADDER[-1] and 1 < controller.every <= MOST_SKIPPED
    assert controller.stride(30.0) == controller.every and Controller(24.0).stride(60.0) == 2
    assert "every 2nd frame" in controller.actions[1].what
    hopeless = Controller(24.0)
    run_controller(hopeless, 50.0, 2000)
    assert hopeless.every == MOST_SKIPPED


def test_a_step_that_proves_wrong_is_tried_ever_more_seldom() -> None:
    """Up looks possible by the sums, and never is: the time between two attempts doubles."""
    controller = Controller(24.0)
    at = 0.0
    while at < 300:
        at += 1 / 24
        controller.observe(0.030 if controller.scale <= 0.75 else 0.050, at)
    raised = [a.at_s for a in controller.actions if "room" in a.what]
    gaps = [b - a for a, b in itertools.pairwise(raised)]
    assert len(raised) < 12 and gaps == sorted(gaps)


def test_no_target_leaves_everything_as_it_is() -> None:
    controller = Controller(0.0)
    run_controller(controller, 1.0, 20)
    assert controller.scale == 1.0 and controller.stride(120.0) == 1 and not controller.actions


# --- smoothing ------------------------------------------------------------------------------------------------------


def test_still_scenes_stand_still_and_motion_does_not_smear(photo: UInt8) -> None:
    rng = np.random.default_rng(0)
    smooth = Smoother()
    painted, shown_ = [], []
    for _ in range(12):
        noisy = np.clip(photo[:96, :128] + rng.normal(0, 3, (96, 128, 3)), 0, 255).astype(np.uint8)
        flickering = np.clip(photo[:96, :128] + rng.normal(0, 20, (96, 128, 3)), 0, 255).astype(np.uint8)
        painted.append(flickering)
        shown_.append(smooth(noisy, flickering.copy()))
    assert change(shown_[6:]) < 0.35 * change(painted[6:])
    other = np.ascontiguousarray(photo[200:296, 200:328])  # a cut to another scene: shown as it is
    assert np.abs(smooth(other, other.copy()).astype(int) - other).mean() < 8
    assert (smooth(other[:48], other[:48]) == other[:48]).all()  # another size begins anew
    assert 0 < LEAST < 1


def test_a_slow_change_comes_through() -> None:
    smooth = Smoother()
    for level in np.linspace(50, 150, 100):
        image = np.full((48, 64, 3), round(level), np.uint8)
        result = smooth(image, image)
    assert abs(int(result[20, 20, 0]) - 150) < 12


def change(frames: list[UInt8]) -> float:
    return float(np.mean([np.abs(a.astype(int) - b).mean() for a, b in itertools.pairwise(frames)]))


# --- figures and files ----------------------------------------------------------------------------------------------


def test_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = np.array([(i / 20, 10.0 + i, 30.0, 33.0) for i in range(21)])
    values = summary(samples)
    assert values["fps"] == 20 and values["age_ms"] == {"p50": 20.0, "p95": 29.0}
    assert values["model_ms"] == 30 and values["overhead_share"] == pytest.approx(0.1)
    samples[:, 2] = np.nan  # no model
    assert summary(samples)["model_ms"] is None and summary(samples)["overhead_share"] is None
    assert summary(samples[:0])["fps"] == 0
    monkeypatch.setattr(figures_module, "KEPT", 10)
    figures = Figures()
    frame = one(np.zeros((4, 4, 3), np.uint8))
    for at in range(32):  # more than are kept: the latest count
        figures.shown(frame, frame.source.captured + at)
    assert figures.frames == 32 and figures.whole()["age_ms"] == {"p50": 26_000.0, "p95": 31_000.0}
    assert figures.whole()["fps"] == 1
    figures.forget()
    assert figures.whole()["age_ms"]["p50"] is None
    figures.shown(frame)
    assert figures.recent()["fps"] == 0


def test_a_recording_runs_at_an_even_rate(tmp_path: Path) -> None:
    grey = np.full((48, 64, 3), 90, np.uint8)
    with Recorder(tmp_path / "out.mp4", 25.0) as recorder:
        for at in (0.0, 0.04, 0.2, 0.21, 100.0):  # late, early, and after a pause that is cut out
            recorder.add(one(grey, at))
        recorder.add(one(np.full((96, 128, 3), 90, np.uint8), 100.04))  # another effect
    with VideoReader(tmp_path / "out.mp4") as reader:
        assert len(list(reader)) == recorder.frames == 8
    path = snapshot(one(grey), tmp_path)
    assert read_image(path).shape == (48, 64, 3) and snapshot(one(grey), tmp_path) != path


def one(image: UInt8, at: float = 0.0) -> Shown:
    return Shown(image, Frame(image, 0, now() - 0.01, at), 5.0, 6.0, (image.shape[0], image.shape[1]))


def shown(pipeline: Pipeline, count: int) -> list[Shown]:
    """So many frames, as a view takes them."""
    found: list[Shown] = []
    seen = 0
    while len(found) < count and (taken := pipeline.output.take(seen, 20.0)):
        seen = taken.number
        pipeline.shown(taken.item)
        found.append(taken.item)
    return found
