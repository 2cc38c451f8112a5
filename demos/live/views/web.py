"""Web view: a page on this machine, or for others with a token, fed by WebSocket with credits, or by MJPEG."""

from __future__ import annotations

import importlib
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edgekit.demos.live.pipeline import TICK_S, Pipeline
from edgekit.demos.live.sources import Source
from edgekit.demos.live.views.view import View
from edgekit.errors import InputError, NotInstalled

if TYPE_CHECKING:
    from edgekit.demos.live.opening import Address

MOST_BYTES = 2**21  # of one WebSocket message: a camera's JPEG
SEND_BUFFER = 2**18  # of a connection: what a slow viewer has not read yet is old, so there is little room for it


class WebView(View):
    """Serves the page; the address is taken when it is made, so that a port in use is known before a model is opened."""

    def __init__(self, address: Address, say: Callable[[str], Any]) -> None:
        """Take the address.

        Raises:
            NotInstalled: the server's packages. InputError: the address cannot be had.
        """
        for package in ("starlette", "uvicorn", "websockets"):
            try:
                importlib.import_module(package)
            except ImportError as error:
                raise NotInstalled.named("--view web", package, "live") from error
        from edgekit.demos.live.views.browser import BrowserCamera
        from edgekit.demos.live.views.guard import Guard, addresses

        for path in (address.certificate, address.key):
            if path is not None and not path.is_file():
                raise InputError(f"no certificate or key at '{path}': expected a PEM file")
        host = address.host or "127.0.0.1"
        self._address, self._say = address, say
        self._socket = _listening(host, address.port)
        self.guard = Guard.of(address.host)
        self.browser = BrowserCamera()
        port = self._socket.getsockname()[1]
        scheme = "https" if address.certificate else "http"
        query = f"/?token={self.guard.token}" if self.guard.token else "/"
        self.urls = [f"{scheme}://{name}:{port}{query}" for name in addresses(host)]

    def camera(self) -> Source:
        """The camera of whoever looks at the page: made anew each time that it is opened."""
        from edgekit.demos.live.views.browser import BrowserCamera

        self.browser = BrowserCamera()
        return self.browser

    def run(self, pipeline: Pipeline) -> None:
        import uvicorn

        from edgekit.demos.live.views.site import Site

        site = Site(pipeline, self)
        config = uvicorn.Config(
            site.app(),
            ws="websockets-sansio",
            ws_max_size=MOST_BYTES,
            lifespan="off",
            log_level="critical",
            timeout_graceful_shutdown=1,
            server_header=False,
            ssl_certfile=self._address.certificate,
            ssl_keyfile=self._address.key,
        )
        server = uvicorn.Server(config)
        serving = threading.Thread(target=server.run, args=([self._socket],), name="live-web", daemon=True)
        serving.start()
        self._say(f"open {' or '.join(self.urls)}")
        try:
            while not pipeline.over and serving.is_alive():
                serving.join(TICK_S)
        finally:
            pipeline.stop()
            server.should_exit = True
            serving.join(5.0)
            self._socket.close()


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        InputError: the address cannot be had.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family, backlog=64)
    except OSError as error:
        raise InputError(
            f"cannot serve at {host}:{port} ({error.strerror or error}): --port 0 takes a free one, and --host needs a name or "
            "address of this machine"
        ) from error
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    return listening
