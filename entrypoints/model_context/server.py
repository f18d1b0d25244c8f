"""The tool ``rerank`` of the Model Context Protocol, over standard input and output or HTTP, with the official SDK.

The model runs in this process. Calls are scored in turn, in a thread, so that the protocol's own messages are answered
meanwhile. Over HTTP the keys and the rules about addresses are those of ``engine serve``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.transport_security import TransportSecuritySettings
from pydantic import Field
from starlette.types import ASGIApp

from engine.config import ServerConfig
from engine.entrypoints.serve.auth import Authentication, check_exposure
from engine.entrypoints.serve.http import run_app
from engine.entrypoints.serve.limits import RequestIds
from engine.entrypoints.serve.ports import address_of, listen
from engine.entrypoints.terminal import tell
from engine.outputs import RerankResult
from engine.version import __version__

PATH = "/mcp"
MAX_DOCUMENTS = 10_000


@dataclass(frozen=True)
class Ranked:
    """One document of the ranking."""

    index: int
    """Its place among the documents of the call."""
    score: float
    document: str


class Reranker(Protocol):
    """The part of ``LLM`` that the tool uses."""

    def rerank(self, query: str, documents: list[str], top_n: int | None = None, **options: Any) -> list[RerankResult]:
        """The documents, best first. Raises ``ValueError`` for what cannot be scored."""
        ...


def create_mcp(reranker: Reranker, model: str) -> MCPServer:
    """The server with its one tool."""
    server: MCPServer = MCPServer(
        "engine",
        version=__version__,
        instructions=f"Ranks texts by how well they answer a query, with the reranker {model}.",
        log_level="WARNING",
    )
    turn = asyncio.Lock()

    @server.tool(description="Rank documents by how relevant they are to a query, best first, with a score each.")
    async def rerank(
        query: Annotated[str, Field(description="What is looked for.")],
        documents: Annotated[list[str], Field(description="The texts to rank.", max_length=MAX_DOCUMENTS)],
        top_n: Annotated[int | None, Field(description="How many of the best to return; all by default.", ge=1)] = None,
        instruction: Annotated[
            str | None, Field(description="What counts as relevant, for models that read an instruction.")
        ] = None,
    ) -> list[Ranked]:
        options = {} if instruction is None else {"instruction": instruction}
        try:
            async with turn:
                results = await asyncio.to_thread(lambda: reranker.rerank(query, documents, top_n, **options))
        except ValueError as error:
            raise ToolError(str(error)) from error
        return [Ranked(result.index, result.score, documents[result.index]) for result in results]

    return server


def http_app(server: MCPServer, host: str, keys: tuple[str, ...]) -> ASGIApp:
    """The server over HTTP at ``/mcp``; without a key only for host names that mean loopback, if ``host`` does."""
    security = TransportSecuritySettings(enable_dns_rebinding_protection=False) if keys else None
    app: ASGIApp = server.streamable_http_app(host=host, transport_security=security)
    return RequestIds(Authentication(app, keys), stopping=never)


def check_address(host: str, port: int, keys: tuple[str, ...]) -> None:
    """Raises ``ConfigError`` for an address that others can reach without a key."""
    check_exposure(ServerConfig(host=host, port=port, api_key=keys))


def never() -> bool:
    """Connections are kept until the process ends."""
    return False


Load = Callable[[], Any]
"""Loads the model; what it returns is an ``LLM``."""


def run_stdio(load: Load, model: str) -> None:
    """Serves the program that started this one, until it closes standard input."""
    with load() as llm:
        tell("ready: the program that started this command calls the tool rerank over standard input and output")
        create_mcp(llm, model).run("stdio")


def run_http(load: Load, model: str, host: str, port: int, keys: tuple[str, ...]) -> None:
    """Serves HTTP until a signal. Raises ``StartupError`` for a port that is taken, before the model is loaded."""
    with listen(host, port) as listener, load() as llm:
        tell(f"ready: the tool rerank is at {address_of(listener, tls=False)}{PATH}")
        run_app(http_app(create_mcp(llm, model), host, keys), listener)
