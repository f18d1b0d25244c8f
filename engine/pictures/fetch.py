"""Pictures from hosts that the operator allows, and from nowhere else.

A name that is allowed may still be pointed at this machine or its network by whoever owns it, or by a redirect. So the
addresses of a name are looked up once, every one of them must be public, the connection goes to the address that was
checked, and an answer that points elsewhere is an error.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from urllib.parse import SplitResult, urlsplit

from engine.errors import PARAM, InvalidRequestError
from engine.pictures.source import MAX_BYTES, too_large

TIMEOUT_S = 10.0
"""Of a picture, from the first packet to the last byte."""
PORTS = {"http": 80, "https": 443}
_CHUNK = 1 << 16
_NEVER = tuple(
    ipaddress.ip_network(network)
    for network in ("100.64.0.0/10", "192.0.0.0/24", "198.18.0.0/15", "2002::/16", "64:ff9b::/96", "2001::/32")
)
"""Networks that ``is_global`` may call public, but which stand for others: shared, tunnelled, translated."""


class Fetcher:
    """Fetches from the allowed hosts. Any thread may use it."""

    def __init__(self, hosts: Sequence[str]) -> None:
        self._hosts = frozenset(host.lower().rstrip(".") for host in hosts)

    def __call__(self, address: str) -> bytes:
        """The bytes at an address. Raises ``RequestError``, about no field."""
        parts = self._checked(address)
        host, scheme = str(parts.hostname), parts.scheme.lower()
        deadline = time.monotonic() + TIMEOUT_S
        try:
            connection = _connection(host, public_address(host, PORTS[scheme]), scheme)
            alarm = threading.Timer(TIMEOUT_S, _cut, [connection.sock])  # however slowly the bytes come
            alarm.start()
            try:
                found = _body(connection, parts, host)
            finally:
                alarm.cancel()
                connection.close()
            if time.monotonic() > deadline:
                raise TimeoutError
            return found
        except (OSError, http.client.HTTPException) as error:
            message = f"{PARAM}: the picture could not be fetched within {TIMEOUT_S:g} s ({type(error).__name__})."
            raise InvalidRequestError(message, code="unreadable_image") from error

    def _checked(self, address: str) -> SplitResult:
        try:
            parts = urlsplit(address)
            port, host = parts.port, (parts.hostname or "").rstrip(".")
        except ValueError as error:
            raise InvalidRequestError(f"{PARAM} is no address of a picture.") from error
        if not address.isascii() or any(letter <= " " for letter in address):
            raise InvalidRequestError(f"{PARAM} is no address of a picture: it holds characters that none has.")
        if parts.username is not None or parts.password is not None:
            raise InvalidRequestError(f"{PARAM}: addresses of pictures hold no user and no password.")
        if host not in self._hosts or _is_number(host):
            known = "it was started with --allowed-image-hosts for others" if self._hosts else "it fetches none"
            raise InvalidRequestError(
                f"{PARAM}: this server does not fetch pictures from that host: {known}. Send the picture itself as "
                "data:image/png;base64,...",
                code="image_host_not_allowed",
            )
        if port not in (None, PORTS[parts.scheme.lower()]):
            raise InvalidRequestError(f"{PARAM}: pictures are fetched from the usual port only.")
        return parts


def _is_number(host: str) -> bool:
    try:
        socket.inet_aton(host)
    except OSError:
        return ":" in host
    return True


def public_address(host: str, port: int) -> tuple[str, int]:
    """An address of a host, all of whose addresses are public. Raises ``InvalidRequestError`` where one is not."""
    found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    for text in found:
        if not is_public(text):
            raise InvalidRequestError(
                f"{PARAM}: the host of the picture has an address that is not public.", code="image_host_not_allowed"
            )
    return found[0], port


def is_public(text: str) -> bool:
    """Whether an address is one of the open network."""
    address: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    inside = any(address in network for network in _NEVER if network.version == address.version)
    return address.is_global and not inside and not address.is_multicast and not address.is_reserved


def _connection(host: str, place: tuple[str, int], scheme: str) -> http.client.HTTPConnection:
    """Connected to the address that was checked; the name is only said to the server, and proved by it."""
    raw = socket.create_connection(place, timeout=TIMEOUT_S)
    if scheme == "https":
        try:
            raw = ssl.create_default_context().wrap_socket(raw, server_hostname=host)
        except BaseException:
            raw.close()
            raise
    connection = http.client.HTTPConnection(host, place[1], timeout=TIMEOUT_S)
    connection.sock = raw
    return connection


def _cut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _body(connection: http.client.HTTPConnection, parts: SplitResult, host: str) -> bytes:
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection.request("GET", target, headers={"Host": host, "Accept": "image/png, image/jpeg, image/webp"})
    with connection.getresponse() as answer:
        return _read(answer)


def _read(answer: http.client.HTTPResponse) -> bytes:
    if 300 <= answer.status < 400:
        raise InvalidRequestError(f"{PARAM}: the host of the picture points elsewhere, and no redirect is followed.")
    if answer.status != 200:
        raise InvalidRequestError(
            f"{PARAM}: the host of the picture answered with status {answer.status}.", code="unreadable_image"
        )
    parts_read: list[bytes] = []
    size = 0
    while chunk := answer.read1(_CHUNK):
        size += len(chunk)
        if size > MAX_BYTES:
            raise too_large()
        parts_read.append(chunk)
    return b"".join(parts_read)
