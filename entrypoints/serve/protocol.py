"""uvicorn's HTTP protocol with the deadlines and caps that it lacks, where they belong: at the socket.

This is also the one place for what uvicorn and httptools would do otherwise with HTTP/1.1's corners
(``tests/faults/test_http_corners.py`` has them as bytes):

* The head of a request is here ``header_timeout_s`` after its first byte, or after the connection was made; otherwise
  the connection ends. The deadline is absolute: a byte now and then does not move it.
* A head is at most ``MAX_HEADER_BYTES`` long (431); memory is not spent on more. Trailers, which may follow a chunked
  body, are held to the same limit and read for nothing: they never become headers (RFC 9110, section 6.5.1).
* A request of HTTP/1.1 names its host, once (400; RFC 9112, section 3.2). A target with a host of its own counts before
  the header (section 3.2.2). Other versions than 1.0 and 1.1 are refused.
* A wish for another protocol (``Upgrade``: h2c, websocket) is ignored, and the request answered as it is; httptools
  would stop to read at its head and lose its body (RFC 9110, section 7.8).
* What is no HTTP is answered with 400 in JSON. Requests of the same connection that came before it are answered first,
  and then the connection only ends: otherwise the client would take the error for the answer to an earlier one.
* What goes with a chunked body, sizes and extensions of its chunks, is at most half of it and ``MAX_HEADER_BYTES``
  more (400): every chunk costs a call of Python, so that a body byte by byte would keep all others waiting.
* A body is here ``body_timeout_s`` after its head, or has come at ``MIN_BODY_BYTES_PER_S`` or more; otherwise 408.
* Beyond ``max_connections``, the connection that has waited longest without a request ends, so that a flood of idle
  connections cannot shut out those who want something.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from engine.entrypoints.serve.errors import error_object
from engine.entrypoints.serve.limits import LINGER_S, MAX_HEADER_BYTES
from engine.errors import EngineError, HeadersTooLargeError, InvalidRequestError, RequestTimeoutError

MIN_BODY_BYTES_PER_S = 64 * 1024


@dataclass
class SocketLimits:
    """Deadlines and caps that all connections of a server share."""

    header_timeout_s: float
    body_timeout_s: float
    max_connections: int
    idle: dict[GuardedProtocol, None] = field(default_factory=dict)
    """Connections without a request, the one that has waited longest first."""


def guarded_protocol(limits: SocketLimits) -> type[GuardedProtocol]:
    """A protocol class with these limits. uvicorn makes the protocols itself, so the limits travel on the class."""
    return type("GuardedProtocol", (GuardedProtocol,), {"limits": limits})


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with the deadlines and caps of this module.

    Between requests uvicorn's own keep-alive timeout holds.
    """

    limits: SocketLimits

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None
        self._in_head = False
        self._in_body = False
        self._refused = False
        self._head_bytes = 0
        self._fields_bytes = 0
        self._quiet_bytes = 0
        self._body_bytes = 0
        self._sent_bytes = 0
        """What has come since the head, the framing of chunks included."""
        self._body_since_s = 0.0

    # -- the life of a connection ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.limits.idle[self] = None
        if len(self.connections) > self.limits.max_connections:
            oldest = next(iter(self.limits.idle))
            oldest.transport.abort()
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self.limits.idle.pop(self, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return  # read and forgotten, so that the answer is not reset under way
        if self._in_head:
            self._head_bytes += len(data)
        if self._in_body:
            self._sent_bytes += len(data)
        self._quiet_bytes += len(data)
        self._unset_keepalive_if_required()
        self._feed(data)
        self._check_sizes()

    def _check_sizes(self) -> None:
        if self._refused or self.transport.is_closing():
            return
        if self._in_body and max(self._quiet_bytes, self._fields_bytes) > MAX_HEADER_BYTES:
            self._refuse(HeadersTooLargeError(f"What follows a chunked body may have {MAX_HEADER_BYTES} bytes."))
        elif self._in_body and self._sent_bytes > MAX_HEADER_BYTES + self._body_bytes * 3 // 2:
            why = "The chunks of this body are too small: their sizes and extensions are more than half of it."
            self._refuse(InvalidRequestError(why, code="invalid_http"))
        elif self._in_head and self._head_bytes > MAX_HEADER_BYTES:
            self._refuse(HeadersTooLargeError(f"The head of a request may have {MAX_HEADER_BYTES} bytes."))

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            why = f": {reason}" if (reason := str(error).strip("."))[:200] else ""
            self._refuse(InvalidRequestError(f"This is no request of HTTP/1.1{why}.", code="invalid_http"))

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Reads the request once more, without the headers that ask for another protocol; ``rest`` follows its head."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        if self._refused or method == b"CONNECT":
            return
        kept = [(name, _without_upgrade(value) if name == b"connection" else value) for name, value in self.headers]
        kept = [(name, value) for name, value in kept if value and name not in (b"upgrade", b"http2-settings")]
        lines = [method + b" " + self.url + b" HTTP/" + version, *(name + b": " + value for name, value in kept)]
        self.parser = httptools.HttpRequestParser(self)
        self._fields_bytes = 0
        self._feed(b"\r\n".join(lines) + b"\r\n\r\n" + rest)

    def on_message_begin(self) -> None:
        if self._refused:
            return
        if not self._in_head:
            self._await_head()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._fields_bytes += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields_bytes += len(name) + len(value)
        if not self._in_body:  # otherwise a trailer
            super().on_header(name, value)

    def _head_error(self) -> EngineError | None:
        if self._fields_bytes > MAX_HEADER_BYTES:
            return HeadersTooLargeError(f"The head of a request may have {MAX_HEADER_BYTES} bytes.")
        version = self.parser.get_http_version()
        if version not in ("1.0", "1.1"):
            return InvalidRequestError(f"HTTP/{version} is not spoken here, but HTTP/1.1.", code="invalid_http")
        for name, value in self.headers:
            if name == b"transfer-encoding" and value.strip().lower() != b"chunked":
                return InvalidRequestError("The only Transfer-Encoding that is taken is chunked.", code="invalid_http")
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (hosts == 0 and version == "1.1"):
            return InvalidRequestError("A request of HTTP/1.1 has one Host header.", code="invalid_http")
        if self.parser.get_method() == b"CONNECT":
            return InvalidRequestError("This server is no proxy: CONNECT is not possible.", code="invalid_http")
        return None

    def _name_host(self) -> None:
        """The host that the target itself names, if it does, is the one that was asked."""
        if not self.url.startswith(b"/") and (authority := urlsplit(self.url).netloc):
            self.headers[:] = [(name, authority if name == b"host" else value) for name, value in self.headers]

    def on_headers_complete(self) -> None:
        if self._refused:
            return
        error = self._head_error()
        if error is not None:
            self._refuse(error)
            return
        if self.parser.should_upgrade():
            return  # to be read once more
        self._fields_bytes = 0
        self._name_host()
        self._disarm()
        self._in_head, self._head_bytes, self._quiet_bytes = False, 0, 0
        self._in_body, self._body_bytes, self._sent_bytes = True, 0, 0
        self._body_since_s = time.monotonic()
        self.limits.idle.pop(self, None)
        self._deadline = self.loop.call_later(self.limits.body_timeout_s, self._body_is_late)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self._refused:
            return
        self._body_bytes += len(body)
        self._quiet_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._refused or not self._in_body:
            return
        self._disarm()
        self._in_body = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._refused and not self._answering:
            self.transport.close()
        if not self.transport.is_closing() and not self.pipeline:
            self.limits.idle[self] = None

    # -- deadlines ------------------------------------------------------------------------------------------------

    def _await_head(self) -> None:
        self._disarm()
        self._in_head = True
        self._deadline = self.loop.call_later(self.limits.header_timeout_s, self._head_is_late)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    @property
    def _answering(self) -> bool:
        """An earlier request of this connection is being answered, and reading may be paused for it."""
        return bool(self.pipeline) or (self.cycle is not None and not self.cycle.response_complete)

    def _head_is_late(self) -> None:
        if self._answering:
            self._await_head()
        elif not self.transport.is_closing():
            self.transport.close()

    def _body_is_late(self) -> None:
        spent = time.monotonic() - self._body_since_s
        allowed = self.limits.body_timeout_s + self._body_bytes / MIN_BODY_BYTES_PER_S
        if spent < allowed or self.pipeline:
            self._deadline = self.loop.call_later(max(1.0, allowed - spent), self._body_is_late)
        elif not self.transport.is_closing():
            late = f"The body did not arrive within {self.limits.body_timeout_s:g} s (--body-timeout-s)."
            self._refuse(RequestTimeoutError(late))

    def _refuse(self, error: EngineError) -> None:
        """Answers without the application, which is told that its client has left; then closes.

        Requests that came before are answered first; behind them there is no answer, only the end.
        """
        if self._refused:
            return
        self._disarm()
        if self._in_body and self.pipeline:
            self.pipeline.popleft()  # it waited for others, and will never be whole
            self._in_body = False
        if self._answering and not self._in_body:
            self._refused = True
            return
        answering, can_answer = self._answering, self._in_head
        if answering:
            can_answer = not self.cycle.response_started
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if not can_answer:
            self.transport.close()
            return
        self._answer_and_close(error)

    def _answer_and_close(self, error: EngineError) -> None:
        self._disarm()
        self._refused = True
        body = msgspec.json.encode(error_object(error, uuid.uuid4().hex))
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[error.status] + head + body)
        if self.transport.can_write_eof():  # not under TLS
            self.transport.write_eof()
        self._deadline = self.loop.call_later(LINGER_S, self.transport.close)
        self.flow.resume_reading()


def _without_upgrade(connection: bytes) -> bytes:
    """The options of a ``Connection`` header that do not ask for another protocol."""
    options = (option.strip() for option in connection.split(b","))
    return b", ".join(option for option in options if option.lower() not in (b"upgrade", b"http2-settings"))
