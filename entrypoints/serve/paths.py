"""One spelling of every path, made before keys, limits and routes look at it: all of them see the same one.

Clients build an address from a base and a suffix of their own, so slashes are doubled, versions stand twice, and a base
that was meant for another server is still in front. A path that is no route is therefore read as known words before a
route: ``/v1/v1/rerank``, ``/openai/v1/models``, ``/api/rerank``. The name of a dialect is such a word as well, and
chooses it: ``/voyage/v1/rerank``, for clients that take a base and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from engine.entrypoints.serve.detect import COMMON
from engine.entrypoints.serve.dialect_registry import CHOOSABLE
from engine.entrypoints.serve.error_shapes import shape_of

PREFIXES = frozenset(
    (
        *("v1", "v2", "v3", "v4", "api", "openai", "v1-openai", "inference", "hf-inference", "providers"),
        *("compatible-api", "compatible-mode", "paas", "rerank"),
    )
)
"""Words of other servers' bases. ``rerank``: a whole address was given where a base was asked for."""
MAX_PREFIXES = 6

PathRule = Callable[[str], bool]


class OnePath:
    """ASGI middleware: ``scope["path"]`` becomes the route that is meant. A dialect that it names is left in
    ``scope["state"]["dialect"]``, and the shape of errors that the address tells in ``scope["state"]["error_shape"]``.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute], default_dialect: str | None = None) -> None:
        self._app = app
        self._rules = rules_of(routes)
        self._default_dialect = default_dialect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            root = str(scope.get("root_path", "")).rstrip("/")
            path = without_root(without_root(_plain(_parts(str(scope["path"]))), root), root)
            plain, dialect = route_of(path, self._rules)
            scope["path"], scope["root_path"] = root + plain, root
            state = scope.setdefault("state", {})
            state["error_shape"] = shape_of(scope, plain, dialect, self._default_dialect)
            if dialect is not None:
                state["dialect"] = dialect
        await self._app(scope, receive, send)


def without_root(path: str, root: str) -> str:
    """``path`` without the prefix that a proxy put before it. The server adds the prefix to what it receives, so where
    the proxy leaves it on, it is there twice.
    """
    return path[len(root) :] if root and f"{path}/".startswith(f"{root}/") else path


def route_of(path: str, rules: Sequence[PathRule]) -> tuple[str, str | None]:
    """The route that a path means, and the dialect that it names; the path with plain slashes where it means none.

    ``rules`` say what is a route; each is asked about the whole path before the next one.
    """
    parts = _parts(path)
    found = (_without_prefixes(parts, is_route) for is_route in rules)
    return next((one for one in found if one is not None), (_plain(parts), None))


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part]


def _plain(parts: Sequence[str]) -> str:
    return "/" + "/".join(parts)


def _without_prefixes(parts: list[str], is_route: PathRule) -> tuple[str, str | None] | None:
    dialect: str | None = None
    for start, part in enumerate(parts[: MAX_PREFIXES + 1]):
        rest = _plain(parts[start:])
        if is_route(rest):
            return rest, dialect
        if part in CHOOSABLE and (start == 0 or CHOOSABLE[part] is not COMMON):
            dialect = part
        elif part not in PREFIXES:
            return None
    return None


def rules_of(routes: Sequence[BaseRoute]) -> tuple[PathRule, PathRule]:
    """Fixed paths first: ``/inference/v1/rerank`` is Fireworks' address of one, and no model of DeepInfra's."""
    ours = [route for route in routes if isinstance(route, Route)]
    fixed = frozenset(route.path for route in ours if "{" not in route.path)
    patterns = [route.path_regex for route in ours if "{" in route.path]
    return fixed.__contains__, lambda path: any(pattern.match(path) for pattern in patterns)
