"""What routes outside the dialects have in common: JSON out, errors in their shape, everything counted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from engine.entrypoints.serve.errors import error_response, json_response
from engine.entrypoints.serve.service import RerankService
from engine.entrypoints.serve.streaming import ClientDisconnectedError
from engine.errors import EngineError


def common_error(error: EngineError, request: Request) -> Response:
    """The error as most routes answer it."""
    return error_response(error, request.scope)


async def counted(
    service: RerankService,
    request: Request,
    name: str,
    work: Awaitable[Any],
    failed: Callable[[EngineError, Request], Response] = common_error,
) -> Response:
    """Answers with what ``work`` gives, as JSON, counted under ``name`` as calls are; errors as ``failed`` shapes them.

    499 for a client that has gone, which nobody reads.
    """
    try:
        answer = json_response(await work)
    except (ClientDisconnectedError, ClientDisconnect):
        service.metrics.cancelled.inc()
        return Response(status_code=499)
    except EngineError as error:
        answer = failed(error, request)
        service.metrics.errors.labels(error.type).inc()
    service.metrics.calls.labels(request.scope["route"].path, name, str(answer.status_code)).inc()
    return answer
