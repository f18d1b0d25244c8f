"""How addresses that clients build become routes, and what a path's first word chooses."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from engine.entrypoints.serve.dialect_registry import CHOOSABLE, DIALECTS
from engine.entrypoints.serve.paths import route_of, without_root
from tests.serve.conftest import Server, running_server
from tests.serve.raw_client import RawClient

DOCUMENTS: dict[str, Any] = {"query": "q", "documents": ["a", "b"]}
KEY = "the-key"


async def status_of(server: Server, path: str, **headers: str) -> int:
    return await RawClient(server, DOCUMENTS, headers, path).status()


@pytest.mark.parametrize(
    "path",
    [
        *("//v1/rerank", "/v1//rerank", "/v1/rerank/", "//rerank//", "/v1/v1/rerank", "/v2/v2/rerank", "/v1/v2/rerank"),
        *("/v2/v1/rerank", "/api/rerank", "/openai/v1/rerank", "/v1-openai/rerank", "/inference/v1/rerank"),
        *("/cohere/v2/rerank", "/providers/cohere/v2/rerank", "/v1/rerank/rerank", "/v1/rerank/v1/rerank"),
        *("/v3/openai/rerank", "/api/paas/v4/rerank", "/v1-openai/v1/rerank", "/api/v1/rerank"),
        *("/rerank/rerank", "/v1/rerank/v2/rerank", "/voyage/v1/v1//rerank/"),
    ],
)
async def test_the_ways_in_which_clients_append(path: str) -> None:
    async with running_server(api_key=(KEY,)) as server:
        assert await status_of(server, path, authorization=f"Bearer {KEY}") == 200
        assert await status_of(server, path) == 401


@pytest.mark.parametrize("path", ["/nowhere/v1/rerank", "/v1/nowhere", "/voyage", "/v1", "/v1/rerank/x", "/V1/rerank"])
async def test_what_is_no_route_stays_none(path: str) -> None:
    async with running_server() as server:
        assert await status_of(server, path) == 404


@pytest.mark.parametrize("name", CHOOSABLE)
async def test_every_dialect_has_its_prefix(name: str) -> None:
    async with running_server() as server:
        chosen = await server.client.post(f"/v1/rerank?dialect={name}", json=DOCUMENTS)
        for suffix in ("rerank", "v1/rerank", "v2/rerank"):
            answer = await server.client.post(f"/{name}/{suffix}", json=DOCUMENTS)
            assert answer.status_code == 200, answer.text
            assert shape(answer.json()) == shape(chosen.json())
        info = await server.client.get(f"/{name}/v1/models")
    assert info.json()["data"][0]["id"] == "fake"


def shape(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: shape(value) for key, value in node.items()}
    return [shape(one) for one in node] if isinstance(node, list) else type(node).__name__


async def test_what_was_said_more_closely_wins_over_the_prefix() -> None:
    async with running_server(dialect="sglang") as server:
        answers = [
            (await server.client.post(path, json=DOCUMENTS, headers=headers)).json()
            for path, headers in (
                ("/v1/rerank", {}),
                ("/voyage/v1/rerank", {}),
                ("/voyage/v1/rerank", {"X-Dialect": "tei"}),
                ("/voyage/v1/rerank?dialect=pinecone", {"X-Dialect": "tei"}),
                ("/rerank/v1/rerank", {}),
            )
        ]
    assert "document" not in answers[0][0]
    assert "data" in answers[1]
    assert set(answers[2][0]) == {"index", "score"}
    assert "rerank_units" in answers[3]["usage"]
    assert "cost" in answers[4]


def test_known_words_before_a_route() -> None:
    rules = [("/", "/v1/rerank", "/rerank", "/live").__contains__, re.compile(r"/inference/.+").match]
    assert route_of("//voyage//v1/rerank/", rules) == ("/v1/rerank", "voyage")
    assert route_of("/v1/rerank/rerank", rules) == ("/rerank", None)
    assert route_of("/inference/v1/rerank", rules) == ("/v1/rerank", None)
    assert route_of("/v1/inference/org/model", rules) == ("/inference/org/model", None)
    assert route_of("", rules) == route_of("//", rules) == ("/", None)
    assert route_of("/v1/", rules) == ("/v1", None)  # a base alone is no call
    assert route_of("/live/rerank/x", rules) == ("/live/rerank/x", None)
    assert route_of("/v1" * 5000 + "/rerank", rules)[0].startswith("/v1/v1/")  # nobody's client


@pytest.mark.parametrize("path", ["/rr/rr/live", "/rr/live", "/rr//rr//live/", "/rr/rr/v1/live", "//rr/live"])
async def test_behind_a_proxy_with_and_without_its_prefix(path: str) -> None:
    """``path`` as the HTTP server hands it on: what it received behind ``--root-path``."""
    async with running_server() as server:
        transport = httpx.ASGITransport(server.client._transport.app, root_path="/rr")  # type: ignore[attr-defined]
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            assert (await client.get(path)).status_code == 200
            assert (await client.get("/rr/rrr/live")).status_code == 404


def test_a_proxys_prefix_comes_off_once() -> None:
    assert without_root("/rr/v1/rerank", "/rr") == "/v1/rerank"
    assert without_root("/rr", "/rr") == ""
    assert without_root("/rrr/v1/rerank", "/rr") == "/rrr/v1/rerank"
    assert without_root("/v1/rerank", "") == "/v1/rerank"


def test_no_dialect_is_called_like_a_route() -> None:
    """``/rerank`` is both the path of a call and, before another one, the common dialect's prefix; no other may be."""
    paths = {path.strip("/").split("/")[0] for dialect in DIALECTS.values() for path in dialect.paths}
    assert paths & set(CHOOSABLE) == {"rerank"}
