"""Site: the page's routes, and the conversation with each browser that has it open."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from edgekit.demos.live import report
from edgekit.demos.live.pipeline import Pipeline
from edgekit.demos.live.views.encoding import Encoded, Encoder
from edgekit.demos.live.views.saying import MOST_TEXT, Offer, Said, heard
from edgekit.demos.live.views.viewers import Audience, Viewer
from edgekit.errors import InputError

if TYPE_CHECKING:
    from edgekit.demos.live.views.web import WebView

STATUS_S = 0.5
HEADER = struct.Struct(">If")  # of a camera's frame: its number, and how old it is in milliseconds
NUMBER = struct.Struct(">I")  # of a frame that is sent
TRY_LATER, REFUSED = 1013, 1008  # WebSocket close codes (RFC 6455, 7.4.1, and IANA's registry)
ASSETS = {
    "/": ("index.html", "text/html"),
    "/live.css": ("live.css", "text/css"),
    "/live.js": ("live.js", "text/javascript"),
}


class Site:
    """One pipeline's page. Everything but `_tell` runs on the server's event loop."""

    def __init__(self, pipeline: Pipeline, view: WebView) -> None:
        self._pipeline, self._view = pipeline, view
        self._offer = Offer(pipeline.wished)
        self._audience = Audience()
        self._camera_of: object | None = None  # the conversation whose browser's camera is the source
        self._make = pipeline.capture.make
        self._loop: asyncio.AbstractEventLoop | None = None
        Encoder(pipeline, lambda: bool(self._audience), self._tell).start()

    def app(self) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                *(Route(path, self._asset) for path in ASSETS),
                Route("/stream", self._stream),
                Route("/state", self._state),
                Route("/say", self._say, methods=["POST"]),
                WebSocketRoute("/ws", self._converse),
            ]
        )

    async def _asset(self, request: Request) -> Response:
        path = request.url.path
        if refusal := self._view.guard.refusal(request, needs_token=path == "/"):
            return PlainTextResponse(refusal, 403)
        name, kind = ASSETS[path]
        body = files("edgekit.demos.live").joinpath("page", name).read_bytes()
        return Response(body, media_type=kind, headers=_headers(request))

    async def _state(self, request: Request) -> Response:
        if refusal := self._view.guard.refusal(request):
            return PlainTextResponse(refusal, 403)
        return JSONResponse(self._status())

    async def _say(self, request: Request) -> Response:
        """What a page says that has no WebSocket."""
        if refusal := self._view.guard.refusal(request):
            return PlainTextResponse(refusal, 403)
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > MOST_TEXT:
                return PlainTextResponse(f"expected at most {MOST_TEXT} bytes", 413)
        try:
            self._do(heard(body), None)
        except InputError as error:
            return PlainTextResponse(str(error), 400)
        return JSONResponse(self._status())

    async def _stream(self, request: Request) -> Response:
        """Motion JPEG, for what has no WebSocket, such as <img>, OpenCV or VLC."""
        if refusal := self._view.guard.refusal(request):
            return PlainTextResponse(refusal, 403)
        if self._audience.full:
            return PlainTextResponse("there are too many viewers: close one", 503)
        kind = "multipart/x-mixed-replace; boundary=frame"
        return StreamingResponse(self._parts(), media_type=kind, headers={"Cache-Control": "no-store"})

    async def _parts(self) -> AsyncIterator[bytes]:
        viewer = self._enter()
        try:
            while not self._pipeline.over:
                frame = await viewer.next()
                yield b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(frame.jpeg)
                yield frame.jpeg + b"\r\n"
                self._acknowledged(viewer, frame.number)  # it went out: more is not known
        finally:
            self._audience.leave(viewer)

    async def _converse(self, socket: WebSocket) -> None:
        if self._view.guard.refusal(socket):
            await socket.close(REFUSED)  # before it is accepted: HTTP 403
            return
        await socket.accept()
        if self._audience.full:
            await socket.close(TRY_LATER, "there are too many viewers: close one")
            return
        viewer = self._enter()
        tasks = [asyncio.create_task(self._send(socket, viewer)), asyncio.create_task(self._inform(socket))]
        try:
            await self._listen(socket, viewer)
        except (WebSocketDisconnect, RuntimeError):
            pass  # the browser left, in the midst of a message perhaps
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._audience.leave(viewer)
            if self._camera_of is viewer:
                self._camera_back()

    async def _listen(self, socket: WebSocket, viewer: Viewer) -> None:
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            if (data := message.get("bytes")) is not None:
                await self._filmed(socket, viewer, data)
                continue
            try:
                said = heard(message["text"].encode())
                if said.ack is not None:
                    self._acknowledged(viewer, said.ack)
                self._do(said, viewer)
            except InputError as error:
                await socket.send_text(_json({"error": str(error)}))

    async def _filmed(self, socket: WebSocket, viewer: Viewer, data: bytes) -> None:
        """A frame of this browser's camera; it is acknowledged whatever becomes of it."""
        if len(data) < HEADER.size:
            await socket.send_text(_json({"error": f"got {len(data)} bytes: expected a frame"}))
            return
        number, age_ms = HEADER.unpack_from(data)
        if self._camera_of is viewer:
            self._view.browser.send(data[HEADER.size :], age_ms / 1e3 if age_ms == age_ms else 0.0)
        await socket.send_text(_json({"got": number}))

    async def _send(self, socket: WebSocket, viewer: Viewer) -> None:
        while True:
            frame = await viewer.next()
            await socket.send_bytes(NUMBER.pack(frame.number) + frame.jpeg)

    async def _inform(self, socket: WebSocket) -> None:
        await socket.send_text(_json({"choices": self._offer.choices}))
        while True:
            await socket.send_text(_json(self._status()))
            await asyncio.sleep(STATUS_S)

    def _do(self, said: Said, viewer: Viewer | None) -> None:
        """
        Raises:
            InputError: it cannot be done.
        """
        if said.set is not None:
            self._pipeline.wish(**self._offer.changes(said.set))
        if said.do == "quit":
            self._pipeline.stop()
        elif said.do == "own camera" and viewer is not None:
            if self._camera_of is not None and self._camera_of is not viewer:
                raise InputError("another viewer's camera is on: it must be stopped first")
            self._camera_of = viewer
            self._pipeline.capture.turn_to(self._view.camera)
        elif said.do == "camera" and self._camera_of is not None and self._camera_of is viewer:
            self._camera_back()

    def _camera_back(self) -> None:
        """The source that the server began with."""
        self._camera_of = None
        self._pipeline.capture.turn_to(self._make)

    def _enter(self) -> Viewer:
        self._loop = asyncio.get_running_loop()
        return self._audience.enter()

    def _acknowledged(self, viewer: Viewer, number: int) -> None:
        frame = viewer.acknowledged(number)
        if frame is not None and self._audience.first_to_show(frame):
            self._pipeline.figures.shown(frame.shown)

    def _tell(self, frame: Encoded) -> None:
        """Called by the encoder's thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._audience.spread, frame)

    def _status(self) -> dict[str, Any]:
        wish = self._pipeline.wanted
        asked = {
            name: getattr(wish, name)
            for name in ("effect", "style", "upscaler", "runtime", "precision", "mirror", "smooth", "split")
        }
        status = report.status(self._pipeline)
        return {**status, "wish": asked, "viewers": len(self._audience), "filmed": self._camera_of is not None}


def _headers(request: HTTPConnection) -> dict[str, str]:
    """Nothing from elsewhere is loaded, and nobody may frame the page."""
    host = request.headers["host"]
    policy = f"default-src 'self'; img-src 'self' blob: data:; connect-src 'self' ws://{host} wss://{host}; frame-ancestors 'none'; base-uri 'none'"
    return {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
        "Cross-Origin-Resource-Policy": "same-origin",
    }


def _json(value: dict[str, Any]) -> str:
    return msgspec.json.encode(value).decode()
