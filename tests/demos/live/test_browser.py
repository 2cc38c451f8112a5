"""The page in a real Chromium with a fake camera: numbered frames advance on the canvas, keys, phone, no console errors."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from demos.live.doubles import until
from demos.live.test_web import Served, serving

from edgekit.demos.live.stamps import read_stamp, stamp
from edgekit.images import UInt8, decode_image

playwright = pytest.importorskip("playwright.sync_api", reason="the page is tried in Chromium by Playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FIRST = 5000  # the number of the fake camera's first frame
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt install chromium"),
]


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium whose camera is a file of numbered frames."""
    film = tmp_path_factory.mktemp("film") / "camera.y4m"
    _film(film)
    arguments = [
        "--no-sandbox",
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-video-capture={film}",
    ]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    with serving(source=getattr(request, "param", "synthetic")) as found:
        yield found


@pytest.fixture
def opened(chromium: Any, served: Served) -> Iterator[Callable[..., Any]]:
    """Opens the page, and takes down every error and warning in its console."""
    contexts, complaints = [], []

    def open_page(query: str = "", **options: Any) -> Any:
        contexts.append(chromium.new_context(**options))
        page = contexts[-1].new_page()
        page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(served.url + query)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints


def test_numbered_frames_advance_on_the_canvas(served: Served, opened: Callable[..., Any], tmp_path: Path) -> None:
    page = opened()
    numbers = _numbers(page, 5)
    assert numbers == sorted(set(numbers)) and len(numbers) == 5
    assert until(lambda: page.evaluate("document.getElementById('fps').textContent > 5"), 20)
    assert "ms" in page.text_content("#age")
    for key, wanted in {
        "m": {"mirror": True},
        "c": {"split": 0.5, "effect": "style"},
        "e": {"effect": "upscale"},
    }.items():
        page.keyboard.press(key)
        assert until(lambda wanted=wanted: _has(served.pipeline.wanted, wanted)), key  # type: ignore[misc]
    page.keyboard.press("ArrowRight")
    assert until(lambda: served.pipeline.wanted.split == 0.55)
    assert until(lambda: "openvino" in page.text_content("#where") or "onnx" in page.text_content("#where"), 20)
    page.evaluate("change({effect: 'none', split: null})")
    with page.expect_download() as download:
        page.keyboard.press(" ")
    download.value.save_as(tmp_path / "shot.png")
    assert decode_image((tmp_path / "shot.png").read_bytes(), "shot").shape[2] in (3, 4)
    page.get_by_role("button", name="Record").click()
    page.wait_for_timeout(700)
    with page.expect_download() as download:
        page.keyboard.press("r")
    download.value.save_as(tmp_path / "film")
    assert (tmp_path / "film").stat().st_size > 1000


def test_the_page_on_a_phone(served: Served, opened: Callable[..., Any]) -> None:
    page = opened(viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True)
    assert _numbers(page, 2)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    sizes = page.eval_on_selector_all("button, select", "all => all.map(e => e.getBoundingClientRect().height)")
    assert len(sizes) >= 9 and min(sizes) >= 44  # a thumb's
    page.get_by_role("button", name="Mirror").tap()
    assert until(lambda: served.pipeline.wanted.mirror)
    page.get_by_label("Side by side").tap()
    assert until(lambda: served.pipeline.wanted.effect == "compare")


def test_everything_can_be_reached_by_keyboard(served: Served, opened: Callable[..., Any]) -> None:
    page = opened()
    assert until(lambda: page.evaluate("document.getElementsByName('style').length > 0"), 20)
    page.evaluate("change({effect: 'both'})")
    assert until(lambda: page.get_by_label("×4").is_visible())
    reached = []
    for _ in range(16):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.name"))
    for name in (
        "effect",
        "style",
        "runtime",
        "precision",
        "compare",
        "snapshot",
        "record",
        "mirror",
        "camera",
        "quit",
    ):
        assert name in reached
    unnamed = "all => all.filter(e => !(e.labels?.length || e.textContent.trim())).length"
    assert page.eval_on_selector_all("button, select, input", unnamed) == 0


@pytest.mark.parametrize("served", ["browser"], indirect=True)
def test_the_browsers_own_camera_comes_back_styled_by_nothing(served: Served, opened: Callable[..., Any]) -> None:
    page = opened()
    assert until(lambda: page.evaluate("document.getElementsByName('style').length > 0"), 20)
    page.keyboard.press("o")
    numbers = _numbers(page, 4)
    assert all(FIRST <= number < FIRST + 60 for number in numbers) and len(set(numbers)) == 4
    assert page.get_attribute("#camera", "aria-pressed") == "true"
    page.keyboard.press("o")
    assert until(lambda: served.pipeline.capture.state in ("running", "stalled"))


def test_motion_jpeg_where_there_are_no_websockets(served: Served, opened: Callable[..., Any]) -> None:
    page = opened("?mjpeg")
    assert until(lambda: page.evaluate("document.getElementById('still').naturalWidth === 128"), 20)
    assert until(lambda: page.evaluate("document.getElementById('fps').textContent > 5"), 20)
    page.keyboard.press("m")
    assert until(lambda: served.pipeline.wanted.mirror)


def test_the_page_finds_the_server_again(chromium: Any) -> None:
    page = chromium.new_page()
    with serving() as served:
        page.goto(served.url)
        assert _numbers(page, 1)
    assert until(lambda: page.evaluate("document.getElementById('waiting').textContent.includes('trying again')"), 20)
    page.close()


def _numbers(page: Any, count: int) -> list[int]:
    """The numbers of different frames on the canvas, each with its checksum right."""
    found: list[int] = []

    def look() -> bool:
        data = page.evaluate("document.getElementById('canvas').toDataURL('image/png')")
        number = read_stamp(_decoded(data))
        if number is not None and number not in found:
            found.append(number)
        return len(found) >= count

    assert until(look, 20), found
    return found


def _decoded(data_url: str) -> UInt8:
    return decode_image(base64.b64decode(data_url.partition(",")[2]), "canvas")


def _has(wish: Any, wanted: dict[str, Any]) -> bool:
    return all(getattr(wish, name) == value for name, value in wanted.items())


def _film(path: Path) -> None:
    """Sixty numbered grey frames, YUV 4:2:0."""
    with path.open("wb") as out:
        out.write(b"YUV4MPEG2 W640 H480 F20:1 Ip A1:1 C420\n")
        for number in range(60):
            image = np.full((480, 640, 3), 80 + number, np.uint8)
            stamp(image, FIRST + number)
            out.write(b"FRAME\n" + image[:, :, 0].tobytes() + b"\x80" * (640 * 480 // 2))
