"""What `auto` takes: the documented order, or what was measured on this machine."""

from __future__ import annotations

import platform
import shutil
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sdk.doubles import edit_manifest

from edgekit import choice, machine, profile, stated
from edgekit.bundle import Bundle, find
from edgekit.choice import Choice
from edgekit.errors import DeviceUnavailable, InputError
from edgekit.manifest import Manifest, Speed
from edgekit.opening import open_session
from edgekit.runtimes.onnxruntime_ import OnnxRuntime
from edgekit.runtimes.openvino_ import OpenVinoRuntime
from edgekit.selection import Row
from edgekit.session import Device

pytestmark = pytest.mark.usefixtures("with_vnni")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A copy of a shipped bundle, free to be changed."""
    return Bundle.open(shutil.copytree(find("sr-x2"), tmp_path / "sr-x2"))


def row(runtime: str, precision: str, p50_ms: float, threads: int | None = None, device: str = "cpu") -> Row:
    return Row(runtime, device, precision, threads, p50_ms)


def save(bundle: Bundle, rows: list[Row], **more: Any) -> Path:
    return profile.save(bundle, profile.measurement(rows, **more))


def auto(
    bundle: Bundle, runtime: str = "auto", *, device: str = "cpu", precision: str = "auto", threads: int | None = None
) -> Choice:
    return choice.pick(bundle, "model", runtime, device, precision, {}, threads)


def named(picked: Choice) -> tuple[str, str]:
    return picked.runtime, picked.variant.precision


@pytest.mark.parametrize(
    ("architecture", "first"),
    [
        ("x86_64", "openvino"),
        ("AMD64", "openvino"),
        ("aarch64", "litert"),
        ("arm64", "litert"),
        ("riscv64", "openvino"),
    ],
)
def test_order_without_a_profile(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, architecture: str, first: str
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: architecture)
    picked = auto(bundle)
    assert named(picked) == (first, "int8")
    assert "of the default order on " in picked.why
    assert "edgekit tune" in picked.why


def test_order_passes_over_what_is_not_installed(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert named(auto(bundle)) == ("onnxruntime", "int8")


def test_order_takes_fp32_where_there_is_no_int8(bundle: Bundle) -> None:
    def only_fp32(manifest: dict[str, Any]) -> None:
        model = manifest["components"]["model"]
        model["variants"] = [v for v in model["variants"] if v["precision"] == "fp32"]

    edit_manifest(bundle.folder, only_fp32)
    assert auto(Bundle.open(bundle.folder)).variant.precision == "fp32"


def test_what_is_named_is_kept_to_and_needs_no_reason(bundle: Bundle) -> None:
    save(bundle, [row("litert", "int8", 1.0, threads=3)])
    picked = auto(bundle, "onnxruntime", precision="fp32", threads=2)
    assert (named(picked), picked.threads, picked.why) == (("onnxruntime", "fp32"), 2, "asked for")


MEASURED = [
    row("openvino", "int8", 3.0),
    row("openvino", "fp32", 4.0),
    row("onnxruntime", "fp32", 1.5),
    row("onnxruntime", "int8", 2.0),
    row("litert", "int8", 5.0),
]


@pytest.mark.parametrize(
    ("runtime", "precision", "expected"),
    [
        ("auto", "auto", ("onnxruntime", "fp32")),  # fp32 beats int8 here, as it may without int8 instructions
        ("auto", "int8", ("onnxruntime", "int8")),
        ("openvino", "auto", ("openvino", "int8")),
        ("litert", "auto", ("litert", "int8")),
    ],
)
def test_auto_takes_the_fastest_measured_of_what_is_allowed(
    bundle: Bundle, runtime: str, precision: str, expected: tuple[str, str]
) -> None:
    save(bundle, MEASURED)
    picked = auto(bundle, runtime, precision=precision)
    assert named(picked) == expected
    assert "measured here" in picked.why


def test_the_reason_names_latency_and_the_next_best(bundle: Bundle) -> None:
    save(bundle, MEASURED)
    assert "the fastest: 1.5 ms, ahead of onnxruntime int8 (2 ms)" in auto(bundle).why


def test_a_measured_engine_that_is_gone_is_passed_over(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    save(bundle, MEASURED)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert named(auto(bundle)) == ("openvino", "int8")


def test_saving_again_replaces_what_was_measured(bundle: Bundle) -> None:
    save(bundle, MEASURED)
    path = save(bundle, [row("litert", "fp32", 1.0)])
    assert named(auto(bundle)) == ("litert", "fp32")
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_rows_of_another_device_are_not_taken(bundle: Bundle) -> None:
    save(bundle, [row("litert", "fp32", 0.1, device="gpu")])
    assert "default order" in auto(bundle).why


def test_threads_of_the_fastest_row_are_taken(bundle: Bundle) -> None:
    save(bundle, [row("onnxruntime", "int8", 5.0, threads=1), row("openvino", "int8", 3.0, threads=2)])
    picked = auto(bundle)
    assert (picked.runtime, picked.threads) == ("openvino", 2)


def test_threads_that_are_asked_for_are_kept_to(bundle: Bundle) -> None:
    save(bundle, [row("onnxruntime", "int8", 5.0, threads=1), row("openvino", "int8", 3.0, threads=2)])
    picked = auto(bundle, threads=1)
    assert (picked.runtime, picked.threads) == ("onnxruntime", 1)
    unmeasured = auto(bundle, threads=4)
    assert unmeasured.threads == 4
    assert "default order" in unmeasured.why


def test_profiles_lie_in_the_cache(bundle: Bundle, own_cache: Path) -> None:
    assert save(bundle, MEASURED).is_relative_to(own_cache)


def test_sizes_of_no_dimension_are_refused() -> None:
    with pytest.raises(InputError, match="got sizes of heigth: sr-x2 has height, width"):
        open_session("sr-x2", "onnxruntime", sizes={"heigth": 64})


def speed(runtime: str, ms: float, fp32_ms: float, **stated: Any) -> Speed:
    facts = {"threads": 2, "processor": "a processor", "architecture": "x86_64", "noise": 0.02}
    return Speed(runtime=runtime, ms=ms, fp32_ms=fp32_ms, **{**facts, "int8_units": VNNI, **stated})


def with_speeds(bundle: Bundle, *speeds: Speed, runs: int = 1, precision: str = "int8") -> Bundle:
    """The bundle, whose manifest has these figures of its int8 files, as if measured when it was made."""
    formats = {"openvino": "onnx", "onnxruntime": "onnx", "litert": "tflite"}

    def stated(manifest: Manifest) -> Manifest:
        components = {
            name: msgspec.structs.replace(
                c,
                variants=tuple(
                    msgspec.structs.replace(
                        v, speed=tuple(s for s in speeds if formats[s.runtime] == v.format and v.precision == precision)
                    )
                    for v in c.variants
                ),
            )
            for name, c in manifest.components.items()
        }
        return msgspec.structs.replace(manifest, components=components)

    return Bundle(bundle.folder, stated(bundle.manifest))


VNNI = ("AVX512-VNNI",)


def without_vnni(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "int8_units", lambda root=None: ())


@pytest.fixture
def on_x86(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")


@pytest.mark.usefixtures("on_x86")
class TestMarkedSpeeds:
    def test_a_slower_int8_is_passed_over_and_the_reason_says_so(self, bundle: Bundle) -> None:
        marked = with_speeds(bundle, speed("openvino", 3.0, 2.0), speed("onnxruntime", 1.0, 4.0))
        picked = auto(marked)
        assert named(picked) == ("onnxruntime", "int8")
        assert "passing over openvino int8 (3 ms on a processor" in picked.why

    def test_within_the_noise_is_not_slower(self, bundle: Bundle) -> None:
        assert named(auto(with_speeds(bundle, speed("openvino", 2.03, 2.0)))) == ("openvino", "int8")
        assert named(auto(with_speeds(bundle, speed("openvino", 2.05, 2.0)))) == ("onnxruntime", "int8")

    def test_slower_than_another_engines_fp32_is_passed_over(self, bundle: Bundle) -> None:
        marked = with_speeds(bundle, speed("openvino", 3.0, 9.0), speed("onnxruntime", 2.5, 2.0))
        picked = auto(marked)
        assert named(picked) == ("litert", "int8")
        assert "onnxruntime fp32 2)" in picked.why

    def test_the_fastest_fp32_is_taken_where_all_int8_is_slower(self, bundle: Bundle) -> None:
        rows = (speed("openvino", 9.0, 5.0), speed("onnxruntime", 9.0, 2.0), speed("litert", 9.0, 4.0))
        assert named(auto(with_speeds(bundle, *rows))) == ("onnxruntime", "fp32")

    def test_a_named_engine_passes_over_its_slower_int8(self, bundle: Bundle) -> None:
        marked = with_speeds(bundle, speed("openvino", 3.0, 2.0), speed("onnxruntime", 1.0, 4.0))
        assert named(auto(marked, "openvino")) == ("openvino", "fp32")

    def test_what_is_named_is_taken_although_it_is_slower(self, bundle: Bundle) -> None:
        marked = with_speeds(bundle, speed("openvino", 3.0, 2.0))
        assert named(auto(marked, "openvino", precision="int8")) == ("openvino", "int8")

    def test_a_measured_profile_decides_before_the_marks(self, bundle: Bundle) -> None:
        marked = with_speeds(bundle, speed("openvino", 3.0, 2.0))
        save(marked, MEASURED[:1])
        picked = auto(marked)
        assert named(picked) == ("openvino", "int8") and "measured here" in picked.why

    def test_marks_of_another_architecture_say_nothing(self, bundle: Bundle) -> None:
        marked = with_speeds(bundle, speed("openvino", 3.0, 2.0, architecture="aarch64"))
        assert named(auto(marked)) == ("openvino", "int8")

    def test_marks_of_this_processor_come_before_those_of_others(self, bundle: Bundle) -> None:
        own = speed("openvino", 1.0, 2.0, processor=stated.processor())
        assert named(auto(with_speeds(bundle, speed("openvino", 3.0, 2.0), own))) == ("openvino", "int8")

    def test_dynamic_int8_comes_before_fp32_where_it_was_faster(self, bundle: Bundle) -> None:
        def rename(manifest: dict[str, Any]) -> None:
            for variant in manifest["components"]["model"]["variants"]:
                if variant["precision"] == "int8":
                    variant["precision"] = "int8-dynamic"

        edit_manifest(bundle.folder, rename)
        speeds = (speed("openvino", 2.0, 4.0), speed("onnxruntime", 1.0, 4.0), speed("litert", 4.5, 4.0))
        gaining = with_speeds(Bundle.open(bundle.folder), *speeds, precision="int8-dynamic")
        assert named(auto(gaining)) == ("onnxruntime", "int8-dynamic")
        assert "faster than fp32 when the bundle was made" in auto(gaining).why
        assert named(auto(gaining, "openvino")) == ("openvino", "int8-dynamic")
        assert named(auto(gaining, "litert")) == ("litert", "fp32")
        assert named(auto(gaining, precision="fp32")) == ("openvino", "fp32")

    def test_an_fp32_file_that_is_not_in_the_bundle_beats_nothing(self, bundle: Bundle) -> None:
        marked = with_speeds(bundle, speed("openvino", 3.0, 9.0), speed("litert", 4.0, 2.0, beside="built to compare"))
        assert named(auto(marked)) == ("openvino", "int8")


@pytest.mark.usefixtures("on_x86")
def test_components_count_as_often_as_the_task_runs_them() -> None:
    bundle = Bundle.open("digits-vae")
    parts = {
        name: with_speeds(bundle, speed("openvino", ms, fp32_ms, runs=runs)).manifest.components[name]
        for name, ms, fp32_ms, runs in (("encoder", 1.0, 9.0, 1), ("decoder", 2.0, 1.0, 10))
    }
    total = stated.whole(parts, "openvino", "int8")
    assert total is not None and (total.ms, total.fp32_ms) == (21.0, 19.0) and total.slower
    assert stated.whole(parts, "openvino", "int8", "another processor") is None
    assert stated.whole(parts, "onnxruntime", "int8") is None


def test_without_vnni_openvino_runs_fp32_and_the_exact_engines_int8(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    without_vnni(monkeypatch)
    rows = (speed("onnxruntime", 2.0, 3.0), speed("litert", 1.5, 4.0), speed("openvino", 5.0, 5.0))
    faster = with_speeds(bundle, *(msgspec.structs.replace(row, int8_units=()) for row in rows))
    picked = auto(faster)
    assert (
        named(picked) == ("litert", "int8")
        and "faster than fp32 when the bundle was made, on x86_64 without VNNI" in picked.why
    )
    assert named(auto(faster, "onnxruntime")) == ("onnxruntime", "int8")
    assert named(auto(faster, "openvino")) == ("openvino", "fp32")


def test_without_vnni_int8_that_was_not_measured_there_comes_last(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    with_it = with_speeds(bundle, speed("onnxruntime", 2.0, 3.0), speed("litert", 1.5, 4.0))
    assert named(auto(with_it)) == ("openvino", "int8")  # the default order of processors with VNNI
    without_vnni(monkeypatch)
    assert named(auto(with_it)) == ("openvino", "fp32")
    slower = with_speeds(
        bundle, speed("onnxruntime", 4.0, 3.0, int8_units=()), speed("litert", 5.0, 4.0, int8_units=())
    )
    assert named(auto(slower)) == ("openvino", "fp32")


@pytest.mark.usefixtures("on_x86")
def test_of_engines_for_one_precision_the_fastest_by_the_manifest_is_taken(bundle: Bundle) -> None:
    rows = (speed("openvino", 3.0, 9.0), speed("onnxruntime", 2.0, 9.0), speed("litert", 4.0, 3.0))
    picked = auto(with_speeds(bundle, *rows), precision="int8")
    assert named(picked) == ("onnxruntime", "int8") and picked.why.startswith(
        "the fastest when the bundle was made, on x86_64"
    )
    assert named(auto(with_speeds(bundle, *rows[1:]), precision="int8")) == ("openvino", "int8")  # not all are known
    assert named(auto(with_speeds(bundle, *rows), precision="fp32")) == ("litert", "fp32")
    other = speed("onnxruntime", 2.0, 9.0, processor="another")
    assert named(auto(with_speeds(bundle, rows[0], other, rows[2]), precision="int8")) == ("openvino", "int8")


def test_a_component_that_stayed_float_runs_in_fp32_beside_small_ones(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(find("digits-vae"), tmp_path / "digits-vae"))

    def keep_float(manifest: dict[str, Any]) -> None:
        encoder = manifest["components"]["encoder"]
        encoder["variants"] = [v for v in encoder["variants"] if v["precision"] == "fp32"]

    edit_manifest(folder, keep_float)
    mixed = Bundle.open(folder)
    assert named(choice.pick(mixed, "encoder", "onnxruntime", "cpu", "int8", {})) == ("onnxruntime", "fp32")
    assert named(choice.pick(mixed, "decoder", "onnxruntime", "cpu", "int8", {})) == ("onnxruntime", "int8")
    with pytest.raises(DeviceUnavailable, match="has no int4-weights file"):
        choice.pick(mixed, "encoder", "onnxruntime", "cpu", "int4-weights", {})
    marked = with_speeds(mixed, speed("openvino", 1.0, 2.0, architecture=choice.architecture()))
    total = stated.whole(marked.manifest.components, "openvino", "int8")
    assert total is not None and (total.ms, total.fp32_ms) == (1.0, 2.0)
    assert stated.whole(marked.manifest.components, "openvino", "int4-weights") is None


def test_auto_leaves_alone_what_answers_otherwise(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")

    def parted(manifest: dict[str, Any]) -> None:
        agreed = {"precision": "int8", "engines": ["onnxruntime", "openvino"], "snr_db": 1.0}
        manifest["components"]["model"]["agreement"] = [agreed]

    edit_manifest(bundle.folder, parted)
    changed = Bundle.open(bundle.folder)
    picked = auto(changed)
    assert named(picked) != ("openvino", "int8") and "1 dB from another engine" in picked.why
    assert named(auto(changed, "onnxruntime")) == ("onnxruntime", "int8")  # the format's own engine
    save(changed, [row("openvino", "int8", 0.1), row("litert", "int8", 9.0)])
    assert named(auto(changed)) == ("litert", "int8")
    assert named(auto(changed, "openvino", precision="int8")) == ("openvino", "int8")  # asked for by name


def test_an_engine_is_not_blamed_for_what_another_format_answers(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")

    def parted(manifest: dict[str, Any]) -> None:
        others = [{"precision": "int8", "engines": [e, "litert"], "snr_db": 1.0} for e in ("onnxruntime", "openvino")]
        manifest["components"]["model"]["agreement"] = others

    edit_manifest(bundle.folder, parted)
    assert named(auto(Bundle.open(bundle.folder))) == ("openvino", "int8")


@pytest.mark.skipif(choice.architecture() != "x86_64", reason="the order of x86-64")
def test_small_networks_have_an_order_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert named(auto(Bundle.open("digits-cnn"))) == ("litert", "int8")
    assert named(auto(Bundle.open("sr-x4"))) == ("openvino", "int8")


@pytest.mark.usefixtures("on_x86")
class TestShortRuns:
    """One thread for a file that an engine ran faster on one when it was measured."""

    @staticmethod
    def alone(bundle: Bundle, runtime: str) -> bool:
        (variant,) = stated.readable(runtime, "int8", bundle.component().variants)
        return stated.alone(variant, runtime)

    def test_what_was_faster_on_one_thread_runs_on_one(self, bundle: Bundle) -> None:
        speeds = (speed("openvino", 0.5, 2.0, threads=1), speed("onnxruntime", 0.4, 2.0))
        known = with_speeds(bundle, *speeds)
        assert self.alone(known, "openvino") and not self.alone(known, "onnxruntime")
        assert not self.alone(bundle, "openvino")  # without figures

    def test_figures_of_this_processor_decide(self, bundle: Bundle) -> None:
        other = speed("openvino", 0.5, 2.0, threads=1)
        here = speed("openvino", 0.5, 2.0, processor=stated.processor())
        assert not self.alone(with_speeds(bundle, other, here), "openvino")

    def test_not_where_runs_are_long_or_were_on_another_architecture(
        self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert not self.alone(with_speeds(bundle, speed("openvino", 1.5, 2.0, threads=1)), "openvino")
        short = with_speeds(bundle, speed("openvino", 0.5, 2.0, threads=1))
        monkeypatch.setattr(platform, "machine", lambda: "aarch64")
        assert not self.alone(short, "openvino")


def test_a_profile_of_short_runs_is_gone_by_as_it_was_measured(bundle: Bundle) -> None:
    rows = [msgspec.structs.replace(row("litert", "int8", 0.1), ran=2), row("openvino", "int8", 9.0)]
    save(bundle, rows)
    assert (named(auto(bundle)), auto(bundle).threads) == (("litert", "int8"), None)
    short = with_speeds(bundle, speed("litert", 0.5, 2.0, threads=1, architecture=choice.architecture()))
    assert auto(short).threads == 2  # it ran on the engine's own number


def test_the_documented_orders_are_those_that_are_taken() -> None:
    page = Path(__file__).parents[2] / "docs" / "tuning.md"
    titles = {
        "x86-64 with VNNI": "x86_64",
        "x86-64 with VNNI, small networks": choice.SMALL,
        "x86-64 without VNNI": choice.WITHOUT_VNNI,
        "aarch64 (Raspberry Pi, Apple)": "aarch64",
    }
    lines = [line.strip("| ").split(" | ") for line in page.read_text(encoding="utf-8").splitlines()]
    rows = [(cells[0], cells[1]) for cells in lines if cells[0] in titles]
    told = {titles[title]: tuple(tuple(pair.split()) for pair in order.split(", ")) for title, order in rows}
    assert told == choice.DEFAULT_ORDER


def test_auto_keeps_to_engines_and_precisions_that_a_device_has(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = Device("openvino", "gpu", "Intel GPU", ("fp32", "int8"), usable=False, why="it finds none")
    shader = Device("onnxruntime", "gpu", "WebGPU", ("fp32", "fp16"))
    monkeypatch.setattr(OpenVinoRuntime, "devices", lambda self: [absent])
    monkeypatch.setattr(OnnxRuntime, "devices", lambda self: [shader])
    assert named(auto(bundle, device="gpu")) == ("onnxruntime", "fp32")
    assert named(auto(bundle, "onnxruntime", device="gpu")) == ("onnxruntime", "fp32")
    with pytest.raises(DeviceUnavailable, match="no installed engine that reads sr-x2 has the device 'gpu'"):
        auto(bundle, device="gpu", precision="int8")


@pytest.mark.usefixtures("on_x86")
class TestWhoseFiguresHold:
    def test_where_the_system_does_not_tell_units_are_believed_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stated, "told_int8_units", lambda: None)
        shipped = Bundle.open("sr-x2")
        assert {bool(s.int8_units) for v in shipped.component().variants for s in v.speed} == {True, False}
        assert named(auto(shipped)) == ("openvino", "int8")

    def test_this_processors_own_hold_whatever_they_say_of_its_units(
        self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        without_vnni(monkeypatch)
        rows = [speed(e, 1.0, 2.0, int8_units=None) for e in ("openvino", "onnxruntime", "litert")]
        assert named(auto(with_speeds(bundle, *rows))) == ("openvino", "fp32")
        own = [msgspec.structs.replace(row, processor=stated.processor()) for row in rows]
        assert named(auto(with_speeds(bundle, *own)))[1] == "int8"

    def test_a_sum_is_of_one_processor(self) -> None:
        bundle, a, b = Bundle.open("digits-vae"), {"processor": "a"}, {"processor": "b"}

        def parts(encoder: list[Speed], decoder: list[Speed]) -> dict[str, Any]:
            given = {"encoder": encoder, "decoder": decoder}
            return {n: with_speeds(bundle, *s).manifest.components[n] for n, s in given.items()}

        first, second = speed("openvino", 1.0, 2.0, **a), speed("openvino", 3.0, 4.0, **b)
        assert stated.whole(parts([first], [second]), "openvino", "int8") is None
        total = stated.whole(parts([first, second], [second]), "openvino", "int8")
        assert total is not None and (total.processor, total.ms) == ("b", 6.0)

    def test_fp32_of_a_part_is_not_held_against_the_whole(self) -> None:
        bundle = Bundle.open("digits-vae")
        both = with_speeds(bundle, speed("openvino", 1.0, 3.0))
        encoder = both.manifest.components["encoder"]
        small = msgspec.structs.replace(
            next(v for v in encoder.variants if (v.format, v.precision) == ("onnx", "int8")),
            precision="int4-weights",
            speed=(speed("onnxruntime", 0.5, 0.6),),
        )
        encoder = msgspec.structs.replace(encoder, variants=(*encoder.variants, small))
        changed = msgspec.structs.replace(both.manifest, components={**both.manifest.components, "encoder": encoder})
        picked = choice.pick(Bundle(bundle.folder, changed), "encoder", "auto", "cpu", "fp32", {})
        assert picked.runtime == "openvino"

    def test_what_is_taken_is_not_said_to_be_passed_over(self, bundle: Bundle) -> None:
        def parted(manifest: dict[str, Any]) -> None:
            pairs = [("onnxruntime", "openvino"), ("onnxruntime", "litert")]
            agreed = [{"precision": p, "engines": list(e), "snr_db": 1.0} for p in ("int8", "fp32") for e in pairs]
            manifest["components"]["model"]["agreement"] = agreed

        edit_manifest(bundle.folder, parted)
        picked = auto(Bundle.open(bundle.folder), "openvino")
        passed = picked.why.partition("passing over ")[2]
        assert f"openvino {picked.variant.precision}" not in passed and "dB from another engine" in passed
