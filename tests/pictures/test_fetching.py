"""Pictures from other hosts: allowed ones, at public addresses, without redirects, within limits."""

from __future__ import annotations

import contextlib
import http.server
import socket
import threading
import time
from collections.abc import Iterator
from typing import ClassVar

import pytest

from engine.errors import RequestError
from engine.pictures import fetch
from engine.pictures.fetch import Fetcher, is_public, public_address
from tests.support.pictures import encoded, picture

PICTURE = encoded(picture(16, 16))


class Handler(http.server.BaseHTTPRequestHandler):
    hosts: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        self.hosts.append(self.headers.get("Host"))
        status = {"/moved": 302, "/gone": 404}.get(self.path, 200)
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "http://127.0.0.1/secret")
        self.end_headers()
        if self.path == "/slow":
            with contextlib.suppress(OSError):
                for _ in range(200):
                    self.wfile.write(b"x")
                    time.sleep(0.05)
            return
        body = bytes(5000) if self.path == "/large" else PICTURE if status == 200 else b"a secret page"
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A host whose public address is, for this test, a server of this machine."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(fetch, "public_address", lambda host, port: ("127.0.0.1", server.server_port))
    yield "pictures.example.org"
    server.shutdown()
    server.server_close()


def test_from_an_allowed_host(host: str) -> None:
    assert Fetcher([host])(f"http://{host}/cat.png?size=2") == PICTURE
    assert Fetcher([host.upper()])(f"HTTP://{host.upper()}:80/cat.png") == PICTURE
    assert Handler.hosts[-1] in (host, host.upper())


@pytest.mark.parametrize(("path", "named"), [("/moved", "no redirect"), ("/gone", "status 404"), ("/large", "MiB")])
def test_answers_that_are_not_taken(host: str, path: str, named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "MAX_BYTES", 4000)
    with pytest.raises(RequestError, match=named) as caught:
        Fetcher([host])(f"http://{host}{path}")
    assert "secret" not in str(caught.value)


def test_bytes_that_come_too_slowly(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "TIMEOUT_S", 0.3)
    with pytest.raises(RequestError, match="could not be fetched within"):
        Fetcher([host])(f"http://{host}/slow")


@pytest.mark.parametrize(
    ("address", "named"),
    [
        ("http://other.example.org/x", "does not fetch pictures from that host"),
        ("http://sub.pictures.example.org/x", "does not fetch pictures from that host"),
        ("http://user:word@pictures.example.org/x", "no user and no password"),
        ("http://pictures.example.org:8080/x", "usual port"),
        ("https://pictures.example.org:80/x", "usual port"),
        ("http://pictures.example.org@other.example.org/x", "no user"),
        ("http://pictures.example.org /x", "characters"),
        ("http://pictures.example.org/\r\nHost: other", "characters"),
        ("http://127.0.0.1/x", "does not fetch pictures from that host"),
        ("http://[::1]/x", "does not fetch pictures from that host"),
        ("http://[::1/x", "no address"),
        ("http:///x", "does not fetch"),
    ],
)
def test_addresses_that_are_not_asked(address: str, named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("asked"))
    with pytest.raises(RequestError, match=named):
        Fetcher(["pictures.example.org", "127.0.0.1", "::1"])(address)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),
        *("224.0.0.1", "240.0.0.1", "255.255.255.255", "::1", "::", "fe80::1%eth0", "fc00::1", "ff02::1"),
        *("::ffff:10.0.0.1", "::ffff:127.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1", "2001:db8::1", "198.18.0.1"),
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


def test_one_private_address_is_enough_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(2, 1, 6, "", (address, 80)) for address in ("93.184.216.34", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(RequestError, match="not public"):
        public_address("pictures.example.org", 80)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found[:1])
    assert public_address("pictures.example.org", 80) == ("93.184.216.34", 80)
