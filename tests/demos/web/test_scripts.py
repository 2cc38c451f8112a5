"""The page's arithmetic in Chromium, against the Python that it repeats: tiles, tone curves, borders, alpha, rounding."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from demos.web.serving import CHROMIUM, browsing, serving

import edgekit.demos.web
from edgekit import images, tiling
from edgekit.errors import InputError
from edgekit.tasks.stylize import evened
from edgekit.tensors import TensorSpec

playwright = pytest.importorskip("playwright.sync_api", reason="the page is tried in Chromium by Playwright")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt install chromium")
SCRIPTS = Path(edgekit.demos.web.__path__[0]) / "page"


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    with serving(SCRIPTS) as address, playwright.sync_playwright() as driver, browsing(driver) as browser:
        page = browser.new_page()
        page.goto(f"{address}web.css")  # any document of that origin: what is tried are the modules
        yield page


def call(page: Any, module: str, expression: str, given: Any = None) -> Any:
    """What an expression over a module's names `m` and `given` is."""
    return page.evaluate(f"async (given) => {{ const m = await import('/{module}'); return {expression}; }}", given)


def test_tiles_are_those_of_python(page: Any) -> None:
    rng = np.random.default_rng(5)
    cases = [
        [int(n) for n in (step * rng.integers(1, 500), step * rng.integers(8, 200), rng.integers(0, 50), step)]
        for step in (1, 2, 4, 8)
        for _ in range(150)
    ]
    expression = "given.map((case_) => { try { return m.spans(...case_); } catch { return null; } })"
    for case, found in zip(cases, call(page, "tiling.js", expression, cases), strict=True):
        try:
            wanted = [{"start": s.start, "stop": s.stop, "keep": s.keep, "end": s.end} for s in tiling.spans(*case)]
        except InputError:
            wanted = None
        assert found == wanted, case
    halves = call(page, "tiling.js", "given.map(m.roundEven)", [0.5, 1.5, 2.5, -0.5, -1.5, 2.4, 2.6])
    assert [float(n) for n in halves] == [0, 2, 2, 0, -2, 2, 3]


def test_large_images_are_cut_as_python_cuts_them(page: Any) -> None:
    for size in ((600, 400), (500, 500), (1000, 252), (64, 2000)):
        found = call(page, "tiling.js", "m.plan(given[0], given[1], 512, 40, 4)", size)
        window = size if size[0] * size[1] <= 512**2 else (512, 512)
        wanted = tiling.plan(*size, window, 40, 4)
        assert [(t["rows"]["keep"], t["columns"]["end"]) for t in found] == [
            (t.rows.keep, t.columns.end) for t in wanted
        ]
    assert len(call(page, "tiling.js", "m.plan(2000, 3000, 512, null, 4)")) == 1


def test_tone_curves_are_those_of_the_stylizer(page: Any, photo: np.ndarray) -> None:
    rng = np.random.default_rng(3)
    pictures = [photo[100:221, 150:289, :3], photo[:57, 13:90, :3] // 3, np.full((9, 7, 3), 200, np.uint8)]
    pictures += [rng.integers(0, high, (33, 41, 3)).astype(np.uint8) for high in (2, 100, 256)]
    for picture in pictures:
        for contrast in (1.0, 2.5, 8.0, 256.0):
            curve = call(
                page, "images.js", "m.evenedCurve(Uint8Array.from(given[0]), given[1])", [rgba(picture), contrast]
            )
            wanted = evened(picture, contrast)
            found = picture if curve is None else np.array(curve, np.uint8)[picture]
            assert np.array_equal(found, wanted), (picture.shape, contrast)


def test_borders_mirror_and_repeat(page: Any) -> None:
    for size, border, least, step in ((5, 8, 1, 4), (1, 8, 30, 4), (2, 3, 1, 1), (40, 8, 64, 4), (40, 0, 1, 1)):
        filled = call(page, "images.js", "m.filledSize(...given)", [size, border, least, step])
        assert filled == -(-max(size + 2 * border, least) // step) * step
        found = call(page, "images.js", "Array.from(m.sources(...given))", [size, border, filled])
        line = np.arange(size, dtype=np.uint8)[None]
        wanted = cv2.copyMakeBorder(line, 0, 0, border, border, cv2.BORDER_REFLECT_101) if border else line
        assert found == np.pad(wanted, ((0, 0), (0, filled - wanted.shape[1])), mode="edge")[0].tolist()


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize(("dtype", "span"), [("float32", (0.0, 1.0)), ("float32", (-1.0, 1.0)), ("uint8", None)])
def test_tensors_are_those_of_python(page: Any, layout: str, dtype: str, span: tuple[float, float] | None) -> None:
    image = np.random.default_rng(1).integers(0, 256, (6, 9, 3)).astype(np.uint8)
    axes: tuple[int | str, ...] = (1, 3, "h", "w") if layout == "NCHW" else (1, "h", "w", 3)
    spec = TensorSpec("image", dtype, axes, layout, span)  # type: ignore[arg-type]
    tensor = images.to_tensor(image, spec)
    settings = {"dtype": dtype, "layout": layout, "range": span}
    whole = {
        "rows": {"start": 0, "stop": 6, "keep": 0, "end": 6},
        "columns": {"start": 0, "stop": 9, "keep": 0, "end": 9},
    }
    there = """(() => {
      const from = { pixels: Uint8Array.from(given[0]), width: 9, rows: m.sources(6, 0, 6), columns: m.sources(9, 0, 9) };
      const { data, dims } = m.toTensor(from, given[2], given[1], m.levels(given[1], null));
      const into = { width: 9, height: 6, pixels: new Uint8ClampedArray(4 * 54) };
      const finite = m.place(data, given[2], given[1], into, { scale: 1, border: 0 });
      return { data: Array.from(data), dims, back: Array.from(into.pixels), finite };
    })()"""
    found = call(page, "images.js", there, [rgba(image), settings, whole])
    assert found["dims"] == list(tensor.shape) and found["finite"]
    assert np.array_equal(np.array(found["data"], tensor.dtype).reshape(tensor.shape), tensor)
    assert np.array_equal(np.array(found["back"]).reshape(6, 9, 4)[:, :, :3], image)


def test_what_is_not_finite_is_seen(page: Any) -> None:
    tile = "{ rows: { start: 0, stop: 1, keep: 0, end: 1 }, columns: { start: 0, stop: 2, keep: 0, end: 2 } }"
    spec = "{ dtype: 'float32', layout: 'NCHW', range: [0, 1] }"
    into = "{ width: 2, height: 1, pixels: new Uint8ClampedArray(8) }"
    for bad in ("NaN", "Infinity", "-Infinity"):
        expression = f"m.place([0, 1, {bad}, 1, 9, -9], {tile}, {spec}, {into}, {{ scale: 1, border: 0 }})"
        assert call(page, "images.js", expression) is False


def test_alpha_is_enlarged_as_opencv_does(page: Any) -> None:
    rng = np.random.default_rng(7)
    for height, width, scale in ((11, 17, 2), (9, 6, 4), (1, 3, 2), (5, 5, 1)):
        image = rng.integers(0, 256, (height, width, 4)).astype(np.uint8)
        there = """(() => {
          const [pixels, width, height, scale] = given, image = { pixels: Uint8Array.from(pixels), width, height };
          const result = { width: width * scale, height: height * scale };
          result.pixels = new Uint8ClampedArray(4 * result.width * result.height);
          m.enlargeAlpha(image, result, scale);
          return Array.from(result.pixels).filter((_, i) => i % 4 === 3);
        })()"""
        found = np.array(call(page, "images.js", there, [image.reshape(-1).tolist(), width, height, scale]))
        size = (width * scale, height * scale)
        wanted = cv2.resize(image[:, :, 3], size, interpolation=cv2.INTER_CUBIC)
        assert np.abs(found.reshape(wanted.shape) - wanted.astype(int)).max() <= 1


def test_strength_blends_as_the_stylizer_does(page: Any) -> None:
    one, other = np.random.default_rng(2).integers(0, 256, (2, 20, 20, 4)).astype(np.uint8)
    expression = "Array.from(m.blended(...given))"
    found = np.array(call(page, "images.js", expression, [one.reshape(-1).tolist(), other.reshape(-1).tolist(), 0.3]))
    wanted = cv2.addWeighted(other, 0.3, one, 0.7, 0.0)
    assert np.abs(found.reshape(one.shape)[:, :, :3] - wanted[:, :, :3].astype(int)).max() <= 1
    assert np.array_equal(found.reshape(one.shape)[:, :, 3], one[:, :, 3])


def rgba(image: np.ndarray) -> list[int]:
    return np.dstack([image, np.full(image.shape[:2], 255, np.uint8)]).reshape(-1).tolist()
