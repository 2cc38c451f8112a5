"""The page's server: whom it answers, credits, bounds, several viewers, the browser's camera, MJPEG."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from demos.live.doubles import until
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from edgekit.demos.live.effects import Wish
from edgekit.demos.live.opening import Address
from edgekit.demos.live.pipeline import Pipeline
from edgekit.demos.live.slots import now
from edgekit.demos.live.sources import Wanted, opener
from edgekit.demos.live.stamps import read_stamp, stamp
from edgekit.demos.live.views import viewers
from edgekit.demos.live.views.encoding import from_jpeg, jpeg
from edgekit.demos.live.views.guard import Guard
from edgekit.demos.live.views.web import MOST_BYTES, WebView
from edgekit.errors import InputError


@dataclass
class Served:
    """A page with a synthetic source at 100 frames a second."""

    pipeline: Pipeline
    view: WebView

    @property
    def url(self) -> str:
        return self.view.urls[0]

    @property
    def port(self) -> int:
        return int(self.url.split(":")[2].split("/")[0])

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=headers)
        return _answer(request)

    def post(self, path: str, body: bytes, **headers: str) -> tuple[int, bytes]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data=body, headers=headers)
        return _answer(request)

    @contextlib.contextmanager
    def page(self, query: str = "", **headers: str) -> Iterator[ClientConnection]:
        address = f"ws://127.0.0.1:{self.port}/ws{query}"
        origin = headers.pop("origin", f"http://127.0.0.1:{self.port}")
        with connect(address, origin=origin, additional_headers=headers, max_size=2**24) as socket:  # type: ignore[arg-type]
            yield socket


@contextlib.contextmanager
def serving(host: str | None = None, source: str = "synthetic", address: Address | None = None) -> Iterator[Served]:
    view = WebView(address or Address(host, 0), lambda text: None)
    make = view.camera if source == "browser" else opener(source, Wanted((96, 128), 100.0))
    with Pipeline(make, Wish(effect="none")) as pipeline:
        pipeline.start()
        thread = threading.Thread(target=view.run, args=(pipeline,))
        thread.start()
        served = Served(pipeline, view)
        try:
            assert until(lambda: _open(served.port))
            yield served
        finally:
            pipeline.stop()
            thread.join(10)
            assert not thread.is_alive()


@pytest.fixture
def served() -> Iterator[Served]:
    with serving() as found:
        yield found


def frames(socket: ClientConnection, count: int, acknowledge: bool = True) -> list[tuple[int, np.ndarray]]:
    found: list[tuple[int, np.ndarray]] = []
    while len(found) < count:
        data = socket.recv(5.0)
        if isinstance(data, bytes):
            number = struct.unpack(">I", data[:4])[0]
            found.append((number, from_jpeg(data[4:])))
            if acknowledge:
                socket.send(json.dumps({"ack": number}))
    return found


def told(socket: ClientConnection, key: str, frames_too: bool = True) -> dict[str, Any]:
    """The next message that has a key; frames are passed over, unless there must be none."""
    while True:
        data = socket.recv(5.0)
        assert frames_too or isinstance(data, str)
        if isinstance(data, str) and key in (message := json.loads(data)):
            return dict(message)


def test_the_page_and_its_assets(served: Served) -> None:
    status, body = served.get("/")
    assert status == 200 and b"edgekit live" in body
    for name in ("live.css", "live.js"):
        assert served.get(f"/{name}")[0] == 200 and name.encode() in body
    assert b"http:" not in body and b"https:" not in body  # nothing from elsewhere
    assert served.get("/bundle.json")[0] == 404 and served.get("/../pipeline.py")[0] == 404


def test_numbered_frames_arrive_and_are_measured(served: Served) -> None:
    with served.page() as page:
        assert "style-wave" in told(page, "choices")["choices"]["style"]
        stamps = [read_stamp(image) for _, image in frames(page, 15)]
        status = told(page, "fps")
    assert None not in stamps and stamps == sorted(set(stamps))  # type: ignore[type-var]
    assert status["viewers"] == 1 and status["wish"]["effect"] == "none"
    assert until(lambda: served.pipeline.figures.frames >= 10)
    assert served.pipeline.figures.whole()["age_ms"]["p50"] < 500


def test_without_credits_nothing_is_sent(served: Served) -> None:
    """A viewer that acknowledges nothing gets two frames; when it does again, the next one is new."""
    with served.page() as page:
        first = frames(page, viewers.CREDITS, acknowledge=False)
        page.send(json.dumps({"ack": 4_000_000_000}))  # one that was never sent earns no credit
        for _ in range(2):  # half a second and more, in which 50 frames are made
            told(page, "fps", frames_too=False)
        page.send(json.dumps({"ack": first[-1][0]}))
        later = frames(page, 1)
    assert later[0][0] > first[-1][0] + 20  # what lay between was dropped, not kept


def test_credits_that_are_never_given_back_return_in_time(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewers, "FORGOTTEN_S", 0.2)
    with served.page() as page:
        assert len(frames(page, viewers.CREDITS + 3, acknowledge=False)) == viewers.CREDITS + 3


def test_a_slow_viewer_does_not_slow_another(served: Served) -> None:
    with served.page() as slow, served.page() as quick:
        frames(slow, 1, acknowledge=False)
        numbers = [number for number, _ in frames(quick, 30)]
        assert numbers == sorted(numbers) and told(quick, "fps")["viewers"] == 2


def test_what_a_page_asks_for_is_done_and_bounded(served: Served) -> None:
    with served.page() as page:
        page.send(json.dumps({"set": {"mirror": True, "split": 0.5}}))
        assert until(lambda: served.pipeline.wished.mirror and served.pipeline.wished.split == 0.5)
        for message in (
            {"set": {"style": "/etc/passwd"}},
            {"set": {"effect": "../x"}},
            {"set": {"split": 7}},
            {"set": {"threads": 900}},
            {"do": "format"},
            {"ack": -1},
            [],
        ):
            page.send(json.dumps(message))
            assert told(page, "error")["error"]
        page.send("x" * 5000)
        assert "at most" in told(page, "error")["error"]
        assert frames(page, 1)  # none of it ended the conversation
    assert served.pipeline.wished.style == "style-wave"
    with served.page() as page:
        page.send(b"x" * (MOST_BYTES + 1))
        with pytest.raises(ConnectionClosed):
            while True:
                page.recv(5.0)
    assert served.get("/")[0] == 200


def test_other_sites_are_refused(served: Served) -> None:
    """What a page of another site can have a browser send: a foreign Origin, or a name that leads to this address."""
    for headers in (
        {"Host": "evil.example"},
        {"Host": f"evil.example:{served.port}"},
        {"Host": "127.0.0.1.evil.example"},
    ):
        for path in ("/", "/state", "/stream", "/live.js"):
            assert served.get(path, **headers)[0] == 403
    for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        assert served.get("/state", **headers)[0] == 403 and served.post("/say", b"{}", **headers)[0] == 403
    for origin in ("http://evil.example", f"http://127.0.0.1:{served.port + 1}", "null"):
        with pytest.raises(InvalidStatus, match="403"), served.page(origin=origin):
            pass
    assert served.get("/state", Host=f"localhost:{served.port}")[0] == 200


def test_a_token_is_asked_for_where_others_can_come() -> None:
    with serving("0.0.0.0") as served:
        token = served.view.guard.token
        assert token and len(token) > 20 and all(f"?token={token}" in url for url in served.view.urls)
        for path in ("/", "/state", "/stream", "/?token=wrong", "/?token=%C3%BC"):
            assert served.get(path)[0] == 403
        assert served.get(f"/?token={token}")[0] == 200 and served.get("/live.js")[0] == 200
        for query in ("", "?token=wrong"):
            with pytest.raises(InvalidStatus, match="403"), served.page(query):
                pass
        with served.page(f"?token={token}") as page:
            assert frames(page, 2)


def test_a_service_keeps_its_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_LIVE_TOKEN", "kitchen-window-2026")
    assert Guard.of("127.0.0.1").token is None and Guard.of("0.0.0.0").token == "kitchen-window-2026"
    for bad in ("short", "x" * 20 + "&y"):
        monkeypatch.setenv("EDGEKIT_LIVE_TOKEN", bad)
        with pytest.raises(InputError, match="16 or more"):
            Guard.of("0.0.0.0")


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
def test_https(tmp_path: Path) -> None:
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    made = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*made, *subject, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    trusting = ssl.create_default_context(cafile=certificate)
    with serving(address=Address(None, 0, certificate, key)) as served:
        assert served.url.startswith("https://127.0.0.1:")
        with urllib.request.urlopen(served.url, timeout=10, context=trusting) as answer:
            assert b"edgekit live" in answer.read()
        address = f"wss://127.0.0.1:{served.port}/ws"
        with connect(address, origin=served.url.rstrip("/"), ssl=trusting) as page:  # type: ignore[arg-type]
            assert frames(page, 2)
    with pytest.raises(InputError, match="PEM"):
        WebView(Address(None, 0, tmp_path / "none.pem", key), print)


def test_the_browsers_own_camera() -> None:
    with serving(source="browser") as served, served.page() as page, served.page() as other:
        page.send(json.dumps({"do": "own camera"}))
        assert until(lambda: served.pipeline.capture.state == "running")
        other.send(json.dumps({"do": "own camera"}))
        assert "another viewer" in told(other, "error")["error"]
        image = np.full((120, 160, 3), 90, np.uint8)
        for number in range(1, 30):
            stamp(image, 1000 + number)
            page.send(struct.pack(">If", number, 5.0) + (b"no picture" if number == 7 else jpeg(image)))
            assert told(page, "got")["got"] == number  # also of the one that cannot be decoded
        numbers = [read_stamp(shown) for _, shown in frames(other, 1)]
        assert numbers[0] is not None and numbers[0] > 1000
        page.send(struct.pack(">I", 1))
        assert "expected a frame" in told(page, "error")["error"]
        assert served.view.browser.undecodable <= 1
        page.send(json.dumps({"do": "camera"}))
        assert until(lambda: not told(other, "filmed")["filmed"])


def test_motion_jpeg_and_plain_requests(served: Served) -> None:
    with urllib.request.urlopen(f"{served.url}stream", timeout=10) as stream:
        assert stream.headers["Content-Type"].startswith("multipart/x-mixed-replace")
        data = b""
        while data.count(b"\xff\xd9\r\n") < 4:
            data += stream.read(4096)
    parts = [part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for part in data.split(b"--frame\r\n")[1:-1]]
    stamps = [read_stamp(from_jpeg(part)) for part in parts]
    assert None not in stamps and stamps == sorted(set(stamps))  # type: ignore[type-var]
    status, body = served.post("/say", json.dumps({"set": {"mirror": True}}).encode())
    assert status == 200 and json.loads(body)["wish"]["mirror"] is True
    assert served.post("/say", b"{")[0] == 400 and served.post("/say", b"x" * 5000)[0] == 413
    assert until(lambda: json.loads(served.get("/state")[1])["viewers"] == 0)  # who left is counted no more


def test_a_viewer_that_reads_nothing_holds_nobody_up(served: Served) -> None:
    """Motion JPEG has no credits: the connection's small buffer fills, and the server waits for that viewer alone."""
    with socket.create_connection(("127.0.0.1", served.port)) as stuck:
        stuck.sendall(f"GET /stream HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n\r\n".encode())
        with served.page() as page:
            numbers = [number for number, _ in frames(page, 60)]
            assert numbers == sorted(numbers) and told(page, "fps")["viewers"] == 2
        start = now()
        served.pipeline.stop()
        assert until(lambda: not any(thread.name == "live-web" for thread in threading.enumerate()), 8)
        assert now() - start < 6  # and the end does not wait for it either


def test_too_many_viewers(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewers, "MOST_VIEWERS", 1)
    with served.page() as page:
        assert frames(page, 1)
        with served.page() as second, pytest.raises(ConnectionClosed, match="too many"):
            second.recv(5.0)
        assert served.get("/stream")[0] == 503


def test_quit_ends_it(served: Served) -> None:
    with served.page() as page:
        page.send(json.dumps({"do": "quit"}))
        assert until(lambda: served.pipeline.over)


def test_a_port_in_use_and_a_foreign_address(served: Served) -> None:
    with pytest.raises(InputError, match="--port 0"):
        WebView(Address(None, served.port), print)
    with pytest.raises(InputError, match="cannot serve at 203.0.113.7"):
        WebView(Address("203.0.113.7", 0), print)


def _answer(request: urllib.request.Request) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, b"" if "stream" in request.full_url else answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def _open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
