"""Where the npm registry is, and what is fetched from it: against a small registry on loopback."""

from __future__ import annotations

import base64
import hashlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.demos.web import npm
from edgekit.errors import HashMismatch, InputError, NotInstalled

DATA = bytes(range(256)) * 3000
ARCHIVE = npm.Archive(
    "some-package", "1.2.3", len(DATA), "sha512-" + base64.b64encode(hashlib.sha512(DATA).digest()).decode()
)


class Registry(http.server.BaseHTTPRequestHandler):
    """Answers with DATA where npm's registries have the archive; a proxy is asked with the whole address."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        found = self.path.endswith("/some-package/-/some-package-1.2.3.tgz")
        self.send_response(200 if found else 404)
        self.end_headers()
        if found:
            self.wfile.write(DATA)

    def log_message(self, *given: object) -> None:
        pass


@pytest.fixture
def served() -> Iterator[tuple[str, list[str]]]:
    """A registry's address, and what it was asked for."""
    asked: list[str] = []
    handler = type("Handler", (Registry,), {"asked": asked})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/", asked
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("npm_config_registry", "NPM_CONFIG_REGISTRY", "http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("npm_config_userconfig", str(tmp_path / "npmrc"))
    monkeypatch.setattr(npm.shutil, "which", lambda name: None)


def test_the_registry_is_the_given_one_then_the_environments_then_that_of_npmrc(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(NotInstalled, match="--registry URL"):
        npm.registry()
    monkeypatch.setenv("HOST", "mirror.test")
    (tmp_path / "npmrc").write_text('; registry=https://old.test\nfund=false\nregistry = "https://${HOST}/npm"\n')
    assert npm.registry() == "https://mirror.test/npm/"
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "http://mine.test")
    assert npm.registry() == "http://mine.test/"
    assert npm.registry("https://given.test/x/") == "https://given.test/x/"


def test_npm_is_asked_where_nothing_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "npm"
    script.write_text("#!/bin/sh\n[ \"$*\" = 'config get registry --workspaces=false' ] && echo https://npm.test/\n")
    script.chmod(0o755)
    monkeypatch.setattr(npm.shutil, "which", lambda name: str(script))
    assert npm.registry() == "https://npm.test/"
    script.write_text("#!/bin/sh\necho undefined\n")
    with pytest.raises(NotInstalled):
        npm.registry()


@pytest.mark.parametrize("address", ["file:///etc/", "npm.test", "https://", "ftp://npm.test/"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(InputError, match="expected an address"):
        npm.registry(address)


def test_an_archive_is_fetched_and_checked(served: tuple[str, list[str]], tmp_path: Path) -> None:
    address, asked = served
    told: list[int] = []
    npm.fetch(ARCHIVE, tmp_path / "a.tgz", address, told.append)
    assert (tmp_path / "a.tgz").read_bytes() == DATA and told[-1] == len(DATA)
    assert asked == ["/some-package/-/some-package-1.2.3.tgz"]
    with pytest.raises(HashMismatch, match="not what was published"):
        npm.fetch(replace(ARCHIVE, integrity="sha512-AAAA"), tmp_path / "b.tgz", address)
    with pytest.raises(HashMismatch):
        npm.fetch(replace(ARCHIVE, bytes=100), tmp_path / "b.tgz", address)


def test_what_cannot_be_fetched_is_named_without_passwords(served: tuple[str, list[str]], tmp_path: Path) -> None:
    with pytest.raises(NotInstalled, match=r"some-package@9 cannot be fetched .*404"):
        npm.fetch(replace(ARCHIVE, version="9"), tmp_path / "a.tgz", served[0])
    with pytest.raises(NotInstalled, match="127.0.0.1") as caught:
        npm.fetch(ARCHIVE, tmp_path / "a.tgz", "http://me:secret@127.0.0.1:1/")
    assert "secret" not in str(caught.value)


def test_a_proxy_of_the_environment_is_used(
    served: tuple[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", served[0])
    npm.fetch(ARCHIVE, tmp_path / "a.tgz", "http://registry.test/")
    assert served[1] == ["http://registry.test/some-package/-/some-package-1.2.3.tgz"]
