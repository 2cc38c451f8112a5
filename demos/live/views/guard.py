"""Guard: whom the page answers. A token where it is served to others, and only requests that come from the page itself."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import secrets
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from edgekit.errors import InputError

TOKEN, LEAST_TOKEN = "EDGEKIT_LIVE_TOKEN", 16
SIOCGIFADDR = 0x8915
LOCAL = ("127.0.0.1", "localhost", "[::1]")


@dataclass(frozen=True)
class Guard:
    """`hosts`: the names that this machine is addressed by; `token`: None on this machine alone.

    A page of another site can make a browser send requests here, under a name of its own that leads to this address
    (DNS rebinding), or by opening a WebSocket, which browsers allow across origins. So `Host` must be one of ours,
    and an `Origin` that is stated must be that of our own page.
    """

    hosts: frozenset[str]
    token: str | None = None

    @classmethod
    def of(cls, host: str | None) -> Guard:
        """For a server bound to `host`; None is this machine alone.

        The token is new each time, or what the environment's EDGEKIT_LIVE_TOKEN says: a service keeps its address then.

        Raises:
            InputError: that is too short to keep anybody out.
        """
        if host is None or host in (*LOCAL, "::1"):
            return cls(frozenset(LOCAL))
        token = os.environ.get(TOKEN) or secrets.token_urlsafe(16)
        if len(token) < LEAST_TOKEN or not token.replace("-", "").replace("_", "").isalnum() or not token.isascii():
            raise InputError(
                f"{TOKEN} must have {LEAST_TOKEN} or more letters, digits, - and _: it is what keeps others out"
            )
        return cls(frozenset({*LOCAL, *_names(host)}), token)

    def refusal(self, request: HTTPConnection, *, needs_token: bool = True) -> str | None:
        """Why a request is not answered; None: it is."""
        host = request.headers.get("host", "")
        if _bare(host) not in self.hosts:
            return f"the host '{host}' is not one of {', '.join(sorted(self.hosts))}"
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return f"the page of '{origin}' may not use this one"
        if origin is None and request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return "a page of another site may not embed this one"
        if needs_token and not self.knows(request.query_params):
            return "the token is missing or wrong: open the address that `edgekit live` printed"
        return None

    def knows(self, query: Mapping[str, str]) -> bool:
        """Whether the query has the token, where there is one."""
        return self.token is None or secrets.compare_digest(query.get("token", "").encode(), self.token.encode())


def addresses(host: str) -> list[str]:
    """Names and addresses under which other machines may reach a server bound to `host`."""
    if host not in ("0.0.0.0", "::"):
        return [_bracketed(host)]
    name = socket.gethostname()
    others = sorted(address for address in _own() if not ipaddress.ip_address(address).is_loopback)
    return [*others, f"{name.removesuffix('.local')}.local", name]


def _names(host: str) -> set[str]:
    return {name.lower() for name in addresses(host)}


def _own() -> set[str]:
    """The IPv4 addresses of this machine's interfaces, as Linux tells them (netdevice(7), SIOCGIFADDR)."""
    found = set()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # an interface without an address
                answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                found.add(socket.inet_ntoa(answer[20:24]))
    return found


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address and not address.startswith("[") else address


def _bare(host: str) -> str:
    """A Host header without its port."""
    name = host.lower()
    return name.partition("]")[0] + "]" if name.startswith("[") else name.partition(":")[0]
