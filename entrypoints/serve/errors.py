"""Errors as HTTP answers: one shape that the clients of all object dialects can read.

``error`` is OpenAI's and vLLM's object. On paths where clients of several APIs send the same body, its message stands
once more beside it, since nothing tells those apart that stop over its absence: ``detail`` for the clients of Jina and
Xinference (``resp["detail"]`` in langchain and llama-index), ``message`` where Cohere's and DashScope's clients call.
Dialects that are known have their own shapes.

Clients never see a traceback or a path of this machine: details go to the log, under the request id.
"""

from __future__ import annotations

import math
import re
from typing import Any, Protocol

import msgspec
from starlette.responses import Response
from starlette.types import Scope

from engine.errors import EngineDeadError, EngineError, RequestError, StartupError

_MESSAGE_BESIDE = {
    "/v1/rerank": "detail",
    "/rerank": "detail",
    "/v2/rerank": "message",
    "/v1/reranks": "message",
    "/reranks": "message",
}
_PATH = re.compile(r"(?<![\w.<])~?/[^\s'\",;)]+")


class ErrorShape(Protocol):
    """The form in which some clients read errors: that of a dialect, or of another protocol."""

    @property
    def is_shared(self) -> bool: ...

    def render_error(self, error: EngineError, request_id: str) -> Any:
        """The body of the answer."""
        ...

    def error_status(self, error: EngineError, status: int) -> int:
        """The HTTP status of the answer; ``status`` is the usual one."""
        ...


def redacted(text: str) -> str:
    """Return what of a text for the log a caller may read: its first line, with ``(a path)`` instead of each path."""
    return _PATH.sub("(a path)", text.partition("\n")[0])


def for_clients(error: EngineError) -> EngineError:
    """The error as a client may read it: without paths of this machine, and no more than its first line.

    The caller's own mistakes are told in full: their texts name fields and routes. Why a model cannot be loaded is the
    operator's business, and stands in the log.
    """
    if isinstance(error, RequestError):
        return error
    if isinstance(error, StartupError):
        return EngineDeadError("The model cannot be loaded; the log of the server says why.", retry_after_s=5)
    shown = redacted(error.template)
    if shown == error.template:
        return error
    return type(error)(shown, param=error.path, retry_after_s=error.retry_after_s, code=error.code)


def error_object(error: EngineError, request_id: str) -> dict[str, Any]:
    """The error in the shape that clients of all object dialects read."""
    return {
        "error": {
            "message": str(error),
            "type": error.type,
            "param": error.param,
            "code": error.code or str(error.status),  # OpenAI's is text or null
            "request_id": request_id,
        }
    }


def beside(error: EngineError, path: str) -> dict[str, str]:
    """The field besides ``error`` that clients on this path may need, by its name."""
    name = _MESSAGE_BESIDE.get(path)
    return {name: str(error)} if name else {}


def route_path(scope: Scope) -> str:
    """The path that the router matches: the path without the prefix that a proxy put before it."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


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


def error_response(error: EngineError, scope: Scope, content: Any = None, status: int | None = None) -> Response:
    """The error as the HTTP answer to the request of ``scope``. ``content`` is the error in the shape of a dialect; by
    default that of ``scope["state"]["error_shape"]``, which the address tells (``error_shapes.py``)."""
    error = for_clients(error)
    status = status or error.status
    if content is None:
        shape: ErrorShape | None = scope["state"].get("error_shape")
        content = in_shape(error, scope, shape)
        status = shape.error_status(error, status) if shape else status
    return json_response(content, status, error_headers(error))


def in_shape(error: EngineError, scope: Scope, shape: ErrorShape | None) -> Any:
    """The error as ``shape`` has it, by default the shared object, with what clients of the path need beside it."""
    request_id = scope["state"]["request_id"]
    if shape is not None and not shape.is_shared:
        return shape.render_error(error, request_id)
    content = error_object(error, request_id) if shape is None else shape.render_error(error, request_id)
    return content | beside(error, route_path(scope))
