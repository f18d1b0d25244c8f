"""Errors as HTTP answers: one shape that the clients of all object dialects can read.

``error`` is OpenAI's and vLLM's object; the top-level ``message`` is what the Cohere SDK reads, ``detail`` what Jina's
clients read. Clients never see a traceback or a path of this machine: details go to the log, under the request id.
"""

from __future__ import annotations

import math
import re
from typing import Any

import msgspec
from starlette.responses import Response

from engine.errors import EngineDeadError, EngineError, RequestError, StartupError

_PATH = re.compile(r"(?<![\w.<])~?/[^\s'\",;)]+")


def for_clients(error: EngineError) -> EngineError:
    """The error as a client may read it: without paths of this machine, and no more than its first line.

    The caller's own mistakes are told in full: their texts name fields and routes. Why a model cannot be loaded is the
    operator's business, and stands in the log.
    """
    if isinstance(error, RequestError):
        return error
    if isinstance(error, StartupError):
        return EngineDeadError("The model cannot be loaded; the log of the server says why.", retry_after_s=5)
    shown = _PATH.sub("(a path)", error.template.partition("\n")[0])
    if shown == error.template:
        return error
    return type(error)(shown, param=error.path, retry_after_s=error.retry_after_s, code=error.code)


def error_object(error: EngineError, request_id: str) -> dict[str, Any]:
    """The error in the shape that clients of all object dialects read."""
    message = str(error)
    return {
        "error": {
            "message": message,
            "type": error.type,
            "param": error.param,
            "code": error.code or str(error.status),  # OpenAI's is text or null
            "request_id": request_id,
        },
        "message": message,
        "detail": message,
    }


def error_headers(error: EngineError) -> dict[str, str]:
    """``Retry-After`` (whole seconds) and ``WWW-Authenticate``, where the error calls for them."""
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return headers


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """``content``, which may hold msgspec structs, as a JSON answer."""
    return Response(msgspec.json.encode(content), status, headers, media_type="application/json")


def error_response(error: EngineError, request_id: str, content: Any = None, status: int | None = None) -> Response:
    """The error as an HTTP answer. ``content`` is the error in the shape of a dialect; by default the shared one."""
    error = for_clients(error)
    body = error_object(error, request_id) if content is None else content
    return json_response(body, status or error.status, error_headers(error))
