"""Several models and LoRA adapters behind one server, chosen by ``model``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
import pytest
import pytest_asyncio

from engine.config import ServerConfig
from engine.entrypoints.serve.app import create_app
from engine.entrypoints.serve.loaded_engine import LoadedEngine
from engine.entrypoints.serve.metrics import ServerMetrics
from engine.entrypoints.serve.service import RerankService
from engine.errors import ConfigError
from tests.serve.fakes import SPEC, FakeCore, FakeProcessor

BODY = {"query": "q", "documents": ["a b", "c"]}
OTHER = replace(SPEC, name="org/other", max_model_len=512)


class Two:
    """A server with two models; the first has two adapters."""

    def __init__(self) -> None:
        self.first, self.other = FakeCore(), FakeCore()
        self.service = RerankService(ServerConfig(), ServerMetrics())
        self.service.attach(
            LoadedEngine(SPEC, FakeProcessor(), self.first, ("one", "uno"), {"legal": "", "code": ""}),
            LoadedEngine(OTHER, FakeProcessor(), self.other),
        )


@pytest_asyncio.fixture
async def two() -> AsyncIterator[Two]:
    servers = Two()
    yield servers
    await servers.service.stop()


@pytest_asyncio.fixture
async def client(two: Two) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(two.service))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


async def test_a_call_goes_to_the_model_that_it_names(two: Two, client: httpx.AsyncClient) -> None:
    for name, core, adapter in (
        (None, two.first, None),
        ("one", two.first, None),
        ("uno", two.first, None),
        (SPEC.name, two.first, None),
        ("legal", two.first, "legal"),
        ("code", two.first, "code"),
        (OTHER.name, two.other, None),
        ("other", two.other, None),
    ):
        before = len(core.requests)
        answer = await client.post("/v1/rerank", json=BODY | ({"model": name} if name else {}))
        assert answer.status_code == 200, answer.text
        assert answer.json()["model"] == (name or "one")
        assert [request.adapter for request in core.requests[before:]] == [adapter]
    assert len(two.first.requests) == 6
    assert len(two.other.requests) == 2


async def test_an_unknown_name_is_answered_with_those_that_exist(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/rerank", json=BODY | {"model": "nobody"})
    assert answer.status_code == 404
    assert "`nobody` does not exist. Served here: one, uno, legal, code, org/other." in answer.text


async def test_models_are_listed_with_their_adapters(client: httpx.AsyncClient) -> None:
    cards = (await client.get("/v1/models")).json()["data"]
    assert [(card["id"], card["root"], card["parent"], card["max_model_len"]) for card in cards] == [
        ("one", SPEC.name, None, 4096),
        ("uno", SPEC.name, None, 4096),
        ("legal", SPEC.name, "one", 4096),
        ("code", SPEC.name, "one", 4096),
        ("org/other", "org/other", None, 512),
    ]


async def test_not_ready_when_one_model_is_not(two: Two, client: httpx.AsyncClient) -> None:
    assert (await client.get("/ready")).status_code == 200
    two.other.healthy = False
    assert (await client.get("/ready")).status_code == 503


async def test_metrics_say_whose_they_are(client: httpx.AsyncClient) -> None:
    text = (await client.get("/metrics")).text
    for model in ("one", "org/other"):
        assert f'engine_core_steps_total{{model="{model}"}}' in text
        assert f'engine_core_healthy{{model="{model}"}} 1.0' in text


async def test_tokens_are_those_of_the_named_model(client: httpx.AsyncClient) -> None:
    answer = (await client.post("/tokenize", json={"prompt": "a b", "model": OTHER.name})).json()
    assert answer["max_model_len"] == 512


async def test_a_name_without_owner_must_be_one_model() -> None:
    service = RerankService(ServerConfig(), ServerMetrics())
    twin = LoadedEngine(replace(SPEC, name="another/fake-reranker"), FakeProcessor(), FakeCore())
    service.attach(LoadedEngine(SPEC, FakeProcessor(), FakeCore()), twin)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(create_app(service)), base_url="http://localhost"
    ) as client:
        answer = await client.post("/v1/rerank", json=BODY | {"model": "fake-reranker"})
    assert answer.status_code == 404
    await service.stop()


async def test_all_models_share_one_queue_limit() -> None:
    slow, other = FakeCore(pairs_per_step=1, step_s=0.2), FakeCore()
    service = RerankService(ServerConfig(max_queued_pairs=4), ServerMetrics())
    service.attach(
        LoadedEngine(SPEC, FakeProcessor(), slow, ("one",)), LoadedEngine(OTHER, FakeProcessor(), other, ("two",))
    )
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(create_app(service)), base_url="http://localhost"
    ) as client:
        long = {"query": "q", "documents": ["a", "b", "c"], "model": "one"}
        first = asyncio.create_task(client.post("/v1/rerank", json=long))
        while not slow.requests:
            await asyncio.sleep(0.01)
        refused = await client.post("/v1/rerank", json=BODY | {"model": "two"})
        assert (await first).status_code == 200
        later = await client.post("/v1/rerank", json=BODY | {"model": "two"})
    assert (refused.status_code, later.status_code) == (503, 200)
    await service.stop()


async def test_two_models_of_one_name_are_refused() -> None:
    service = RerankService(ServerConfig(), ServerMetrics())
    engine = LoadedEngine(SPEC, FakeProcessor(), FakeCore())
    with pytest.raises(ConfigError, match="Two models are called 'org/fake-reranker'"):
        service.attach(engine, engine)
    await service.stop()
