"""Scores as they come: server-sent events or JSON lines, and what happens when the client goes away.

Every finished step sends its pairs at once, each with its index; the last message is the whole ordered answer, the same
object that a call without streaming gets. A client's departure is seen at once, not at the next write: one task reads
``receive`` while another works, and whichever ends first ends both.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from engine.entrypoints.serve.dialects.base import CallResult, Dialect, TextPaths
from engine.entrypoints.serve.errors import for_clients
from engine.entrypoints.serve.service import Progress
from engine.errors import EngineError, ShuttingDownError
from engine.request import RerankCall
from engine.scoring.result_assembler import PairScore

T = TypeVar("T")
_encode = msgspec.json.Encoder().encode


class ClientDisconnectedError(Exception):
    """The client has closed the connection: nobody waits for the answer."""


async def while_connected(work: Coroutine[Any, Any, T], receive: Receive, cut_off: asyncio.Event) -> T:
    """The result of ``work``, which is cancelled when the client leaves or the drain deadline passes first.

    Raises ``ClientDisconnectedError`` or ``ShuttingDownError`` then.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_until_disconnect(receive))
    stop = asyncio.ensure_future(cut_off.wait())
    try:
        await asyncio.wait((task, gone, stop), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if gone.done():
            raise ClientDisconnectedError
        raise ShuttingDownError("The server shut down before the call was finished.", retry_after_s=5)
    finally:
        await _ended(task, gone, stop)


async def _ended(*futures: asyncio.Future[Any]) -> None:
    """Cancels them and waits for their end, however often the waiting itself is cancelled: the call must have left the
    core before its permit is released."""
    for future in futures:
        future.cancel()
    cancelled: asyncio.CancelledError | None = None
    pending = set(futures)
    while pending:
        try:
            _, pending = await asyncio.wait(pending)
        except asyncio.CancelledError as error:
            cancelled = error
            pending = {future for future in pending if not future.done()}
    if cancelled is not None:
        raise cancelled


async def _until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Lines:
    """The form of one message of a stream: server-sent events, or a JSON object on a line."""

    media_type: str

    def __init__(self, event_stream: bool) -> None:
        self._event_stream = event_stream
        self.media_type = "text/event-stream" if event_stream else "application/x-ndjson"

    def line(self, event: str, content: Any) -> bytes:
        """One message; ``event`` is left out where every message is a line of JSON."""
        data = _encode(content)
        return b"event: %s\ndata: %s\n\n" % (event.encode(), data) if self._event_stream else data + b"\n"


class ScoreStream(Response):
    """A response that is written while the call runs."""

    def __init__(
        self,
        progress: AsyncGenerator[Progress, None],
        *,
        call: RerankCall,
        dialect: Dialect,
        text_paths: TextPaths,
        lines: Lines,
        request_id: str,
        cut_off: asyncio.Event,
        finished: Callable[[CallResult | EngineError | None], None],
    ) -> None:
        super().__init__(media_type=lines.media_type, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._progress = progress
        self._call = call
        self._dialect = dialect
        self._text_paths = text_paths
        self._lines = lines
        self._request_id = request_id
        self._cut_off = cut_off
        self._finished = finished

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        outcome: CallResult | EngineError | None = None
        try:
            outcome = await while_connected(self._write(send), receive, self._cut_off)
        except (ClientDisconnectedError, OSError):
            pass  # counted by the caller: outcome is None
        except EngineError as error:
            outcome = error
            await self._send_error(send, error)
        finally:
            await self._progress.aclose()
            self._finished(outcome)
        if outcome is not None:
            with suppress(OSError):
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _write(self, send: Send) -> CallResult | None:
        async for item in self._progress:
            if isinstance(item, CallResult):
                await self._send(send, self._last_lines(item))
                return item
            if isinstance(item, list) and item:
                await self._send(send, b"".join(self._pair_line(pair) for pair in item))
        return None

    def _pair_line(self, pair: PairScore) -> bytes:
        return self._lines.line("score", self._dialect.render_pair(pair, self._call))

    def _last_lines(self, result: CallResult) -> bytes:
        failed = b"".join(
            self._lines.line("error", {**self._position(number), **self._rendered(error)})
            for number, error in sorted(result.errors.items())
        )
        return failed + self._lines.line("result", self._dialect.render(result))

    def _position(self, number: int) -> dict[str, int]:
        query, document = self._call.position(number)
        return {"index": document, "query_index": query} if self._call.every_query else {"index": document}

    def _rendered(self, error: EngineError) -> Any:
        return self._dialect.render_error(for_clients(self._text_paths.error_located(error)), self._request_id)

    async def _send_error(self, send: Send, error: EngineError) -> None:
        with suppress(OSError):
            await self._send(send, self._lines.line("error", self._rendered(error)))

    async def _send(self, send: Send, body: bytes) -> None:
        await send({"type": "http.response.body", "body": body, "more_body": True})
