"""Load on loopback: closed loops for capacity, open loops for overload, and a probe of /live beside them."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

WORDS = [
    "panda",
    "bamboo",
    "bear",
    "river",
    "mountain",
    "capital",
    "of",
    "the",
    "in",
    "is",
    "eats",
    "grey",
    "small",
    "what",
    "where",
    "why",
]


def call_body(seed: int, num_documents: int = 8, words: int = 40) -> dict[str, Any]:
    """A call whose query and documents nobody else sends."""
    rng = random.Random(seed)
    documents = [" ".join(rng.choices(WORDS, k=words)) for _ in range(num_documents)]
    return {"query": f"query {seed} {rng.choice(WORDS)}", "documents": documents}


def body_of_any_size(seed: int) -> dict[str, Any]:
    """The same with 1 to 64 documents: powers of two, each as often as the others."""
    return call_body(seed, num_documents=2 ** random.Random(-seed).randrange(7))


@dataclass
class Outcome:
    """What became of the calls: seconds by status, 0 for a connection that broke."""

    seconds: dict[int, list[float]] = field(default_factory=dict)
    wall_s: float = 0.0
    in_time: int = 0
    """Pairs of calls that were answered with 200 within ``wall_s``: what came later is no goodput."""
    pairs: dict[int, list[int]] = field(default_factory=dict)
    """Pairs of each call, by status, in the order of ``seconds``."""

    def add(self, status: int, seconds: float, pairs: int = 1) -> None:
        self.seconds.setdefault(status, []).append(seconds)
        self.pairs.setdefault(status, []).append(pairs)

    def count(self, status: int) -> int:
        return len(self.seconds.get(status, ()))

    @property
    def counts(self) -> dict[int, int]:
        return {status: len(values) for status, values in sorted(self.seconds.items())}

    @property
    def goodput(self) -> float:
        """Pairs a second."""
        return self.in_time / self.wall_s if self.wall_s else 0.0


@asynccontextmanager
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=300)) as client:
        yield client


async def send(client: aiohttp.ClientSession, url: str, body: dict[str, Any], outcome: Outcome) -> None:
    started = time.monotonic()
    try:
        async with client.post(f"{url}/v1/rerank", json=body) as answer:
            content = await answer.json()
            complete = answer.status != 200 or len(content["results"]) == len(body["documents"])
            outcome.add(answer.status if complete else -1, time.monotonic() - started, len(body["documents"]))
    except (aiohttp.ClientError, TimeoutError, OSError):
        outcome.add(0, time.monotonic() - started, len(body["documents"]))


Body = Callable[[int], dict[str, Any]]


async def closed_loop(url: str, callers: int, seconds: float, first_seed: int = 0, body: Body = call_body) -> Outcome:
    outcome, started = Outcome(), time.monotonic()
    seeds = iter(range(first_seed, 10**9))

    async def caller(client: aiohttp.ClientSession) -> None:
        while time.monotonic() - started < seconds:
            await send(client, url, body(next(seeds)), outcome)

    async with session() as client:
        await asyncio.gather(*(caller(client) for _ in range(callers)))
    outcome.wall_s, outcome.in_time = time.monotonic() - started, sum(outcome.pairs.get(200, ()))
    return outcome


async def open_loop(
    url: str, calls_per_s: float, seconds: float, first_seed: int = 0, body: Body = call_body
) -> Outcome:
    """Poisson arrivals, whether answers come or not. The goodput is that of the time in which calls arrived."""
    rng = random.Random(first_seed)
    outcome, started = Outcome(), time.monotonic()
    tasks: set[asyncio.Task[None]] = set()
    due, seed = 0.0, first_seed
    async with session() as client:
        while due < seconds:
            await asyncio.sleep(max(0.0, started + due - time.monotonic()))
            tasks.add(asyncio.create_task(send(client, url, body(seed), outcome)))
            due, seed = due + rng.expovariate(calls_per_s), seed + 1
        outcome.wall_s, outcome.in_time = time.monotonic() - started, sum(outcome.pairs.get(200, ()))
        await asyncio.gather(*tasks)
    return outcome


LEFT = -2
"""The status of a call whose client left before the answer."""


async def mixed_load(url: str, calls_per_s: float, seconds: float, first_seed: int) -> Outcome:
    """Poisson arrivals of what a server gets in its life: ordinary calls and, of each one in ten, calls with a long
    document, with many documents, with an error in them, and calls whose client leaves at once."""
    rng = random.Random(first_seed)
    outcome, started, due = Outcome(), time.monotonic(), 0.0
    tasks: set[asyncio.Task[None]] = set()
    async with session() as client:
        for seed in itertools.count(first_seed):
            due += rng.expovariate(calls_per_s)
            if due > seconds:
                break
            await asyncio.sleep(max(0.0, started + due - time.monotonic()))
            tasks.add(asyncio.create_task(_one_of_many(client, url, seed, rng.randrange(10), outcome)))
        await asyncio.gather(*tasks)
    outcome.wall_s = time.monotonic() - started
    return outcome


async def _one_of_many(client: aiohttp.ClientSession, url: str, seed: int, kind: int, outcome: Outcome) -> None:
    bodies = {
        0: lambda: call_body(seed, num_documents=1, words=1500),
        1: lambda: call_body(seed, num_documents=60, words=20),
        2: lambda: {"query": "q", "documents": seed},
    }
    work = send(client, url, bodies.get(kind, lambda: call_body(seed))(), outcome)
    if kind != 3:
        await work
        return
    try:
        await asyncio.wait_for(work, 0.005)
    except TimeoutError:
        outcome.add(LEFT, 0.005)


async def probe_live(url: str, stop: asyncio.Event, every_s: float = 0.05) -> list[float]:
    """Seconds that /live took, over and over, until ``stop``."""
    taken = []
    async with session() as client:
        while not stop.is_set():
            started = time.monotonic()
            async with client.get(f"{url}/live") as answer:
                assert answer.status == 200
                await answer.read()
            taken.append(time.monotonic() - started)
            await asyncio.sleep(every_s)
    return taken
