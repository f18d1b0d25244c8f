"""A server without sockets: the real application over the fake core."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from engine.config import ServerConfig
from engine.entrypoints.serve.app import create_app
from engine.entrypoints.serve.loaded_engine import LoadedEngine
from engine.entrypoints.serve.metrics import ServerMetrics
from engine.entrypoints.serve.service import RerankService
from tests.serve.fakes import SPEC, FakeCore, FakeProcessor


@dataclass
class Server:
    client: httpx.AsyncClient
    service: RerankService
    core: FakeCore
    processor: FakeProcessor


@asynccontextmanager
async def running_server(
    core: FakeCore | None = None, *, loaded: bool = True, **settings: Any
) -> AsyncIterator[Server]:
    core = core or FakeCore()
    service = RerankService(ServerConfig(**settings), ServerMetrics())
    processor = FakeProcessor()
    if loaded:
        service.attach(LoadedEngine(SPEC, processor, core, ("fake", "alias")))
    transport = httpx.ASGITransport(create_app(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield Server(client, service, core, processor)
    await service.stop()


@pytest.fixture
def serving() -> Callable[..., Any]:
    return running_server
