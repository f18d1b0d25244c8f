"""OpenTelemetry traces of calls, where the operator named a collector; without one nothing here is imported.

One span a request, continued from the caller's ``traceparent``, with four below it: ``tokenise``, ``queue``, ``steps``
and ``respond``. A call measures these times anyway, so its spans are written once it is over and cost it nothing.
Texts are never part of a trace.
"""

from __future__ import annotations

import os
import time
from contextvars import ContextVar
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.entrypoints.serve.dialects.base import CallResult
from engine.errors import ConfigError
from engine.extras import pip_install
from engine.version import __version__

EXPORT_TIMEOUT_S = 5


class _Request:
    """What becomes the spans of one request."""

    result: CallResult | None = None
    result_ns = 0
    status = 499
    """Until an answer starts: the client may leave first."""


_request: ContextVar[_Request | None] = ContextVar("traced_request", default=None)


def trace_result(result: CallResult) -> None:
    """Gives the times of a finished call to the trace of the request that it belongs to, if there is one."""
    request = _request.get()
    if request is not None:
        request.result, request.result_ns = result, time.time_ns()


def collector_url(endpoint: str) -> str:
    """The URL that traces go to. Raises ``ConfigError`` for one that cannot be."""
    url = urlsplit(endpoint)
    if url.scheme not in ("http", "https") or not url.netloc:
        raise ConfigError(
            f"--otlp-traces-endpoint {endpoint}: a URL like http://collector:4318 expected.",
            param="otlp_traces_endpoint",
        )
    return url._replace(path=url.path if url.path.strip("/") else "/v1/traces").geturl()


def tracer_for(endpoint: str) -> Any:
    """A tracer that sends to this collector (OTLP over HTTP). Raises ``ConfigError`` without OpenTelemetry."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ConfigError(
            f"--otlp-traces-endpoint needs OpenTelemetry, which is not installed: {pip_install('otel')}.",
            param="otlp_traces_endpoint",
        ) from error
    whole = collector_url(endpoint)
    name = os.environ.get("OTEL_SERVICE_NAME", "engine")
    provider = TracerProvider(resource=Resource.create({"service.name": name, "service.version": __version__}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=whole, timeout=EXPORT_TIMEOUT_S)))
    return provider.get_tracer("engine")


class Tracing:
    """ASGI middleware, innermost: a request that was refused before it leaves no trace."""

    def __init__(self, app: ASGIApp, tracer: Any) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] == "GET":
            await self._app(scope, receive, send)
            return
        request = _Request()
        token = _request.set(request)
        started_ns = time.time_ns()

        async def seen(message: Message) -> None:
            if message["type"] == "http.response.start":
                request.status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, seen)
        finally:
            _request.reset(token)
            self._write(scope, request, started_ns)

    def _write(self, scope: Scope, request: _Request, started_ns: int) -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        route = getattr(scope.get("route"), "path", "")  # the path itself could be anything
        headers = Headers(scope=scope)
        carrier = {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
        span = self._tracer.start_span(
            f"{scope['method']} {route}".strip(),
            TraceContextTextMapPropagator().extract(carrier),
            kind=trace.SpanKind.SERVER,
            start_time=started_ns,
            attributes={
                "http.request.method": scope["method"],
                "http.route": route,
                "http.response.status_code": request.status,
                "rerank.request_id": scope["state"]["request_id"],
            },
        )
        ended_ns = time.time_ns()
        if request.result is not None:
            span.set_attributes(_attributes(request.result))
            self._write_parts(request.result, request.result_ns, ended_ns, trace.set_span_in_context(span))
        if request.status >= 500:
            span.set_status(trace.StatusCode.ERROR)
        span.end(ended_ns)

    def _write_parts(self, result: CallResult, result_ns: int, ended_ns: int, context: Any) -> None:
        """The call's own clock says how long its parts took; the moment of its result says when."""
        started = result_ns - _ns(result.total_s)
        encoded, first_step = started + _ns(result.encode_s), started + _ns(max(result.encode_s, result.queue_s))
        for name, start, end in (
            ("tokenise", started, encoded),
            ("queue", encoded, first_step),
            ("steps", first_step, first_step + _ns(result.compute_s)),
            ("respond", result_ns, ended_ns),
        ):
            part = self._tracer.start_span(name, context, start_time=start)
            if name == "steps":
                part.set_attribute("rerank.steps", result.num_steps)
            part.end(end)


def _attributes(result: CallResult) -> dict[str, Any]:
    return {
        "rerank.model": result.model,
        "rerank.pairs": result.call.num_pairs,
        "rerank.failed_pairs": len(result.errors),
        "rerank.truncated_documents": result.truncated_documents,
        "rerank.logical_tokens": result.prompt_tokens,
        "rerank.computed_tokens": result.computed_tokens,
    }


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
