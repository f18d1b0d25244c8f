"""The scoring routes: one path for every dialect, with or without streaming."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from engine.entrypoints.serve.dialects.base import CallResult, Dialect, ParsedCall, RequestView
from engine.entrypoints.serve.dialects.detect import RERANK, RERANK_DIALECTS, SCORE, detect_rerank
from engine.entrypoints.serve.dialects.fields import read_keys
from engine.entrypoints.serve.errors import error_response, json_response
from engine.entrypoints.serve.limits import check_media_type
from engine.entrypoints.serve.openapi import body_schema
from engine.entrypoints.serve.service import RerankService
from engine.entrypoints.serve.streaming import ClientGoneError, Lines, ScoreStream, while_connected
from engine.errors import EngineError, InvalidRequestError, OverloadedError
from engine.request import RerankCall

logger = logging.getLogger(__name__)

DIALECT_HEADER = "x-rerank-dialect"
INLINE_BYTES = 32 * 1024
"""Bodies up to this size are decoded on the event loop; larger ones in a thread."""

Detect = Callable[[frozenset[str], Request], Dialect]


class CallHandler:
    def __init__(self, service: RerankService) -> None:
        self._service = service
        self._default = service.config.dialect

    async def rerank(self, request: Request) -> Response:
        return await self._handle(request, self._rerank_dialect, RERANK)

    async def score(self, request: Request) -> Response:
        return await self._handle(request, lambda keys, request: SCORE, SCORE)

    @staticmethod
    def rerank_schema() -> dict[str, Any]:
        return body_schema(*dict.fromkeys(dialect.request_type for dialect in RERANK_DIALECTS.values()))

    @staticmethod
    def score_schema() -> dict[str, Any]:
        return body_schema(SCORE.request_type)

    def _rerank_dialect(self, keys: frozenset[str], request: Request) -> Dialect:
        chosen = request.query_params.get("dialect") or request.headers.get(DIALECT_HEADER)
        return detect_rerank(keys, chosen, self._default)

    async def _handle(self, request: Request, detect: Detect, dialect: Dialect) -> Response:
        """``dialect`` shapes the errors of bodies that do not get far enough to show their own."""
        request_id: str = request.state.request_id
        try:
            check_media_type(request.headers)
            body = await request.body()
            keys = await self._off_loop(body, read_keys, body)
            dialect = detect(keys, request)
            view = self._view(request)
            parsed = await self._off_loop(body, dialect.parse, body, keys, view)
            self._check_unknown(parsed)
            lines = _wanted_lines(request, parsed.call)
            if lines is not None:
                return await self._stream(request, parsed.call, dialect, lines)
            work = self._service.score(parsed.call, request_id)
            result = await while_connected(work, request.receive, self._service.cut_off)
            return self._answer(request, result, dialect)
        except (ClientGoneError, ClientDisconnect):
            self._service.metrics.cancelled.inc()
            return Response(status_code=499)
        except EngineError as error:
            return self._failure(request, error, dialect)
        except Exception:
            # Whatever escapes is our bug: the log gets it all, the client only a number to quote.
            logger.exception("call %s failed", request_id)
            hidden = EngineError(f"Internal error; the log of the server has it under request id {request_id}.")
            return self._failure(request, hidden, dialect)

    def _view(self, request: Request) -> RequestView:
        caller = getattr(request.state, "caller", "") or (request.client.host if request.client else "")
        return RequestView(request.scope["path"], request.headers, self._service.default_model, caller)

    async def _off_loop(self, body: bytes, function: Callable[..., Any], *args: Any) -> Any:
        if len(body) <= INLINE_BYTES:
            return function(*args)
        return await self._service.in_thread(function, *args)

    def _check_unknown(self, parsed: ParsedCall) -> None:
        if not parsed.unknown_fields:
            return
        if self._service.config.strict:
            name = parsed.unknown_fields[0]
            raise InvalidRequestError(f"Unknown field {name!r} (the server runs with --strict).", param=name)
        self._service.metrics.unknown_fields.inc(len(parsed.unknown_fields))

    def _answer(self, request: Request, result: CallResult, dialect: Dialect) -> Response:
        request_id = request.state.request_id
        if result.errors:
            # The answer as a whole is not what was asked for, so it is an error, but the scores that exist are in it.
            index, error = min(result.errors.items())
            error.param = error.param or f"documents[{index}]"
            content = dialect.render_error(error, request_id)
            if isinstance(content, dict) and isinstance(partial := dialect.render(result), dict):
                content = {**partial, **content, "failed": sorted(result.errors)}
            self._count(request, dialect, error.status)
            return error_response(error, request_id, content)
        self._count(request, dialect, 200)
        return json_response(dialect.render(result), headers=dialect.headers(result))

    def _failure(self, request: Request, error: EngineError, dialect: Dialect) -> Response:
        status = self._service.config.overload_status if isinstance(error, OverloadedError) else error.status
        self._count(request, dialect, status)
        self._service.metrics.errors.labels(error.type).inc()
        content = dialect.render_error(error, request.state.request_id)
        return error_response(error, request.state.request_id, content, status)

    async def _stream(self, request: Request, call: RerankCall, dialect: Dialect, lines: Lines) -> Response:
        progress = self._service.run(call, request.state.request_id)
        # Texts are checked before the status line goes out: a wrong call still gets its 400.
        try:
            await while_connected(anext(progress), request.receive, self._service.cut_off)
        except BaseException:
            await progress.aclose()
            raise
        return ScoreStream(
            progress,
            call=call,
            dialect=dialect,
            lines=lines,
            request_id=request.state.request_id,
            cut_off=self._service.cut_off,
            finished=lambda outcome: self._stream_finished(request, dialect, outcome),
        )

    def _stream_finished(self, request: Request, dialect: Dialect, outcome: CallResult | EngineError | None) -> None:
        if outcome is None:
            self._service.metrics.cancelled.inc()
        elif isinstance(outcome, EngineError):
            self._service.metrics.errors.labels(outcome.type).inc()
        self._count(request, dialect, 499 if outcome is None else getattr(outcome, "status", 200))

    def _count(self, request: Request, dialect: Dialect, status: int) -> None:
        self._service.metrics.calls.labels(request.scope["route"].path, dialect.name, str(status)).inc()


def _wanted_lines(request: Request, call: RerankCall) -> Lines | None:
    if "application/x-ndjson" in request.headers.get("accept", ""):
        return Lines(event_stream=False)
    return Lines(event_stream=True) if call.stream else None
