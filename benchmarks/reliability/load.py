"""Load on loopback: closed loops for capacity, open loops for overload, and a probe of /live beside them."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
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


UNSENT = -3
"""The status of a call that was due while ``MAX_OPEN`` others waited for their answers: it was never sent."""
MAX_OPEN = 1000
CLIENT_TIMEOUT_S = 60.0
"""How long a client waits for an answer; then its call counts as broken (0)."""
SETTLE_S = 5.0
"""Of a load, before goodput is counted."""
PAUSE_S = 0.1
"""How long a caller of a closed loop waits after a refusal."""


def call_body(seed: int, num_documents: int = 8, words: int = 40) -> dict[str, Any]:
    """A call whose query and documents nobody else sends."""
    rng = random.Random(seed)
    documents = [" ".join(rng.choices(WORDS, k=words)) for _ in range(num_documents)]
    return {"query": f"query {seed} {rng.choice(WORDS)}", "documents": documents}


MEAN_DOCUMENTS = 127 / 7
"""Of ``body_of_any_size``."""


def body_of_any_size(seed: int) -> dict[str, Any]:
    """The same with 1 to 64 documents: powers of two, each as often as the others."""
    return call_body(seed, num_documents=2 ** random.Random(-seed).randrange(7))


@dataclass
class Outcome:
    """What became of the calls: seconds by status, 0 for a connection that broke."""

    seconds: dict[int, list[float]] = field(default_factory=dict)
    wall_s: float = 0.0
    """Of the part of the load in which goodput is counted."""
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

    async def count_goodput(self, seconds: float) -> None:
        """Counts the pairs answered until ``seconds`` from now, without a first part in which the queue fills: its
        calls are answered later, as those at the end are."""
        settle_s = min(SETTLE_S, seconds / 4)
        await asyncio.sleep(settle_s)
        before, started = sum(self.pairs.get(200, ())), time.monotonic()
        await asyncio.sleep(seconds - settle_s)
        self.wall_s, self.in_time = time.monotonic() - started, sum(self.pairs.get(200, ())) - before


@asynccontextmanager
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """Keeps its connections, and opens as many as there are calls."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        connector=connector, timeout=aiohttp.ClientTimeout(total=CLIENT_TIMEOUT_S)
    ) as client:
        yield client


@dataclass(frozen=True)
class Prepared:
    """A call's body as it is sent, so that no time of a measurement goes into making it."""

    content: bytes
    documents: int

    @classmethod
    def of(cls, body: dict[str, Any]) -> Prepared:
        return cls(json.dumps(body).encode(), len(body["documents"]) if isinstance(body["documents"], list) else 0)


async def send(client: aiohttp.ClientSession, url: str, body: Prepared, outcome: Outcome) -> int:
    """The status that was counted."""
    status, started = 0, time.monotonic()
    try:
        headers = {"content-type": "application/json"}
        async with client.post(f"{url}/v1/rerank", data=body.content, headers=headers) as answer:
            content = await answer.json()
            status = answer.status
            if status == 200 and len(content["results"]) != body.documents:
                status = -1
    except (aiohttp.ClientError, TimeoutError, OSError):
        status = 0
    outcome.add(status, time.monotonic() - started, body.documents)
    return status


Body = Callable[[int], dict[str, Any]]


async def closed_loop(url: str, callers: int, seconds: float, first_seed: int = 0, body: Body = call_body) -> Outcome:
    outcome, started = Outcome(), time.monotonic()
    seeds = iter(range(first_seed, 10**9))

    async def caller(client: aiohttp.ClientSession) -> None:
        while time.monotonic() - started < seconds:
            if await send(client, url, Prepared.of(body(next(seeds))), outcome) == 503:
                await asyncio.sleep(PAUSE_S)

    async with session() as client:
        await asyncio.gather(outcome.count_goodput(seconds), *(caller(client) for _ in range(callers)))
    return outcome


async def open_loop(
    url: str, calls_per_s: float, seconds: float, first_seed: int = 0, body: Body = call_body
) -> Outcome:
    """Poisson arrivals, whether answers come or not. The goodput is that of the time in which calls arrived.

    All bodies are made before the first is sent, and at most ``MAX_OPEN`` calls are open at a time.
    """
    rng, outcome = random.Random(first_seed), Outcome()
    times = list(itertools.takewhile(lambda due: due < seconds, arrivals(rng, calls_per_s)))
    bodies = [Prepared.of(body(first_seed + number)) for number in range(len(times))]
    started = time.monotonic()
    tasks: set[asyncio.Task[int]] = set()
    async with session() as client:
        counting = asyncio.create_task(outcome.count_goodput(seconds))
        for due, prepared in zip(times, bodies, strict=True):
            await asyncio.sleep(max(0.0, started + due - time.monotonic()))
            if len(tasks) >= MAX_OPEN:
                outcome.add(UNSENT, 0.0, prepared.documents)
                continue
            task = asyncio.create_task(send(client, url, prepared, outcome))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await counting
        await asyncio.gather(*tasks)
    return outcome


def arrivals(rng: random.Random, calls_per_s: float) -> Iterator[float]:
    """Seconds of Poisson arrivals, without end."""
    return itertools.accumulate(rng.expovariate(calls_per_s) for _ in itertools.count())


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
