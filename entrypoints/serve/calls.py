"""The scoring routes: one path for every dialect, with or without streaming."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec
from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from engine.entrypoints.serve.detect import COMMON, DialectChoice, DialectPreferences, choose_anywhere, choose_on_path
from engine.entrypoints.serve.dialect_registry import DIALECTS, by_name
from engine.entrypoints.serve.dialects.base import CallResult, Dialect, ParsedCall, RequestView, TextPaths
from engine.entrypoints.serve.dialects.body import Keys, read_keys
from engine.entrypoints.serve.dialects.score import BODIES
from engine.entrypoints.serve.error_shapes import DIALECT_HEADERS, dialect_before_body
from engine.entrypoints.serve.errors import error_response, for_clients, in_shape, json_response
from engine.entrypoints.serve.limits import REQUEST_ID, check_media_type
from engine.entrypoints.serve.service import RerankService
from engine.entrypoints.serve.streaming import ClientDisconnectedError, Lines, ScoreStream, while_connected
from engine.errors import EngineError, InvalidRequestError, OverloadedError
from engine.request import RerankCall

logger = logging.getLogger(__name__)

TIMEOUT_HEADERS = {
    "x-envoy-expected-rq-timeout-ms": 0.001,
    "x-stainless-read-timeout": 1.0,
    "x-stainless-timeout": 1.0,
}
"""In which proxies (Envoy) and SDKs (those that Stainless makes) say how long they wait, and their unit in seconds."""
TEXT_KEYS = frozenset(
    (
        *("docs", "candidates", "chunks", "contexts", "records", "sentences"),
        *(side for sides in BODIES for side in sides),
        *(str(path[0]) for one in DIALECTS.values() for path in (one.text_paths.query, one.text_paths.document)),
    )
)
"""Keys of bodies that hold what is to be scored, in one dialect or another."""
NVIDIA = "nvidia"
"""Where NVIDIA's hosted path has this instead of a model, the body names it."""
INLINE_BYTES = 32 * 1024
"""Bodies up to this size are decoded on the event loop; larger ones in a thread."""

Detect = Callable[[Keys, DialectPreferences], DialectChoice]
Handler = Callable[[Request], Any]


class CallHandler:
    """Handlers of the scoring routes: body in, answer or error out, in the dialect of the caller."""

    def __init__(self, service: RerankService) -> None:
        self._service = service
        self._default = service.config.dialect
        self._has_warned = False

    def on_path_of(self, owner: Dialect) -> Handler:
        """The handler of a path that belongs to ``owner``."""
        return self._handler(partial(choose_on_path, owner), COMMON if owner.task == "score" else owner)

    def anything(self) -> Handler:
        """The handler of the path that takes the bodies of all dialects."""
        return self._handler(choose_anywhere, COMMON)

    async def answer_to(self, request: Request, body: bytes) -> Any:
        """The answer to one of several bodies of a request, each of any dialect. Raises ``EngineError``."""
        keys = await self._off_loop(body, read_keys, body)
        choice = choose_anywhere(keys, self._preferences(request))
        parsed: ParsedCall = await self._off_loop(body, choice.reader.parse, body, keys, self._view(request))
        self._check_unknown(parsed, keys, choice.reader)
        call = _as_answered(parsed.call, request, choice.answerer)
        try:
            work = self._service.score(call, request.state.request_id, _client_timeout_s(request))
            result = await while_connected(work, request.receive, self._service.cut_off)
            if result.errors:
                raise result.errors[min(result.errors)]
        except EngineError as error:
            raise parsed.text_paths.error_located(error) from error
        return choice.answerer.render(result)

    def _handler(self, detect: Detect, fallback: Dialect) -> Handler:
        async def handle(request: Request) -> Response:
            return await self._handle(request, detect, fallback)

        return handle

    async def _handle(self, request: Request, detect: Detect, dialect: Dialect) -> Response:
        """The dialect of the address, or else ``dialect``, shapes the errors of bodies that show none of their own."""
        dialect = dialect_before_body(request.state, dialect)
        paths: TextPaths | None = None  # until the body is read, errors name its fields themselves
        try:
            check_media_type(request.headers)
            body = await request.body()
            keys = await self._off_loop(body, read_keys, body)
            choice = detect(keys, self._preferences(request))
            dialect = choice.answerer
            parsed = await self._off_loop(body, choice.reader.parse, body, keys, self._view(request))
            parsed = replace(parsed, call=_as_answered(parsed.call, request, dialect))
            paths = parsed.text_paths
            self._take_request_id(request, parsed)
            self._check_unknown(parsed, keys, choice.reader)
            self._say_how_to_choose(request, choice)
            lines = _wanted_lines(request, parsed.call)
            if lines is not None:
                return await self._stream(request, parsed, dialect, lines)
            work = self._service.score(parsed.call, request.state.request_id, _client_timeout_s(request))
            result = await while_connected(work, request.receive, self._service.cut_off)
            return self._answer(request, result, dialect, paths)
        except (ClientDisconnectedError, ClientDisconnect):
            self._service.metrics.cancelled.inc()
            return Response(status_code=499)
        except RecursionError:
            return self._failure(request, InvalidRequestError("The body is nested too deeply."), dialect)
        except EngineError as error:
            return self._failure(request, paths.error_located(error) if paths else error, dialect)
        except Exception:
            # Whatever escapes is our bug: the log gets it all, the client only a number to quote.
            request_id = request.state.request_id
            logger.exception("call %s failed", request_id)
            hidden = EngineError(f"Internal error; the log of the server has it under request id {request_id}.")
            return self._failure(request, hidden, dialect)

    def _view(self, request: Request) -> RequestView:
        caller = getattr(request.state, "caller", "") or (request.client.host if request.client else "")
        service = self._service
        return RequestView(
            request.scope["path"],
            request.headers,
            service.default_model,
            caller,
            service.label_tokens,
            service.config.auto_truncate,
        )

    def _preferences(self, request: Request) -> DialectPreferences:
        said = [request.query_params.get("dialect"), *map(request.headers.get, DIALECT_HEADERS)]
        names = [by_name(name).name for name in said if name is not None]  # a wrong one is an error wherever it stands
        of_path: str | None = getattr(request.state, "dialect", None)  # what stood before the route
        return DialectPreferences(names[0] if names else of_path, self._default, request.headers)

    async def _off_loop(self, body: bytes, function: Callable[..., Any], *args: Any) -> Any:
        if len(body) <= INLINE_BYTES:
            return function(*args)
        return await self._service.threads.run(function, *args)

    @staticmethod
    def _take_request_id(request: Request, parsed: ParsedCall) -> None:
        """The body's own id, unless a header names one; an id that no header could carry is not used."""
        wanted = parsed.request_id
        if wanted and "x-request-id" not in request.headers and REQUEST_ID.match(wanted):
            request.state.request_id = wanted

    def _check_unknown(self, parsed: ParsedCall, keys: Keys, reader: Dialect) -> None:
        """Raises ``InvalidRequestError`` for texts that would be left out; with ``--strict``, for any other field."""
        if not parsed.unknown_fields:
            return
        for name in parsed.unknown_fields:
            if name in TEXT_KEYS and keys[name] != "null":
                raise InvalidRequestError(
                    f"The body was read in the dialect {reader.name!r}, which has no {name!r}: its texts would be left "
                    "out. Send the fields of one API alone, or choose by ?dialect=NAME (docs/compatibility.md).",
                    param=name,
                )
        if self._service.config.strict:
            name = parsed.unknown_fields[0]
            raise InvalidRequestError(f"Unknown field {name!r} (the server runs with --strict).", param=name)
        self._service.metrics.unknown_fields.inc(len(parsed.unknown_fields))

    def _say_how_to_choose(self, request: Request, choice: DialectChoice) -> None:
        """Once: that an answer was chosen where several clients send the same body."""
        if choice.reader is COMMON and choice.answerer is COMMON and self._default is None and not self._has_warned:
            self._has_warned = True
            logger.info(
                "the body of %s is that of several APIs, and was answered with the common object; a client that reads "
                "another one (Voyage, Infinity, SGLang) gets it with the base URL /NAME, ?dialect=NAME, the header "
                "X-Dialect or --dialect NAME (docs/compatibility.md)",
                request.scope["route"].path,
            )

    def _answer(self, request: Request, result: CallResult, dialect: Dialect, paths: TextPaths) -> Response:
        if result.errors:
            return self._partly_failed(request, result, dialect, paths)
        headers = dialect.headers(result)
        if result.unscored:
            headers |= {"X-Partial": "true", "X-Unscored": str(len(result.unscored))}
        self._count(request, dialect, 200)
        return json_response(dialect.render(result), headers=headers)

    def _partly_failed(self, request: Request, result: CallResult, dialect: Dialect, paths: TextPaths) -> Response:
        """The answer as a whole is not what was asked for, so it is an error; the scores that exist are in it."""
        error = for_clients(paths.error_located(result.errors[min(result.errors)]))
        content = in_shape(error, request.scope, dialect)
        partial = msgspec.to_builtins(dialect.render(result))
        if isinstance(content, dict) and isinstance(partial, dict):
            content = {**partial, **content, "failed": sorted(result.errors)}
            located = {number: for_clients(paths.error_located(one)) for number, one in sorted(result.errors.items())}
            content |= {"errors": [{"index": i, "type": one.type, "message": str(one)} for i, one in located.items()]}
        status = dialect.error_status(error, error.status)
        self._count(request, dialect, status)
        return error_response(error, request.scope, content, status)

    def _failure(self, request: Request, error: EngineError, dialect: Dialect) -> Response:
        error = for_clients(error)
        status = self._service.config.overload_status if isinstance(error, OverloadedError) else error.status
        status = dialect.error_status(error, status)
        self._count(request, dialect, status)
        self._service.metrics.errors.labels(error.type).inc()
        content = in_shape(error, request.scope, dialect)
        return error_response(error, request.scope, content, status)

    async def _stream(self, request: Request, parsed: ParsedCall, dialect: Dialect, lines: Lines) -> Response:
        progress = self._service.run(parsed.call, request.state.request_id, _client_timeout_s(request))
        # Texts are checked before the status line goes out: a wrong call still gets its 400.
        try:
            await while_connected(anext(progress), request.receive, self._service.cut_off)
        except BaseException:
            await progress.aclose()
            raise
        return ScoreStream(
            progress,
            call=parsed.call,
            dialect=dialect,
            text_paths=parsed.text_paths,
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


def _client_timeout_s(request: Request) -> float | None:
    """How long the client waits, as far as its headers say so; what is no number says nothing."""
    said = ((request.headers.get(name, ""), unit) for name, unit in TIMEOUT_HEADERS.items())
    return min((float(text) * unit for text, unit in said if re.fullmatch(r"\d{1,9}(\.\d*)?", text)), default=None)


def _as_answered(call: RerankCall, request: Request, answerer: Dialect) -> RerankCall:
    """The call with the model of the path, where the body names none, and with scores in the range of the answer."""
    named = request.path_params.get("model")
    if named and not call.model and named != NVIDIA:
        call = replace(call, model=named.rpartition("/")[2] if named.startswith("arn:") else named)
    return replace(call, probabilities=True) if answerer.probabilities and not call.raw_scores else call


def _wanted_lines(request: Request, call: RerankCall) -> Lines | None:
    if "application/x-ndjson" in request.headers.get("accept", ""):
        return Lines(event_stream=False)
    return Lines(event_stream=True) if call.stream else None
