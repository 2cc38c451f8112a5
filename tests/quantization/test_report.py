"""The report: everything is said, nothing of it runs or is fetched, and it fits a phone; looked at in Chromium."""

from __future__ import annotations

import re
import shutil
import struct
import zlib
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgekit import machine
from edgekit.bundle import Bundle
from edgekit.errors import InputError
from edgekit.manifest import Agreement, Speed
from edgekit.quantization import Attempt, Quantized
from edgekit.quantization.report import ReportOptions, drawing, refuse_unwritable, write
from edgekit.quantization.report.samples import Given, samples
from edgekit.quantization.schemes.scheme import Layer
from edgekit.quantization.search import Plan

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = '<script>alert(1)</script><img src=http://example.invalid/x onerror=alert(2)> & "quoted"'
LAYERS = (
    Layer(f"body.0 {HOSTILE}", 31.0, -0.5, 3.0),
    Layer("body.1", 48.5, 0.0, 120.0),
    Layer("tail", 25.0, -1.0, 1.0, kept="asked for"),
    Layer("body.2"),
)
ATTEMPTS = (
    Attempt(Plan(), 0.4, 12.0, False),
    Attempt(Plan((), ("bias",)), float("inf"), 3.0, False),
    Attempt(Plan(("tail",), ("bias",)), 0.1, 14.0),
)


def quantized(name: str, **changes: Any) -> Quantized:
    """A made-up quantization of a shipped bundle, whose words are hostile."""
    bundle = Bundle.open(name)
    here: dict[str, Any] = {"architecture": machine.architecture(), "int8_units": machine.told_int8_units()}
    speed = Speed("onnxruntime", 2.0, 1.5, 2, "a processor <b>", noise=0.04, **here)
    fast = Speed("openvino", 1.0, 2.5, 2, "a processor <b>", noise=0.02, **here)
    components = {
        part: msgspec.structs.replace(
            c,
            agreement=(Agreement("int8", ("onnxruntime", "openvino"), 33.0, HOSTILE),),
            variants=tuple(
                msgspec.structs.replace(v, speed=(speed, fast)) if (v.format, v.precision) == ("onnx", "int8") else v
                for v in c.variants
            ),
        )
        for part, c in bundle.manifest.components.items()
    }
    manifest = msgspec.structs.replace(bundle.manifest, summary=HOSTILE, components=components)
    stated = {
        "bundle": Bundle(bundle.folder, manifest),
        "precision": "int8",
        "kept_float": ("tail",),
        "corrections": ("bias",),
        "worst_drop": 0.1,
        "max_drop": 0.15,
        "met": True,
        "layers": dict.fromkeys(components, LAYERS),
        "attempts": ATTEMPTS,
        "notes": (f"a note: {HOSTILE}",),
        **changes,
    }
    return Quantized(**stated)


def told(path: Path) -> str:
    """The page's text, without pictures and tags."""
    html = re.sub(r"<(style)\b.*?</\1>|<[^>]+>", " ", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.sub(r"\s+", " ", html)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of every kind of task."""
    folder = tmp_path_factory.mktemp("pages")
    names = ("sr-x2", "digits-cnn", "digits-vae", "digits-gan", "shakespeare-gru")
    options = ReportOptions(calibration=HOSTILE, validation="set5.zip")
    return {name: write(folder / f"{name}.html", quantized(name), options) for name in names}


def test_everything_is_said(pages: dict[str, Path]) -> None:
    text = told(pages["sr-x2"])
    for part in (
        "sr-x2 int8",
        "Target met: the worst file loses 0.1 dB PSNR, allowed were 0.15.",
        "168 kB 49 kB 0.29×",
        "0.75× slower ± 4 %",
        "2.50× ± 2 %",
        "25.0 dB",
        "float: asked for",
        "-0.5 … 3",
        "onnxruntime and openvino",
        "33.0 dB",
        "failed missed",
        "tail kept",
        "quality measured on set5.zip",
        "int8 units",
    ):
        assert part in text, part


def test_a_bundles_words_are_escaped(pages: dict[str, Path]) -> None:
    for path in pages.values():
        html = path.read_text(encoding="utf-8")
        assert "<script" not in html and "a processor &lt;b&gt;" in html
        assert not re.search(r"<img[^>]*onerror", html) and "&lt;script&gt;" in html


def test_nothing_is_fetched(pages: dict[str, Path]) -> None:
    for path in pages.values():
        html = path.read_text(encoding="utf-8")
        assert all(found.startswith("data:") for found in re.findall(r"(?:src|href)=\"([^\"]*)\"", html))
        assert "url(" not in html and "@import" not in html and "default-src 'none'" in html


def test_pictures_are_of_every_engine_and_show_the_difference(pages: dict[str, Path]) -> None:
    uris = re.findall(r'src="data:image/png;base64,([^"]+)"', pages["sr-x2"].read_text(encoding="utf-8"))
    assert len(uris) == 9
    for fp32, small, wrong in (uris[i : i + 3] for i in (0, 3, 6)):
        before, after, shown = (pixels(b64decode(uri)).astype(int) for uri in (fp32, small, wrong))
        assert before.shape == (256, 256, 3)
        assert np.array_equal(shown, np.minimum(np.abs(before - after) * 8, 255))


def test_text_is_drawn_with_the_same_seed_and_labels_are_scored_in_both(pages: dict[str, Path]) -> None:
    assert "drawn with the seed 0 in both" in told(pages["shakespeare-gru"])
    assert "the same first label for 1 of 1" in told(pages["digits-cnn"])
    assert "reconstructions of the golden input" in told(pages["digits-vae"])
    assert "drawn with the seed 0 in both" in told(pages["digits-gan"])


def test_calibration_inputs_are_shown_where_there_are_some() -> None:
    bundle = Bundle.open("digits-cnn")
    image = bundle.golden()["image"]
    shown = samples(bundle, "int8", Given({"model": [(image,)] * 6}))
    assert shown is not None and shown.what.endswith("inputs of the calibration")
    assert all(len(row.scores) == 4 for row in shown.rows)


def test_an_engine_that_fails_is_told_and_the_others_are_shown(tmp_path: Path) -> None:
    bundle = Bundle.open(shutil.copytree(Bundle.open("digits-cnn").folder, tmp_path / "digits-cnn"))
    (bundle.folder / "model-int8.tflite").write_bytes(b"damaged")
    shown = samples(bundle, "int8", Given())
    assert shown is not None
    failed = {row.runtime: bool(row.error) for row in shown.rows}
    assert failed == {"openvino": False, "onnxruntime": False, "litert": True}


def test_what_is_missing_is_left_out(tmp_path: Path) -> None:
    manifest = Bundle.open("digits-cnn").manifest
    component = manifest.components["model"]
    bare = msgspec.structs.replace(component, variants=tuple(v for v in component.variants if v.precision == "fp32"))
    kept = Bundle(Bundle.open("digits-cnn").folder, msgspec.structs.replace(manifest, components={"model": bare}))
    nothing = quantized("digits-cnn", bundle=kept, met=False, layers={}, attempts=(), notes=(), worst_drop=None)
    text = told(write(tmp_path / "r.html", nothing))
    assert "No int8 file was kept." in text and "Latency" not in text and "Layers" not in text


def test_a_missed_target_and_an_unmeasured_one_are_said(tmp_path: Path) -> None:
    missed = quantized("digits-gan", met=False, worst_drop=0.31)
    assert "Target missed: the worst file loses 0.31" in told(write(tmp_path / "a.html", missed))
    unmeasured = quantized("digits-gan", worst_drop=None, max_drop=None)
    assert "its quality was not measured" in told(write(tmp_path / "b.html", unmeasured))


def test_a_place_that_cannot_be_written_is_refused_beforehand(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        refuse_unwritable(tmp_path / "none" / "r.html")
    with pytest.raises(InputError, match="it is a folder"):
        refuse_unwritable(tmp_path)


def test_drawings() -> None:
    assert 'width="50.00"' in drawing.bar(1.0, 2.0) and 'width="0.00"' in drawing.bar(0.0, 0.0)
    assert 'x="0.00"' in drawing.strip(-1.0, 1.0, (-1.0, 1.0)) and 'width="100.00"' in drawing.strip(-1, 1, (-1.0, 1.0))
    assert "nan" not in drawing.strip(0.0, 0.0, (0.0, 0.0))
    assert [drawing.ms(v) for v in (12.345, 1.234, 0.01234)] == ["12.3 ms", "1.23 ms", "0.012 ms"]
    assert (drawing.kb(2_500_000), drawing.kb(48_024)) == ("2.5 MB", "48 kB")
    assert (drawing.db(None), drawing.db(999.0), drawing.db(31.26)) == ("–", "equal", "31.3 dB")


def pixels(png: bytes) -> np.ndarray:
    """An 8-bit RGB PNG without interlacing, decoded by OpenCV; its header is read here."""
    import cv2

    width, height, depth, kind = struct.unpack(">IIBB", png[16:26])
    assert (depth, kind) == (8, 2) and zlib.crc32(png[12:29]) == struct.unpack(">I", png[29:33])[0]
    image = cv2.cvtColor(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    assert image.shape[:2] == (height, width)
    return image


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: apt install chromium")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.parametrize("width", [360, 390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser(chromium: Any, pages: dict[str, Path], width: int, scheme: str) -> None:
    for path in pages.values():
        page = chromium.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))  # noqa: B023
        page.on("pageerror", lambda error: said.append(str(error)))  # noqa: B023
        page.on("dialog", lambda dialog: said.append(dialog.message))  # noqa: B023
        page.on("request", lambda r: said.append(r.url) if not r.url.startswith(("data:", "file:")) else None)  # noqa: B023
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
        assert contrast(page.evaluate(COLOURS)) >= 4.5
        assert said == []
        page.close()


COLOURS = """() => {
  const text = getComputedStyle(document.querySelector('.quiet')).color;
  const ground = getComputedStyle(document.querySelector('section')).backgroundColor;
  return [text, ground].map(c => c.match(/[0-9.]+/g).slice(0, 3).map(Number));
}"""


def contrast(colours: list[list[float]]) -> float:
    """The contrast of two colours (WCAG 2.2, 1.4.3)."""

    def luminance(colour: list[float]) -> float:
        parts = [c / 255 for c in colour]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted(map(luminance, colours))
    return (high + 0.05) / (low + 0.05)
