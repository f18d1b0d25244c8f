"""Calls through the real client, cores and workers: a small model, every replica pinned to a core of its own.

What is left out is HTTP and tokenisation: calls are token ids.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np

from benchmarks.scale_sim.cost_model import IsolatedCall
from benchmarks.scale_sim.traffic import Call
from engine.checkpoint.resolve import resolve_model
from engine.config import DeviceConfig, EngineConfig, ExecutorName, ModelConfig, SchedulerConfig
from engine.core.replicas import Replica, ReplicaClient
from engine.messages import EngineCoreRequest, SchedulerStats
from tests.support.checkpoints import make_qwen3

CONSTANT_PREFIX = 60
TOKEN_BUDGET = 1024
STORE_TOKENS = 4000
MAX_LEN = 1024
VOCABULARY = 1500
WARM_UP_CALLS = 4
_NUMBERS = count(10**6)
"""Queries of isolated calls: none is ever sent twice."""


class RoundRobinClient(ReplicaClient):
    """What routing by query and load is compared with."""

    _turn = 0

    def _choose(self, request: EngineCoreRequest) -> Replica:
        self._turn += 1
        return self._replicas[self._turn % len(self._replicas)]


def make_model(folder: Path) -> Path:
    """Small enough for steps of about a tenth of a second on one core, large enough that steps are what takes time."""
    return make_qwen3(folder, hidden=256, intermediate=768, layers=4, heads=4, kv_heads=2, head_dim=64)


@asynccontextmanager
async def replicas(
    model: Path, num_replicas: int, *, round_robin: bool = False, executor: ExecutorName = "mp"
) -> AsyncIterator[ReplicaClient]:
    config = EngineConfig(
        model=ModelConfig(model=str(model), max_model_len=MAX_LEN),
        scheduler=SchedulerConfig(
            max_num_batched_tokens=TOKEN_BUDGET,
            prefix_cache="query",
            prefix_store_tokens=STORE_TOKENS,
            kv_cache_tokens=STORE_TOKENS + CONSTANT_PREFIX + 2 * MAX_LEN + 8192,
        ),
        device=DeviceConfig(
            device="cpu", executor=executor, cpu_threads=1, cpu_pin=True, data_parallel_size=num_replicas
        ),
    )
    constant_prefix = np.arange(CONSTANT_PREFIX, dtype=np.int32)
    kind = RoundRobinClient if round_robin else ReplicaClient
    client = await kind.start(config, resolve_model(config.model), constant_prefix)
    try:
        for number in range(WARM_UP_CALLS * num_replicas):
            await _answered(client, request(f"warm-up-{number}", Call(0.0, -1 - number, 200, 40, 8), number))
        yield client
    finally:
        await client.shutdown(2.0)


def request(call_id: str, call: Call, seed: int) -> EngineCoreRequest:
    """The query's tokens follow from its number, the documents' from ``seed``."""
    query = np.random.default_rng(2**32 + call.query).integers(CONSTANT_PREFIX, VOCABULARY, call.query_tokens, np.int32)
    shape = (call.documents, call.document_tokens)
    documents = np.random.default_rng(seed).integers(CONSTANT_PREFIX, VOCABULARY, shape, np.int32)
    beginning = np.concatenate([np.arange(CONSTANT_PREFIX, dtype=np.int32), query])
    rows = np.concatenate([np.tile(beginning, (call.documents, 1)), documents], axis=1)
    lens = np.full(call.documents, rows.shape[1], np.int32)
    hints = np.full(call.documents, len(beginning), np.int32)
    return EngineCoreRequest(call_id, rows.reshape(-1), lens, time.monotonic(), query_lens=hints)


async def _answered(client: ReplicaClient, sent: EngineCoreRequest) -> float:
    started, pairs = time.monotonic(), 0
    sent.arrival_s = started
    async for output in client.run(sent):
        assert not output.errors, output.errors
        pairs += len(output.indices)
    assert pairs == sent.num_pairs
    return time.monotonic() - started


async def isolated(client: ReplicaClient, rounds: int) -> list[IsolatedCall]:
    """Calls of many sizes, one at a time, each in one step and with a query of its own, sizes in turn."""
    sizes = [
        (20, 40, 1),
        (20, 40, 3),
        (20, 40, 8),
        (20, 40, 22),
        (200, 40, 4),
        (200, 40, 20),
        (20, 240, 1),
        (20, 240, 4),
    ]
    found, numbers = [], _NUMBERS
    for _ in range(rounds):
        for query, document, documents in sizes:
            number = next(numbers)
            call = Call(0.0, number, query, document, documents)
            before = client.stats.device_s
            latency = await _answered(client, request(f"isolated-{number}", call, number))
            tokens = query + documents * document
            squares = query * (CONSTANT_PREFIX + query / 2) + documents * document * (
                CONSTANT_PREFIX + query + document / 2
            )
            found.append(IsolatedCall(tokens, int(squares), client.stats.device_s - before, latency))
    return found


@dataclass
class RealOutcome:
    latencies_s: list[float]
    makespan_s: float
    computed_tokens: int
    logical_tokens: int
    hits: int
    device_s: float
    num_steps: int


async def open_loop(client: ReplicaClient, calls: Sequence[Call]) -> RealOutcome:
    """Calls are sent when they are due, whatever became of those before."""
    sent = [request(f"call-{i}", call, i) for i, call in enumerate(calls)]
    before = client.stats
    started = time.monotonic()

    async def one(number: int) -> float:
        due = started + calls[number].arrival_s
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        late = max(0.0, time.monotonic() - due)
        return late + await _answered(client, sent[number])

    latencies = await asyncio.gather(*(one(number) for number in range(len(calls))))
    return _outcome(client, before, list(latencies), started)


async def closed_loop(client: ReplicaClient, calls: Sequence[Call], concurrency: int) -> RealOutcome:
    """``concurrency`` callers, each with a call inside all the time."""
    sent = [request(f"call-{i}", call, i) for i, call in enumerate(calls)]
    latencies = [0.0] * len(calls)
    numbers = iter(range(len(calls)))
    before = client.stats
    started = time.monotonic()

    async def caller() -> None:
        for number in numbers:
            latencies[number] = await _answered(client, sent[number])

    await asyncio.gather(*(caller() for _ in range(concurrency)))
    return _outcome(client, before, latencies, started)


def _outcome(client: ReplicaClient, before: SchedulerStats, latencies: list[float], started: float) -> RealOutcome:
    wall, stats = time.monotonic() - started, client.stats
    return RealOutcome(
        latencies_s=latencies,
        makespan_s=wall,
        computed_tokens=stats.computed_tokens - before.computed_tokens,
        logical_tokens=stats.logical_tokens - before.logical_tokens,
        hits=stats.prefix_hits - before.prefix_hits,
        device_s=stats.device_s - before.device_s,
        num_steps=stats.num_steps - before.num_steps,
    )
