"""The messages between the coordinator and API servers: calls, refusals, aborts, questions; no processes or sockets."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from engine.config import ServerConfig
from engine.entrypoints.serve.admission import Admission, CallSize
from engine.entrypoints.serve.api_servers import coordinator_client as client_module
from engine.entrypoints.serve.api_servers.broker import CallBroker
from engine.entrypoints.serve.api_servers.coordinator_client import CoordinatorClient
from engine.entrypoints.serve.api_servers.messages import (
    AbortCall,
    AdmitRequest,
    Count,
    FromApiServer,
    MetricsPage,
    MetricsRequest,
    Run,
    StateChange,
    Status,
    StatusRequest,
    Stop,
    ToApiServer,
)
from engine.entrypoints.serve.api_servers.remote import RemoteAdmission, RemoteCore, RemoteStatus
from engine.entrypoints.serve.api_servers.totals import ApiServerMetrics, render, summed
from engine.entrypoints.serve.app import create_app
from engine.entrypoints.serve.loaded_engine import LoadedEngine
from engine.entrypoints.serve.metrics import ServerMetrics
from engine.entrypoints.serve.service import RerankService
from engine.errors import EngineError
from engine.messages import WireError, decoder, encoder
from tests.serve.conftest import running_server
from tests.serve.fakes import INFO, SPEC, FakeCore, FakeProcessor, expected_score

CALL = {"query": "q", "documents": [f"document {i}" for i in range(10)]}


class Wire:
    """A channel's two ends in one process; every message is encoded and decoded on its way."""

    def __init__(self, coordinator: FakeCoordinator) -> None:
        self._coordinator = coordinator
        self._to_server: queue.Queue[bytes] = queue.Queue()
        self._encode = encoder().encode
        self._loop = asyncio.get_running_loop()
        self.is_cut = False

    def send(self, message: FromApiServer) -> None:
        """The API server's end."""
        if not self.is_cut:
            self._loop.call_soon(self._coordinator.hear, self, decoder(FromApiServer).decode(self._encode(message)))

    def recv(self, timeout_s: float) -> ToApiServer | None:
        try:
            return decoder(ToApiServer).decode(self._to_server.get(timeout=timeout_s))
        except queue.Empty:
            return None

    def tell(self, message: ToApiServer) -> None:
        """The coordinator's end."""
        self._to_server.put(self._encode(message))


class FakeCoordinator:
    """What ``Coordinator`` does with messages."""

    def __init__(self, core: FakeCore, config: ServerConfig) -> None:
        self.core = core
        self.admission = Admission(config)
        self.service = RerankService(config, ServerMetrics(), self.admission)
        self.service.attach(LoadedEngine(SPEC, FakeProcessor(), core, ("fake", "alias")))
        self.brokers: dict[Wire, CallBroker] = {}
        self.silent = False

    def hear(self, wire: Wire, message: FromApiServer) -> None:
        broker = self.brokers.setdefault(wire, CallBroker(self.service, self.admission, wire.tell))
        match message:
            case AdmitRequest():
                broker.admit(message)
            case Run():
                broker.run(message)
            case AbortCall():
                broker.abort(message)
            case StatusRequest(number) if not self.silent:
                wire.tell(self._status(number))
            case MetricsRequest(number) if not self.silent:
                wire.tell(MetricsPage(number, b"all of it"))

    def _status(self, number: int) -> Status:
        try:
            self.service.check_ready()
        except EngineError as error:
            return Status(number, self.admission.num_calls, WireError.of(error))
        return Status(number, self.admission.num_calls, None)


@dataclass
class RunningApiServer:
    client: httpx.AsyncClient
    service: RerankService
    wire: Wire


@asynccontextmanager
async def server(coordinator: FakeCoordinator) -> AsyncIterator[RunningApiServer]:
    wire = Wire(coordinator)
    connection = CoordinatorClient(wire, lambda message: None)  # type: ignore[arg-type]
    config = coordinator.service.config
    service = RerankService(config, ApiServerMetrics(), RemoteAdmission(connection))
    client = RemoteCore(connection, 0, INFO)
    service.attach(LoadedEngine(SPEC, FakeProcessor(), client, ("fake", "alias")))
    connection.start()
    transport = httpx.ASGITransport(create_app(service, RemoteStatus(service, connection)))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        yield RunningApiServer(http, service, wire)
    wire.tell(Stop())
    connection.close()


@asynccontextmanager
async def two_servers(
    core: FakeCore | None = None, **settings: Any
) -> AsyncIterator[tuple[FakeCoordinator, list[RunningApiServer]]]:
    coordinator = FakeCoordinator(core or FakeCore(), ServerConfig(**settings))
    async with server(coordinator) as first, server(coordinator) as second:
        yield coordinator, [first, second]
    await asyncio.sleep(0)
    admission = coordinator.admission
    assert (admission.num_calls, admission.num_pairs, admission.num_tokens) == (0, 0, 0)


async def until(condition: Any, timeout_s: float = 5.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


def scores(answer: httpx.Response) -> list[float]:
    assert answer.status_code == 200, answer.text
    return [one["relevance_score"] for one in sorted(answer.json()["results"], key=lambda one: one["index"])]


async def test_calls_are_answered_through_any_server() -> None:
    expected = [expected_score("q", document) for document in CALL["documents"]]
    async with two_servers(FakeCore(step_s=0.001)) as (coordinator, servers):
        answers = await asyncio.gather(*(servers[i % 2].client.post("/v1/rerank", json=CALL) for i in range(10)))
        for answer in answers:
            assert scores(answer) == pytest.approx(expected)
        assert len(coordinator.core.requests) == 10
        assert len({request.call_id for request in coordinator.core.requests}) == 10
        events = (await servers[1].client.post("/v1/rerank", json={**CALL, "stream": True})).text
        assert events.count("event: score") == 10
        assert events.count("event: result") == 1
        assert not coordinator.core.aborted


async def test_what_a_call_says_about_itself_arrives_at_the_core() -> None:
    async with two_servers() as (coordinator, servers):
        body = {**CALL, "priority": -3, "timeout_ms": 60_000, "cache_salt": "pepper"}
        scores(await servers[0].client.post("/v1/rerank", json=body))
        async with running_server() as alone:
            scores(await alone.client.post("/v1/rerank", json=body))
        (relayed,), (direct,) = coordinator.core.requests, alone.core.requests
    assert relayed.priority == direct.priority == -3
    assert relayed.deadline_s - relayed.arrival_s == pytest.approx(60.0)
    assert relayed.cache_scope == direct.cache_scope
    assert relayed.token_ids.tolist() == direct.token_ids.tolist()
    assert relayed.query_lens.tolist() == direct.query_lens.tolist()


async def refusal(client: httpx.AsyncClient, admission: Any) -> tuple[int, str, str]:
    with admission.admit(CallSize(15, 300, 300), "somebody"):
        answer = await client.post("/v1/rerank", json=CALL)
    return answer.status_code, answer.headers["retry-after"], answer.json()["error"]["message"]


async def test_a_refusal_is_the_same_as_in_one_process() -> None:
    async with two_servers(max_queued_pairs=20) as (coordinator, servers):
        refused = [await refusal(one.client, coordinator.admission) for one in servers]
        coordinator.admission.queues["fake"].speed.done(1000, 0)
        assert not coordinator.core.requests
        too_many = await servers[0].client.post("/v1/rerank", json={**CALL, "documents": ["d"] * 20_000})
    async with running_server(max_queued_pairs=20) as alone:
        expected = await refusal(alone.client, alone.service.admission)
    assert refused == [expected, expected]
    assert expected[0] == 503
    assert too_many.status_code == 413


async def test_the_limit_holds_over_all_servers() -> None:
    async with two_servers(FakeCore(pairs_per_step=1, step_s=0.02), max_queued_pairs=24) as (coordinator, servers):
        inside = [asyncio.create_task(one.client.post("/v1/rerank", json=CALL)) for one in servers]
        await until(lambda: coordinator.admission.num_pairs == 20)
        loads = [(await one.client.get("/load")).json()["server_load"] for one in servers]
        # 20 of 24 are taken, and the last eighth is for others than this caller: one more pair fits, two do not.
        two = await asyncio.gather(
            *(one.client.post("/v1/rerank", json={"query": "q", "documents": ["a", "b"]}) for one in servers)
        )
        assert loads == [2, 2]
        assert [answer.status_code for answer in two] == [503, 503]
        for answer in await asyncio.gather(*inside):
            scores(answer)


async def test_a_caller_stands_behind_its_own_calls_at_other_servers() -> None:
    async with two_servers(FakeCore(pairs_per_step=1, step_s=0.01)) as (coordinator, servers):
        first = asyncio.create_task(servers[0].client.post("/v1/rerank", json=CALL))
        await until(lambda: coordinator.core.requests)
        inside = coordinator.admission.num_tokens
        longer = CALL | {"documents": 4 * CALL["documents"]}  # behind longer ones of its own, a call need not stand
        await servers[1].client.post("/v1/rerank", json=longer)
        assert 0 < coordinator.core.requests[1].backlog_tokens <= inside
        await first


async def test_a_client_that_leaves_takes_its_call_along() -> None:
    async with two_servers(FakeCore(pairs_per_step=1, step_s=0.05)) as (coordinator, servers):
        task = asyncio.create_task(servers[0].client.post("/v1/rerank", json=CALL))
        await until(lambda: coordinator.core.requests)
        task.cancel()
        await until(lambda: coordinator.core.aborted)
        await until(lambda: coordinator.admission.num_calls == 0)
        assert servers[0].service.admission.num_calls == 0


async def test_a_client_may_leave_before_it_is_let_in() -> None:
    async with two_servers() as (coordinator, servers):
        admission = servers[0].service.admission
        asking = admission.acquire("call", CallSize(5, 100, 100), "somebody", model="fake", client_timeout_s=None)
        acquiring = asyncio.create_task(asking)
        await asyncio.sleep(0)  # asked, not yet answered
        acquiring.cancel()
        with pytest.raises(asyncio.CancelledError):
            await acquiring
        await until(lambda: coordinator.admission.idle.is_set() and coordinator.admission.num_pairs == 0)


async def test_when_a_server_is_gone_its_calls_are_too_and_others_stay() -> None:
    async with two_servers(FakeCore(pairs_per_step=1, step_s=0.02)) as (coordinator, servers):
        calls = [asyncio.create_task(one.client.post("/v1/rerank", json=CALL)) for one in servers]
        await until(lambda: len(coordinator.core.requests) == 2)
        servers[0].wire.is_cut = True
        coordinator.brokers[servers[0].wire].close()
        await until(lambda: coordinator.core.aborted)
        assert coordinator.admission.num_calls == 1
        scores(await calls[1])
        assert len(coordinator.core.aborted) == 1
        calls[0].cancel()
        await asyncio.wait(calls)


async def test_failures_come_through() -> None:
    core = FakeCore(pairs_per_step=2)
    core.failing = {3: WireError("step_failed", "It broke.")}
    async with two_servers(core) as (_, servers):
        answer = await servers[0].client.post("/v1/rerank", json=CALL)
        assert (answer.status_code, answer.json()["failed"]) == (500, [3])
        core.dead = True
        dead = await servers[0].client.post("/v1/rerank", json=CALL)
        assert (dead.status_code, dead.json()["error"]["type"]) == (503, "engine_dead")


async def test_a_bug_in_the_coordinator_ends_the_call_not_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    async with two_servers() as (_, servers):
        monkeypatch.setattr(FakeCore, "_logit", staticmethod(lambda *_: 1 / 0))
        answer = await servers[0].client.post("/v1/rerank", json=CALL)
        assert answer.status_code == 500
        assert "Internal error" in answer.text
        monkeypatch.undo()
        scores(await servers[0].client.post("/v1/rerank", json=CALL))


async def test_probes_say_what_main_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    async with two_servers() as (coordinator, servers):
        get = servers[1].client.get
        assert (await get("/ready")).status_code == 200
        assert (await get("/metrics")).text == "all of it"
        coordinator.core.healthy = False
        assert (await get("/ready")).json()["error"]["type"] == "engine_dead"
        coordinator.core.healthy = True
        coordinator.service.state = "draining"
        draining = await get("/health")
        assert (draining.status_code, draining.headers["retry-after"]) == (503, "5")
        scores(await servers[1].client.post("/v1/rerank", json=CALL))
        coordinator.service.state = "refusing"
        refused = await servers[1].client.post("/v1/rerank", json=CALL)
        assert (refused.status_code, refused.json()["error"]["type"]) == (503, "shutting_down")
        coordinator.silent = True
        monkeypatch.setattr(client_module, "ASK_TIMEOUT_S", 0.05)
        assert "does not answer" in (await get("/ready")).text
        assert (await get("/live")).status_code == 200


def samples(page: bytes) -> Iterator[tuple[str, dict[str, str], float]]:
    for family in text_string_to_metric_families(page.decode()):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value


def test_counts_are_summed_and_states_are_not() -> None:
    coordinator, servers = ServerMetrics(), [ApiServerMetrics(), ApiServerMetrics()]
    coordinator.running_calls.set(7)
    for number, metrics in enumerate(servers, 1):
        metrics.watch_core(FakeCore())
        metrics.running_calls.set(100)
        metrics.pairs.inc(10 * number)
        metrics.calls.labels("/rerank", "tei", "200").inc(number)
        metrics.call_s.observe(0.02)
        metrics.pair_tokens.observe([40, 400])
    servers[1].calls.labels("/score", "vllm", "200").inc()
    counts = [count for metrics in servers for count in metrics.counts()]
    page = render(coordinator.registry, counts)
    found = {(name, *sorted(labels.values())): value for name, labels, value in samples(page)}
    assert found["engine_running_calls",] == 7
    assert found["engine_pairs_total",] == 30
    assert found["engine_calls_total", "/rerank", "200", "tei"] == 3
    assert found["engine_calls_total", "/score", "200", "vllm"] == 1
    assert found["engine_call_seconds_bucket", "0.025"] == found["engine_call_seconds_count",] == 2
    assert found["engine_call_seconds_bucket", "0.01"] == 0
    assert (found["engine_pair_tokens_bucket", "64.0"], found["engine_pair_tokens_sum",]) == (2, 880)
    assert not any(name.startswith("engine_core") for name, *_ in found)
    assert render(coordinator.registry, summed(counts)) == page, "API servers that are gone count as before"


def test_a_state_and_an_error_survive_the_way() -> None:
    error = EngineError("No.", param="documents", retry_after_s=2.5, code="why")
    rebuilt = decoder(WireError).decode(encoder().encode(WireError.of(error))).rebuilt()
    assert (str(rebuilt), rebuilt.param, rebuilt.retry_after_s, rebuilt.code) == ("No.", "documents", 2.5, "why")
    for message in (StateChange("draining", True), Count("a", "a_total", {"b": "c"}, 1.0)):
        assert decoder(type(message)).decode(encoder().encode(message)) == message
