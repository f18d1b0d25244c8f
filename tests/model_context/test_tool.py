"""``engine mcp`` as its users see it: the SDK's own client over standard input and output, and over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import httpx2
import pytest
import uvicorn
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from engine.entrypoints.cli import run
from engine.entrypoints.model_context.server import create_mcp, http_app
from engine.errors import InvalidRequestError
from engine.outputs import RerankResult
from tests.e2e.server import COMMAND

DOCUMENTS = ["Whales breathe air.", "The capital of China is Beijing.", "Bread is baked."]
QUESTION = {"query": "What is the capital of China?", "documents": DOCUMENTS}


class ByLength:
    """Ranks the longest document first."""

    def rerank(self, query: str, documents: list[str], top_n: int | None = None, **options: Any) -> list[RerankResult]:
        if not query:
            raise InvalidRequestError("The query is empty.")
        order = sorted(range(len(documents)), key=lambda i: -len(documents[i]))[:top_n]
        return [RerankResult(index=i, score=float(len(documents[i])), logit=0.0, document=documents[i]) for i in order]


def ranking(result: Any) -> list[tuple[int, str]]:
    assert not result.is_error, result.content
    entries = result.structured_content["result"]
    return [(entry["index"], entry["document"]) for entry in entries]


async def test_the_tool_in_process() -> None:
    async with Client(create_mcp(ByLength(), "m")) as client:
        (tool,) = (await client.list_tools()).tools
        assert tool.name == "rerank"
        assert set(tool.input_schema["required"]) == {"query", "documents"}
        result = await client.call_tool("rerank", QUESTION | {"top_n": 1})
        assert ranking(result) == [(1, DOCUMENTS[1])]
        assert json.loads(result.content[0].text)["score"] == len(DOCUMENTS[1])
        refused = await client.call_tool("rerank", {"query": "", "documents": []})
        assert refused.is_error
        assert "The query is empty." in refused.content[0].text
        assert (await client.call_tool("rerank", {"query": "a"})).is_error


@asynccontextmanager
async def over_http(keys: tuple[str, ...] = ()) -> AsyncIterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        app = http_app(create_mcp(ByLength(), "m"), "127.0.0.1", keys)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
        finally:
            server.should_exit = True
            await serving


async def test_over_http() -> None:
    async with over_http() as url, Client(url) as client:
        assert ranking(await client.call_tool("rerank", QUESTION))[0] == (1, DOCUMENTS[1])


async def test_over_http_with_a_key() -> None:
    async with over_http(("secret",)) as url:
        async with httpx.AsyncClient() as http:
            assert (await http.post(url, json={})).status_code == 401
        headers = {"Authorization": "Bearer secret"}
        async with (
            httpx2.AsyncClient(headers=headers) as http,
            Client(streamable_http_client(url, http_client=http)) as client,
        ):
            assert ranking(await client.call_tool("rerank", QUESTION))[0] == (1, DOCUMENTS[1])


async def test_over_standard_input_and_output() -> None:
    """With the packaged model, as a desktop program starts it."""
    environment = {"PYTHONSAFEPATH": "1", "PATH": os.environ["PATH"]}
    arguments = [*COMMAND[1:], "mcp", "--cpu-threads", "1"]
    async with Client(StdioServerParameters(command=COMMAND[0], args=arguments, env=environment)) as client:
        result = await client.call_tool("rerank", QUESTION)
        assert ranking(result)[0] == (1, DOCUMENTS[1])


def test_an_open_address_needs_a_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["mcp", "--transport", "http", "--host", "0.0.0.0"]) == 2
    assert "--api-key" in capsys.readouterr().err
