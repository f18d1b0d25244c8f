"""Deny by default: every route under every spelling, with no key, wrong keys and the right one."""

from __future__ import annotations

import ast
import inspect
from typing import Any

import httpx
import pytest
from starlette.routing import Route

from engine.entrypoints.serve import auth
from engine.entrypoints.serve.page.files import PAGE_PATHS
from tests.serve.conftest import Server, running_server

KEY = "a-secret-key"
OPEN = {
    *("/live", "/ready", "/health", "/.well-known/live", "/.well-known/ready", "/v1/cluster/auth"),
    *("/v2/health/live", "/v2/health/ready"),
}
BODY = {"query": "q", "documents": ["a"]}


def routes(server: Server) -> list[tuple[str, str]]:
    """Method and path of everything that the application answers."""
    app = server.client._transport.app  # type: ignore[attr-defined]
    found = [(m, r.path) for r in app.routes if isinstance(r, Route) or hasattr(r, "methods") for m in r.methods]
    assert len(found) > 20
    return sorted({(method, path) for method, path in found if method != "HEAD"})


async def ask(server: Server, method: str, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
    return await server.client.request(method, path, json=BODY if method != "GET" else None, headers=headers)


async def test_every_route_needs_the_key() -> None:
    wrong: list[dict[str, str]] = [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": f"Bearer {KEY[:-1]}"},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": f"Bearer {KEY} {KEY}"},
        {"Api-Key": KEY.upper()},
        {"X-Api-Key": "\u00ff"},
        {"Cookie": f"Authorization=Bearer {KEY}"},
    ]
    async with running_server(api_key=(KEY,)) as server:
        for method, path in routes(server):
            for headers in wrong:
                raw = {name: value.encode("latin-1") for name, value in headers.items()}
                answer = await ask(server, method, path, raw)  # type: ignore[arg-type]
                if path in OPEN or (method == "GET" and path in PAGE_PATHS):
                    assert answer.status_code == 200, (path, headers)
                else:
                    assert answer.status_code == 401, (method, path, headers)
                    assert answer.headers["www-authenticate"] == "Bearer"
            answer = await ask(server, method, path, {"Authorization": f"Bearer {KEY}"})
            assert answer.status_code not in (401, 403) or "was started without" in answer.text, (method, path)
        assert not server.core.requests[3 * len(routes(server)) :]


@pytest.mark.parametrize(
    "path",
    [
        *("//v1/rerank", "/v1//rerank", "/v1/%72erank", "/v1/rerank/", "/V1/RERANK", "/v1/rerank;a", "/v1/./rerank"),
        *(
            "/health/../v1/rerank",
            "/live/../v1/rerank",
            "/live/v1/rerank",
            "/live%2f..%2fv1/rerank",
            "/live/x",
            "/livex",
        ),
        *(
            "/live%00",
            "/v1/live/v1/rerank",
            "//tei//v1/v1//rerank//",
            "/page/index.html/../../v1/rerank",
            "/live/%2e%2e/v1/rerank",
            "/nowhere",
            "/metrics",
            "/docs",
            "/openapi.json",
            "/%6cive/x",
        ),
    ],
)
async def test_no_spelling_gets_around_the_key(path: str) -> None:
    async with running_server(api_key=(KEY,)) as server:
        for method in ("POST", "GET", "PUT", "OPTIONS", "HEAD", "DELETE"):
            for headers in ({}, {"Host": "live"}, {"Host": "x/live?"}, {"X-Forwarded-Path": "/live"}):
                answer = await _as_is(server, method, path, headers)
                assert answer == 401, (method, path, headers)
        assert not server.core.requests


async def _as_is(server: Server, method: str, path: str, headers: dict[str, str]) -> int:
    """The path as a socket would hand it through, without a client's tidying."""
    from urllib.parse import unquote

    status: list[int] = []
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"test"), *((k.lower().encode(), v.encode()) for k, v in headers.items())],
        "client": ("127.0.0.1", 1),
        "server": ("test", 80),
        "state": {},
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            status.append(message["status"])

    await server.client._transport.app(scope, receive, send)  # type: ignore[attr-defined]
    return status[0]


async def test_the_open_routes_tell_nothing() -> None:
    assert {"/"} | {path for path in PAGE_PATHS if path.startswith("/page/")} == PAGE_PATHS
    async with running_server(api_key=(KEY,)) as server, running_server(loaded=False) as other:
        for path in sorted(OPEN):
            answer = await server.client.get(path)
            assert answer.json() in (
                *({"status": "live"}, {"status": "ready"}, {"auth": True}),
                *({"live": True}, {"ready": True}),
            )
        for path in sorted(PAGE_PATHS):  # the same bytes whoever serves what: files, no data
            assert (await server.client.get(path)).content == (await other.client.get(path)).content


def test_keys_are_compared_in_constant_time() -> None:
    tree = ast.parse(inspect.getsource(auth))
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert "hmac.compare_digest" in calls
    plain = [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare)
        and any(word in ast.unparse(node) for word in ("key", "digest"))
        and not all(isinstance(op, ast.Is | ast.IsNot) for op in node.ops)
    ]
    assert not plain, f"compared without hmac.compare_digest: {plain}"


async def test_a_callers_key_never_comes_back() -> None:
    async with running_server(api_key=(KEY,)) as server:
        headers = {"Authorization": f"Bearer {KEY}"}
        for method, path in routes(server):
            answer = await ask(server, method, path, headers)
            assert KEY not in answer.text, path
