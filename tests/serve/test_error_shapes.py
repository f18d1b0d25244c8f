"""Errors before a body is read have the shape that clients of the address read, as those after it have."""

from __future__ import annotations

from typing import Any

import pytest

from engine.entrypoints.serve.dialect_registry import BY_PATH
from tests.serve.conftest import Server, running_server

KEY = {"Authorization": "Bearer a"}
KEYS_OF = {
    "/rerank": {"error", "detail"},
    "/v2/rerank": {"error", "message"},
    "/cohere/v1/rerank": {"id", "message"},
    "/jina/v1/rerank": {"detail"},
    "/voyage/v1/rerank": {"detail"},
    "/tei/rerank": {"error", "error_type"},
    "/": {"error", "error_type"},
    "/vllm/v1/rerank": {"error"},
    "/sglang/v1/rerank": {"object", "message", "type", "param", "code"},
    "/siliconflow/v1/rerank": {"code", "message", "data"},
    "/v1/ranking": {"object", "message", "detail", "type"},
    "/api/v1/services/rerank/text-rerank/text-rerank": {"code", "message", "request_id"},
    "/v1/inference/some-model": {"detail", "request_id"},
    "/v2/models/m/infer": {"error"},
    "/v1/embeddings": {"error"},
}


async def refusals(server: Server, path: str) -> dict[str, Any]:
    """An answer of each kind that needs no body."""
    client, good = server.client, {"query": "q", "documents": ["d"]}
    return {
        "401": await client.post(path, json=good),
        "405": await client.delete(path, headers=KEY),
        "413": await client.post(path, content=b" " * 5000, headers=KEY | {"Content-Type": "application/json"}),
        "415": await client.post(path, content=b"query=q", headers=KEY | {"Content-Type": "text/plain"}),
        "431": await client.post(path, json=good, headers=KEY | {f"x-{i}": "y" for i in range(200)}),
    }


@pytest.mark.parametrize("path", KEYS_OF)
async def test_a_refusal_has_the_shape_of_its_address(path: str) -> None:
    async with running_server(api_key=("a",), max_body_bytes=4000) as server:
        for kind, answer in (await refusals(server, path)).items():
            if kind == "415" and path == "/v2/models/m/infer":
                continue  # takes any media type
            assert answer.status_code == int(kind), (kind, answer.text)
            assert answer.json().keys() == KEYS_OF[path], kind


async def test_every_path_of_a_dialect_refuses_alike_before_and_after_its_body() -> None:
    """A wrong key beside a body that is no JSON."""
    async with running_server(api_key=("a",)) as server:
        for path in BY_PATH:
            address = path.replace("{", "").replace("}", "")
            before = await server.client.post(address, content=b"{", headers={"Content-Type": "application/json"})
            after = await server.client.post(address, content=b"{", headers=KEY | {"Content-Type": "application/json"})
            assert before.status_code == 401
            assert after.status_code in (400, 422), path
            assert before.json().keys() == after.json().keys(), path


@pytest.mark.parametrize(
    ("settings", "path", "headers", "keys"),
    [
        ({}, "/v1/rerank?dialect=voyage", {}, {"detail"}),
        ({}, "/v1/rerank", {"X-Dialect": "cohere"}, {"id", "message"}),
        ({}, "/v1/rerank?dialect=nobody", {}, {"error", "detail"}),
        ({"dialect": "sglang"}, "/v1/rerank", {}, {"object", "message", "type", "param", "code"}),
        ({"dialect": "sglang"}, "/v1/rerank?dialect=voyage", {}, {"detail"}),
        ({}, "/voyage/v1/nothing", {}, {"detail"}),
        ({}, "/nothing", {}, {"error"}),
        ({}, "/v2", {}, {"error"}),
    ],
)
async def test_who_says_the_dialect(settings: Any, path: str, headers: dict[str, str], keys: set[str]) -> None:
    async with running_server(api_key=("a",), **settings) as server:
        answer = await server.client.post(path, json={"query": "q", "documents": ["d"]}, headers=headers)
        assert (answer.status_code, answer.json().keys()) == (401, keys)


async def test_a_host_that_is_not_ours_and_a_path_that_is_none() -> None:
    async with running_server() as server:
        stray = await server.client.post("/voyage/v1/rerank", json={}, headers={"Host": "elsewhere.example"})
        assert (stray.status_code, stray.json().keys()) == (421, {"detail"})
        missing = await server.client.post("/tei/nothing", json={})
        assert (missing.status_code, missing.json()["error_type"]) == (404, "Backend")
