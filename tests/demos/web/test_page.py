"""The written page in a real Chromium: photos equal to `edgekit.load`, a camera, what goes wrong, phone and keyboard."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import pytest
from demos.live.doubles import until
from demos.web.serving import CHROMIUM, browsing, serving

import edgekit
from edgekit.demos.web import engine, folder
from edgekit.errors import EdgekitError
from edgekit.images import UInt8, read_image, write_image

playwright = pytest.importorskip("playwright.sync_api", reason="the page is tried in Chromium by Playwright")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt install chromium"),
]
BUNDLES = ("style-wave", "sr-x2")


@pytest.fixture(scope="module")
def files() -> Path:
    """onnxruntime-web, from the user's cache or the registry: 33 MB once."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("EDGEKIT_CACHE", platformdirs.user_cache_dir("edgekit"))
        try:
            return engine.found()
        except EdgekitError as error:
            pytest.skip(f"onnxruntime-web cannot be had: {error}")


@dataclass(frozen=True)
class Host:
    """Written folders on a static host: `root` / name, at `address` + name."""

    root: Path
    address: str

    def copied(self, name: str, to: str) -> Path:
        """Another folder at the same host, to break things in."""
        return Path(shutil.copytree(self.root / name, self.root / to))


@pytest.fixture(scope="module")
def host(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    root = tmp_path_factory.mktemp("host")
    for name in BUNDLES:
        folder.write(name, root / name, files)
    with serving(root) as address:
        yield Host(root, address)


@pytest.fixture(scope="module")
def chromium(host: Host) -> Iterator[Any]:
    """Chromium with a camera of its own, for which the host is `page.test` too, a name that is no secure context."""
    port = host.address.rstrip("/").rpartition(":")[2]
    with playwright.sync_playwright() as driver, browsing(
        driver,
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--host-resolver-rules=MAP page.test:{port} 127.0.0.1:{port}",
    ) as browser:  # fmt: skip
        yield browser


Opened = Callable[..., Any]


@pytest.fixture
def opened(chromium: Any, host: Host) -> Iterator[Opened]:
    """Opens a page, on one thread unless `threads`, and takes down complaints and what is asked of other hosts."""
    contexts, complaints = [], []

    def open_page(path: str, *, script: str = "", threads: bool = False, expected: bool = False, **options: Any) -> Any:
        contexts.append(chromium.new_context(**options))
        page = contexts[-1].new_page()
        if not threads:
            page.add_init_script("Object.defineProperty(navigator, 'hardwareConcurrency', { value: 1 })")
        if script:
            page.add_init_script(script)
        if not expected:
            page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("request", lambda r: None if local(r.url, host) else complaints.append(r.url))
        page.goto(path if "//" in path else f"{host.address}{path}/")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints


def local(url: str, host: Host) -> bool:
    return url.startswith((host.address, "blob:", "data:", "http://page.test:"))


def ready(page: Any) -> Any:
    page.wait_for_selector("#open:enabled", timeout=60_000)
    return page


def choose(page: Any, precision: str) -> None:
    page.select_option("#precision", precision)
    assert until(lambda: f"in {precision}" in page.text_content("#where") and page.is_enabled("#open"), 60)


def painted(page: Any, action: Callable[[], object]) -> None:
    """Wait for the picture that an action brings."""
    before = page.get_attribute("#after", "data-turn")
    action()
    assert until(lambda: page.get_attribute("#after", "data-turn") != before, 60), page.text_content("#notice")


def download(page: Any) -> tuple[str, UInt8]:
    """What Save gives: the file's name and the picture."""
    with page.expect_download() as caught, tempfile.TemporaryDirectory() as place:
        page.click("#save")
        path = Path(place, caught.value.suggested_filename)
        caught.value.save_as(path)
        return path.name, read_image(path)


def saved(page: Any, path: Path) -> UInt8:
    """Open a picture on the page, and give what it saves."""
    painted(page, lambda: page.set_input_files("#file", str(path)))
    return download(page)[1]


def notice(page: Any, part: str) -> bool:
    return until(lambda: part in page.text_content("#notice"), 30)


def wanted(name: str, precision: str, path: Path) -> UInt8:
    with edgekit.load(name, "onnxruntime", precision=precision) as task:
        result: UInt8 = task(read_image(path))
        return result


def farthest(one: UInt8, other: UInt8) -> int:
    return int(np.abs(one[:, :, :3].astype(int) - other[:, :, :3].astype(int)).max())


@pytest.mark.parametrize("name", BUNDLES)
def test_a_photo_is_what_python_makes_of_it(name: str, opened: Opened, photo: UInt8, tmp_path: Path) -> None:
    page = ready(opened(name))
    write_image(tmp_path / "photo.png", photo[40:241, 90:307])  # of no round size
    write_image(tmp_path / "tiny.png", photo[100:103, 200:207])
    for precision in ("int8", "fp32"):
        choose(page, precision)
        for path in (tmp_path / "photo.png", tmp_path / "tiny.png"):
            made = saved(page, path)
            assert made.shape[:2] == wanted(name, precision, path).shape[:2]
            assert farthest(made, wanted(name, precision, path)) <= 1, (precision, path.name)
    assert page.text_content("#pace").endswith(" s") and "fp32" in page.text_content("#where")


@pytest.mark.parametrize("name", BUNDLES)
def test_tiles_make_the_same_picture(name: str, host: Host, opened: Opened, photo: UInt8, tmp_path: Path) -> None:
    cut = host.copied(name, f"{name}-tiles")
    facts = json.loads((cut / folder.FACTS).read_text())
    (cut / folder.FACTS).write_text(json.dumps({**facts, "tile": 200}))
    write_image(tmp_path / "photo.png", photo[:333, :401])
    page = ready(opened(cut.name))
    choose(page, "fp32")
    assert farthest(saved(page, tmp_path / "photo.png"), wanted(name, "fp32", tmp_path / "photo.png")) <= 1


def test_alpha_is_kept_and_a_jpeg_stays_one(opened: Opened, photo: UInt8, tmp_path: Path) -> None:
    page = ready(opened("sr-x2"))
    choose(page, "int8")
    alpha = np.tile(np.linspace(0, 255, 90).astype(np.uint8), (70, 1))
    write_image(tmp_path / "cut.png", np.dstack([photo[:70, :90], alpha]))
    made, expected = saved(page, tmp_path / "cut.png"), wanted("sr-x2", "int8", tmp_path / "cut.png")
    assert np.abs(made[:, :, 3].astype(int) - expected[:, :, 3].astype(int)).max() <= 1
    opaque = expected[:, :, 3] > 250  # below, a saved canvas rounds colours to what alpha leaves of them
    assert np.abs(made[:, :, :3].astype(int) - expected[:, :, :3].astype(int))[opaque].max() <= 2
    write_image(tmp_path / "photo.jpg", photo[:70, :90])
    painted(page, lambda: page.set_input_files("#file", str(tmp_path / "photo.jpg")))
    assert download(page)[0] == "photo-sr-x2.jpg"


def test_pictures_are_dropped_pasted_and_tried(opened: Opened) -> None:
    page = ready(opened("style-wave"))
    there = """async (kind) => {
      const data = new DataTransfer();
      data.items.add(new File([await (await fetch("sample.jpg")).blob()], "mine.jpg", { type: "image/jpeg" }));
      const given = kind === "drop" ? { dataTransfer: data } : { clipboardData: data };
      const event = kind === "drop" ? new DragEvent(kind, { ...given, cancelable: true }) : new ClipboardEvent(kind, given);
      document.dispatchEvent(event);
    }"""
    for kind in ("drop", "paste"):
        painted(page, lambda kind=kind: page.evaluate(there, kind))  # type: ignore[misc]
        assert download(page)[0] == "mine-style-wave.jpg"
    painted(page, lambda: page.click("#sample"))
    page.wait_for_selector("#working", state="hidden")
    whole = page.evaluate("document.getElementById('after').toDataURL()")
    page.fill("#strength", "0")
    shown = page.evaluate("['before', 'after'].map((id) => document.getElementById(id).toDataURL())")
    assert shown[0] == shown[1] != whole  # a strength of 0 is the photo


def test_the_seam_follows_keys_and_pointer(opened: Opened) -> None:
    page = ready(opened("sr-x2", viewport={"width": 1000, "height": 700}))
    painted(page, lambda: page.click("#sample"))
    page.focus("#seam")
    page.keyboard.press("Home")
    assert page.evaluate("getComputedStyle(document.getElementById('after')).clipPath") == "inset(0px 0px 0px 0%)"
    box = page.locator("#stage").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 4, box["y"] + 40)
    assert abs(int(page.input_value("#seam")) - 25) <= 1
    page.click("#actual")
    assert page.evaluate("document.getElementById('stage').clientWidth * devicePixelRatio") == 1024


def test_the_camera_shows_its_newest_frame(opened: Opened) -> None:
    page = ready(opened("style-wave"))
    page.click("#camera")
    assert until(lambda: page.text_content("#pace") not in ("–", "") and float(page.text_content("#pace")) > 0, 30)
    seen = set()
    assert until(lambda: seen.add(page.evaluate("document.getElementById('after').toDataURL()")) or len(seen) >= 3, 30)
    assert "ms" in page.text_content("#age") and "320 × " in page.text_content("#size")
    page.select_option("#camerasize", "240")
    assert until(lambda: "240 × " in page.text_content("#size"), 20)
    choose(page, "fp32")  # in the middle of it: the camera goes on
    assert until(lambda: page.get_attribute("#camera", "aria-pressed") == "true", 20)
    page.wait_for_selector("#save:enabled", timeout=20_000)
    assert download(page)[1].shape[1] == 240
    page.click("#camera")
    assert page.get_attribute("#camera", "aria-pressed") == "false" and not page.text_content("#notice")


def test_a_camera_that_cannot_be_had_is_explained(opened: Opened) -> None:
    page = ready(opened("sr-x2"))
    refusing = (
        "(name) => { navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('no', name); }; }"
    )
    reasons = {"NotAllowedError": "was refused", "NotFoundError": "no camera", "NotReadableError": "in use"}
    for name, said in reasons.items():
        page.evaluate(refusing, name)
        page.click("#camera")
        assert notice(page, said)
    painted(page, lambda: page.click("#sample"))


def test_without_a_secure_context_photos_work_and_the_camera_is_explained(host: Host, opened: Opened) -> None:
    page = ready(opened(host.address.replace("127.0.0.1", "page.test") + "sr-x2/", threads=True))
    assert not page.evaluate("isSecureContext")
    page.click("#camera")
    assert notice(page, "https:// or on localhost alone")
    painted(page, lambda: page.click("#sample"))


def test_threads_come_by_one_reload_and_go_with_the_page(host: Host, opened: Opened) -> None:
    shared = host.copied("sr-x2", "shared")
    page = ready(opened(shared.name, threads=True))
    cores = page.evaluate("navigator.hardwareConcurrency")
    assert page.evaluate("crossOriginIsolated") == (cores > 1)
    page.click("summary")
    assert (f"{min(4, cores)} threads" in page.text_content("#measured")) == (cores > 1)
    (shared / "index.html").write_text(
        "<!doctype html><title>another</title><link rel=icon href=data:,>"
    )  # somebody else's page, at the same place
    page.reload()  # asks the host again
    page.goto(f"{host.address}{shared.name}/")
    assert page.title() == "another" and not page.evaluate("crossOriginIsolated")
    assert page.evaluate("navigator.serviceWorker.getRegistrations().then((all) => all.length)") == 0


def test_what_is_no_picture_is_said_to_be_none(opened: Opened, tmp_path: Path) -> None:
    page = ready(opened("sr-x2"))
    (tmp_path / "notes.txt").write_text("no picture")
    page.set_input_files("#file", str(tmp_path / "notes.txt"))
    assert notice(page, '"notes.txt" is no picture that this browser can read')
    painted(page, lambda: page.click("#sample"))
    assert not page.text_content("#notice")


def test_a_damaged_folder_names_the_file(host: Host, opened: Opened) -> None:
    for number, (damage, said) in enumerate(DAMAGE.items()):
        broken = host.copied("sr-x2", f"broken-{number}")
        path, text = damage
        if text is None:
            (broken / path).unlink()
        else:
            data = (broken / path).read_bytes()
            (broken / path).write_bytes(text + data[len(text) :] if text else b"")
        assert notice(opened(broken.name, expected=True), said), damage


DAMAGE: dict[tuple[str, bytes | None], str] = {
    ("model/model-int8.onnx", b""): "model-int8.onnx has 0 bytes",
    ("model/model-int8.onnx", b"damaged"): "model-int8.onnx is not the file that was written",
    ("model/model-fp32.onnx", None): "model-fp32.onnx cannot be fetched (404)",
    ("ort/ort.wasm.min.js", None): "ort.wasm.min.js",
    ("seam.js", None): "script of this page cannot be loaded",
    (folder.FACTS, None): "copy the whole folder",
}


def test_a_browser_without_webassembly_is_told_so(host: Host, opened: Opened) -> None:
    assert notice(opened("sr-x2", script="delete globalThis.WebAssembly"), "no WebAssembly with SIMD")


def test_the_folder_opened_as_a_file_says_how_to_serve_it(host: Host, opened: Opened) -> None:
    page = opened((host.root / "sr-x2" / "index.html").as_uri(), expected=True)
    assert notice(page, "python -m http.server")


def test_less_memory_takes_smaller_tiles_or_is_explained(
    host: Host, opened: Opened, photo: UInt8, tmp_path: Path
) -> None:
    short = host.copied("sr-x2", "short")
    script = (short / "worker.js").read_text()
    fault = "running = id; if (tile > LIMIT) throw new RangeError('Array buffer allocation failed');"
    write_image(tmp_path / "photo.png", photo[:70, :90])
    for limit in (200, 10):
        (short / "worker.js").write_text(script.replace("running = id;", fault.replace("LIMIT", str(limit))))
        page = ready(opened(short.name))
        if limit == 200:
            choose(page, "fp32")
            made = saved(page, tmp_path / "photo.png")
            assert farthest(made, wanted("sr-x2", "fp32", tmp_path / "photo.png")) <= 1
        else:
            page.set_input_files("#file", str(tmp_path / "photo.png"))
            assert notice(page, "not enough memory")


def test_a_long_job_can_be_stopped(host: Host, opened: Opened, photo: UInt8, tmp_path: Path) -> None:
    slow = host.copied("sr-x2", "slow")
    facts = json.loads((slow / folder.FACTS).read_text())
    (slow / folder.FACTS).write_text(json.dumps({**facts, "tile": 32}))
    write_image(tmp_path / "photo.png", np.tile(photo, (2, 2, 1)))
    page = ready(opened(slow.name))
    page.set_input_files("#file", str(tmp_path / "photo.png"))
    page.wait_for_selector("#working", state="visible")
    page.keyboard.press("Escape")
    assert notice(page, "stopped") and page.is_hidden("#working") and page.is_disabled("#save")
    painted(page, lambda: page.click("#sample"))  # another one takes its turn


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_the_page_on_a_phone(scheme: str, opened: Opened) -> None:
    page = ready(
        opened(
            "style-wave", viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True, color_scheme=scheme
        )
    )
    painted(page, lambda: page.tap("#sample"))
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    sizes = page.eval_on_selector_all(
        "button, select, summary", "all => all.map(e => e.getBoundingClientRect().height).filter(Boolean)"
    )
    assert len(sizes) >= 9 and min(sizes) >= 44  # a thumb's


def test_everything_can_be_reached_and_named(opened: Opened) -> None:
    page = ready(opened("style-wave"))
    painted(page, lambda: page.click("#sample"))
    page.focus("body")
    reached = []
    for _ in range(20):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    for name in (
        "seam",
        "open",
        "camera",
        "sample",
        "save",
        "actual",
        "strength",
        "photosize",
        "camerasize",
        "precision",
        "where",
    ):
        assert name in reached
    unnamed = "all => all.filter(e => !(e.labels?.length || e.textContent.trim() || e.ariaLabel)).map(e => e.id)"
    assert page.eval_on_selector_all("button, select, input", unnamed) == []
