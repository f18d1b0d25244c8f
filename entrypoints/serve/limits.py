"""What a request may weigh, checked before anything is kept: headers, body bytes, media type.

The body is counted while it is read, so a chunked upload without a length stops at the cap too. Deadlines for slow
headers and bodies, and the cap on headers that have no end, are enforced at the socket (``protocol.py``).
"""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.entrypoints.serve.errors import error_response
from engine.errors import (
    HeadersTooLargeError,
    InvalidRequestError,
    RequestError,
    TooLargeError,
    UnsupportedMediaError,
)

MAX_HEADERS = 128
MAX_HEADER_BYTES = 32 * 1024
LINGER_S = 2.0
"""How long a refused upload is still read and thrown away, so that its sender gets to see the answer."""

REQUEST_ID = re.compile(r"[A-Za-z0-9._:\-]{1,128}\Z")


class RequestIds:
    """ASGI middleware, outermost: every request has an id, the client's if it sent a usable one, and hears it back.

    While the server stops, it also says that the connection will not be kept, so that no client sends its next call
    into a connection that is about to close.
    """

    def __init__(self, app: ASGIApp, stopping: Callable[[], bool]) -> None:
        self._app = app
        self._stopping = stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        wanted = Headers(scope=scope).get("x-request-id", "")
        # A call may name its own in the body: who needs the id reads it from here.
        scope.setdefault("state", {})["request_id"] = wanted if REQUEST_ID.match(wanted) else uuid.uuid4().hex

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), (b"x-request-id", scope["state"]["request_id"].encode())]
                message["headers"] = [*headers, (b"connection", b"close")] if self._stopping() else headers
            await send(message)

        await self._app(scope, receive, send_with_id)


class Limits:
    """ASGI middleware that refuses what is too large: 413, 431; at once where a header already says so."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        num_bytes = 0
        over = False

        async def counted() -> Message:
            nonlocal num_bytes, over
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._max_body_bytes:
                over = True
                raise self._too_large(f"more than {num_bytes - 1}")
            return message

        async def closing(message: Message) -> None:
            """After a refusal the rest of the upload is in the way: the connection ends with the answer."""
            if over and message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            if over and message["type"] == "http.response.body" and not message.get("more_body"):
                await send({**message, "more_body": True})
                await _linger(receive)
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        try:
            self._check_headers(scope)
        except RequestError as error:
            over = True
            await error_response(error, scope)(scope, receive, closing)
            return
        await self._app(scope, counted, closing)

    def _check_headers(self, scope: Scope) -> None:
        headers = scope["headers"]
        if len(headers) > MAX_HEADERS or sum(len(k) + len(v) for k, v in headers) > MAX_HEADER_BYTES:
            raise HeadersTooLargeError(f"Headers may be {MAX_HEADERS} in number and {MAX_HEADER_BYTES} bytes in all.")
        length = Headers(scope=scope).get("content-length")
        if length is None:
            return
        if not length.isascii() or not length.isdigit():
            raise InvalidRequestError(f"Content-Length {length!r} is no number.")
        if int(length) > self._max_body_bytes:
            raise self._too_large(length)

    def _too_large(self, length: str) -> TooLargeError:
        return TooLargeError(
            f"The body has {length} bytes; at most {self._max_body_bytes} are taken (--max-body-bytes)."
        )


async def _linger(receive: Receive) -> None:
    """Read on and forget, for a moment: closing at once would reset the connection under the answer."""

    async def read_on() -> None:
        while (message := await receive())["type"] == "http.request" and message.get("more_body"):
            pass

    try:
        await asyncio.wait_for(read_on(), LINGER_S)
    except TimeoutError:
        return


def check_media_type(headers: Headers) -> None:
    """Raises ``UnsupportedMediaError`` unless the body is JSON, or says nothing about itself.

    A compressed body is refused too, since inflating is how a small body becomes a huge one.
    """
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaError("Compressed bodies are not taken: send plain JSON.")
    if "content-type" not in headers and ("origin" in headers or "sec-fetch-site" in headers):
        raise UnsupportedMediaError("A browser must say Content-Type: application/json.")
    media_type = headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if media_type != "application/json" and not (
        media_type.startswith("application/") and media_type.endswith("+json")
    ):
        raise UnsupportedMediaError(f"Content-Type {media_type!r}: only application/json is taken.")
