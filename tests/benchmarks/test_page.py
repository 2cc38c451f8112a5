"""The page of a benchmark: everything is said, nothing of it runs or is fetched, plots show it; looked at in Chromium."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from benchmarks.doubles import HOSTILE, report, row, usual
from demos.web.serving import CHROMIUM, browsing

from edgekit.benchmarks import Report
from edgekit.benchmarks.reports import figures, plots
from edgekit.benchmarks.reports.page import verdict, write
from edgekit.benchmarks.reports.plots import Axis, Point, Series


def written(path: Path, *reports: Report) -> str:
    write(path, [(r, figures.figures(r)) for r in reports])
    assert list(path.parent.glob(".*")) == []
    return path.read_text(encoding="utf-8")


def test_the_page_says_it_all_and_words_stay_words(tmp_path: Path) -> None:
    html = written(tmp_path / "bench.html", usual(HOSTILE), usual())
    assert "<script" not in html and "<img" not in html and 'http-equiv="Content-Security-Policy"' in html
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))
    for word in (
        "openvino int8 is fastest",
        "slower than fp32",
        "failed",
        "no latency",
        "ethos-u55-128, M cycles",
        "a processor",
    ):
        assert word.lower() in text.lower()
    assert "777" not in text and html.count('<svg class="plot"') == 8


def test_what_could_not_be_measured_has_no_plots(tmp_path: Path) -> None:
    broken = row("openvino", "fp32", 1.0, error="it died", model_ms=[], task_ms=[], details=[])
    html = written(tmp_path / "bench.html", report([broken]))
    assert "nothing could be measured" in html and '<svg class="plot"' not in html


def test_the_verdict_says_what_cannot_be_told_apart() -> None:
    near = report([row("openvino", "fp32", 10.0), row("litert", "fp32", 10.0), row("onnxruntime", "fp32", 30.0)])
    said = verdict(figures.figures(near))
    assert "cannot be told apart from it" in said and "onnxruntime" not in said


def test_the_front_is_what_none_beats_in_both() -> None:
    def point(index: int, x: float, lost: float) -> Point:
        return Point(index, "", x, x, x, lost)

    points = [point(0, 3.0, 0.0), point(1, 1.0, 0.5), point(2, 2.0, 0.5), point(3, 2.5, 0.1), point(4, 4.0, 0.0)]
    assert [p.index for p in plots.pareto(points)] == [1, 3, 0]


@pytest.mark.parametrize(("low", "high", "logarithmic"), [(0.2, 900.0, True), (10.0, 11.0, False), (5.0, 5.0, False)])
def test_axes_have_ticks_within(low: float, high: float, logarithmic: bool) -> None:
    axis = Axis(low, high, 0, 100, logarithmic)
    ticks = axis.ticks()
    assert ticks and all(low * 0.999 <= t <= high * 1.001 for t in ticks) and 0 <= axis(low) <= axis(high) <= 100


def test_plots_of_equal_values_and_single_points() -> None:
    assert "polyline" in plots.lines([Series(0, "a", [(1.0, 5.0), (2.0, 5.0)])], "round", "ms")
    assert "<rect" in plots.distributions([Series(0, "a", samples=[2.0, 2.0])], "ms")
    assert "circle" in plots.front([Point(0, "a", 1.0, 1.0, 1.0, 0.0)], "ms", "lost")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: apt install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="the page is tried in Chromium by Playwright")
    with playwright.sync_playwright() as driver, browsing(driver) as browser:
        yield browser


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_in_a_browser(chromium: Any, tmp_path: Path, width: int, scheme: str) -> None:
    several = usual(HOSTILE)
    several.rows += [msgspec.structs.replace(r, case=msgspec.structs.replace(r.case, threads=1)) for r in several.rows]
    written(tmp_path / "bench.html", several, usual())
    page = chromium.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.on("request", lambda r: None if r.url.startswith(("data:", "file:")) else said.append(r.url))
    page.goto((tmp_path / "bench.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    outside = """() => [...document.querySelectorAll('svg.plot')].flatMap(svg => {
      const box = svg.getBoundingClientRect();
      return [...svg.querySelectorAll('text, rect, circle')].filter(e => {
        const b = e.getBoundingClientRect();
        return b.left < box.left - 2 || b.right > box.right + 2 || b.bottom > box.bottom + 2;
      }).map(e => e.outerHTML);
    })"""
    assert page.evaluate(outside) == []
    least = "Math.min(...[...document.querySelectorAll('.plot text')].map(e => e.getBoundingClientRect().height))"
    assert page.evaluate(least) >= 9  # pixels: to be read on a phone
    assert said == []
    page.close()
