"""One caller learns nothing about another: the server tells callers apart, and what is kept is kept for one of them."""

from __future__ import annotations

import ast

from tests.architecture.source_tree import dotted_names, product_files
from tests.serve.conftest import running_server

BODY = {"query": "q", "documents": ["a"]}


async def test_each_key_is_a_scope_of_its_own() -> None:
    async with running_server(api_key=("first-key", "second-key")) as server:
        for key, salt in (("first-key", ""), ("second-key", ""), ("first-key", "salt"), ("first-key", "")):
            body = BODY | ({"cache_salt": salt} if salt else {})
            answer = await server.client.post("/v1/rerank", json=body, headers={"Authorization": f"Bearer {key}"})
            assert answer.status_code == 200
        scopes = [request.cache_scope for request in server.core.requests]
    assert scopes[0] == scopes[3]
    assert len(set(scopes)) == 3
    assert all(scopes)
    assert not any("key" in scope for scope in scopes), "the scope is a digest"


async def test_a_caller_cannot_choose_the_scope_of_another() -> None:
    """Whatever is sent as salt stays behind the caller's own name."""
    async with running_server(api_key=("first-key", "second-key")) as server:
        await server.client.post("/v1/rerank", json=BODY, headers={"Authorization": "Bearer first-key"})
        (first,) = server.core.requests
        for salt in (first.cache_scope, f"{first.cache_scope}:", ":"):
            body = BODY | {"cache_salt": salt}
            await server.client.post("/v1/rerank", json=body, headers={"Authorization": "Bearer second-key"})
        others = {request.cache_scope for request in server.core.requests[1:]}
    assert first.cache_scope not in others
    assert not any(scope.startswith(first.cache_scope) for scope in others)


def test_waiting_is_measured_with_a_clock_that_cannot_jump() -> None:
    """``time.time`` is for stamps that people read, never for deadlines."""
    wrong = [
        f"{file.path}:{line}"
        for file in product_files()
        if file.under("engine", "backends")
        for name, line in dotted_names(file.tree)
        if name in ("time.time", "datetime.now", "datetime.datetime.now")
    ]
    assert not wrong


def test_templates_are_rendered_in_a_sandbox_and_never_per_request() -> None:
    users = {file.path for file in product_files() if any(item.module.startswith("jinja2") for item in file.imports)}
    assert not [path for path in users if path.startswith("entrypoints/serve")]
    for file in product_files():
        if file.path in users:
            names = {node.id for node in ast.walk(file.tree) if isinstance(node, ast.Name)}
            names |= {node.attr for node in ast.walk(file.tree) if isinstance(node, ast.Attribute)}
            assert "ImmutableSandboxedEnvironment" in names, file.path
            assert "Environment" not in names, file.path


def test_nothing_is_fetched_for_a_client() -> None:
    """No HTTP client is imported where requests are handled."""
    clients = ("requests", "httpx", "aiohttp", "urllib.request", "http.client", "urllib3")
    wrong = [
        f"{file.path}:{item.line}"
        for file in product_files()
        if file.under("entrypoints/serve", "engine/inputs")
        for item in file.imports
        if item.module.startswith(clients)
    ]
    assert not wrong
