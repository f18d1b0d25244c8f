"""The shape of errors before a body is read (401, 404, 405, 413, 415, 421, 431): the address tells who asks.

The dialect that the caller names comes first, then the one that the path belongs to, then ``--dialect``: the order of
``detect.py``, without what only a body tells.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.routing import compile_path
from starlette.types import Scope

from engine.entrypoints.serve.detect import COMMON
from engine.entrypoints.serve.dialect_registry import BY_PATH, CHOOSABLE
from engine.entrypoints.serve.dialects.base import Dialect
from engine.entrypoints.serve.errors import ErrorShape
from engine.errors import EngineError

DIALECT_HEADERS = ("x-dialect", "x-rerank-dialect")
OPEN_INFERENCE = ("/v2", "/v2/health", "/v2/models")
"""Beginnings of the paths of the Open Inference Protocol; ``/v2`` as a whole path."""
_PATTERNS = [(compile_path(path)[0], dialect) for path, dialect in BY_PATH.items() if "{" in path]


class OpenInferenceErrors:
    """The protocol's one field."""

    is_shared = False

    def render_error(self, error: EngineError, request_id: str) -> Any:
        """The error in the protocol's shape."""
        return {"error": str(error)}

    def error_status(self, error: EngineError, status: int) -> int:
        """The status as it is."""
        return status


def shape_of(scope: Scope, path: str, named: str | None, default: str | None) -> ErrorShape:
    """The shape of errors for the request of ``scope``, whose route is ``path``.

    ``named``: the dialect whose name stood in the path before the route; ``default``: that of ``--dialect``.
    """
    if path == OPEN_INFERENCE[0] or path.startswith(tuple(f"{start}/" for start in OPEN_INFERENCE[1:])):
        return OpenInferenceErrors()
    owner = BY_PATH.get(path) or next((dialect for pattern, dialect in _PATTERNS if pattern.match(path)), COMMON)
    if owner.task != "rerank":
        return owner
    said = [*parse_qs(scope.get("query_string", b"").decode("latin-1")).get("dialect", [])[-1:]]
    said += [value for value in map(Headers(scope=scope).get, DIALECT_HEADERS) if value is not None]
    wanted = [CHOOSABLE[name] for name in (*said, named or path.split("/")[1]) if name in CHOOSABLE]
    if wanted:
        return wanted[0]
    return CHOOSABLE.get(default or "", COMMON) if owner is COMMON else owner


def dialect_before_body(state: Any, owner: Dialect) -> Dialect:
    """The dialect that shapes the errors of a request whose body is not read yet; ``owner`` is that of its path."""
    shape = getattr(state, "error_shape", None)
    return shape if isinstance(shape, Dialect) else owner
