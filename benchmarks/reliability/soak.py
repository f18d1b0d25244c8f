"""Honest callers beside everything that this project knows to be hostile, for as long as one likes.

Every answer that an honest caller gets is compared with what the same call got before anything happened. Beside them,
at random: ordinary fields at unusual sizes, broken HTTP, clients that leave in the middle of a call or of a body,
floods of connections, and a worker that is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import requests

from benchmarks.reliability.figures import Figure, quantile
from benchmarks.reliability.load import MAX_OPEN, Prepared, call_body, session
from tests.e2e.server import ServerProcess
from tests.faults.test_hostile_sizes import CALLS
from tests.faults.test_http_corners import CORNERS

CALLERS, BODIES, LARGE_AT_ONCE = 4, 24, 2
TOLERANCE = 1e-6
"""Scores depend on what else is in a step only by float32's rounding."""
MAX_GROWTH_MIB = 64
"""Of all processes, from the most in the first half of the run to the most in the second."""
JSON = {"content-type": "application/json"}


class Soak:
    """One run against one server."""

    def __init__(self, server: ServerProcess, seconds: float, kills: int) -> None:
        self.server = server
        self.ends_at = time.monotonic() + seconds
        self.rng = random.Random(0)
        self.bodies = [Prepared.of(call_body(seed, num_documents=1 + seed % 8)) for seed in range(BODIES)]
        self.honest: Counter[str] = Counter()
        """What became of the honest calls; ``wrong``: other scores than before."""
        self.hostile: Counter[str] = Counter()
        """Hostile deeds, and the statuses they got where they waited for one."""
        self.unexpected: list[str] = []
        self.taken_s: list[float] = []
        self.samples: list[tuple[float, float, int]] = []
        """Seconds, MiB and descriptors of all processes."""
        self._seconds, self._kills = seconds, kills

    async def run(self) -> None:
        async with session() as client:
            expected = [await self._scores(client, body) for body in self.bodies]
            assert all(isinstance(scores, list) for scores in expected), expected
            await asyncio.gather(
                *(self._call_honestly(client, number, expected) for number in range(CALLERS)),
                *(self._repeat(self._send_odd_size, 0.2) for _ in range(LARGE_AT_ONCE)),
                self._repeat(self._send_corner, 0.1),
                self._repeat(self._disconnect, 0.5),
                self._repeat(self._flood, 5.0),
                self._kill_workers(),
                self._look(),
            )

    @property
    def _over(self) -> bool:
        return time.monotonic() >= self.ends_at

    async def _repeat(self, action: Callable[[random.Random], Any], every_s: float) -> None:
        while not self._over:
            await action(self.rng)
            await asyncio.sleep(self.rng.expovariate(1 / every_s))

    # -- honest callers ---------------------------------------------------------------------------------------------

    async def _scores(self, client: aiohttp.ClientSession, body: Prepared) -> list[float] | int:
        """Scores in the order of the documents, or the status."""
        url = f"{self.server.url}/v1/rerank"
        async with client.post(url, data=body.content, headers=JSON) as answer:
            content = await answer.json()
            if answer.status != 200:
                return answer.status
        return [one["relevance_score"] for one in sorted(content["results"], key=lambda one: one["index"])]

    async def _call_honestly(
        self, client: aiohttp.ClientSession, number: int, expected: list[list[float] | int]
    ) -> None:
        rng = random.Random(number)
        while not self._over:
            which, started = rng.randrange(BODIES), time.monotonic()
            try:
                scores = await self._scores(client, self.bodies[which])
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                self.honest["lost"] += 1
                self.unexpected.append(f"an honest call: {error!r}")
                continue
            if scores == 503:
                self.honest["refused"] += 1
            elif _same(scores, expected[which]):
                self.honest["right"] += 1
                self.taken_s.append(time.monotonic() - started)
            else:
                self.honest["wrong"] += 1
                self.unexpected.append(f"an honest call: {scores} instead of {expected[which]}")
            await asyncio.sleep(rng.expovariate(10))

    # -- hostile deeds ----------------------------------------------------------------------------------------------

    async def _send_odd_size(self, rng: random.Random) -> None:
        name = rng.choice(list(CALLS))
        make, statuses = CALLS[name]
        status = await asyncio.to_thread(self._post, make, 120.0)
        self.hostile[f"size {status}"] += 1
        if status not in statuses | {503}:
            self.unexpected.append(f"{name}: {status}")

    def _post(self, make: Callable[[], tuple[str, bytes]], timeout_s: float) -> int:
        path, body = make()
        try:
            return requests.post(self.server.url + path, data=body, headers=JSON, timeout=timeout_s).status_code
        except requests.RequestException:
            return 0

    async def _send_corner(self, rng: random.Random) -> None:
        corner = rng.choice(CORNERS)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        try:
            with contextlib.suppress(OSError, TimeoutError):
                writer.write(corner.sent)
                received = await asyncio.wait_for(reader.read(65536), 5)
                status = int(received.split()[1]) if received else None
                self.hostile[f"corner {status}"] += 1
                if status is not None and status not in (*corner.statuses, 503):  # refused for its wait like any other
                    self.unexpected.append(f"{corner.name}: {received[:200]!r}")
        finally:
            writer.transport.abort()

    async def _disconnect(self, rng: random.Random) -> None:
        """A large call whose client leaves after a while, or in the middle of its body."""
        make, _ = CALLS[rng.choice(("one document of words", "chunks without end", "10,000 empty documents"))]
        path, body = await asyncio.to_thread(make)
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        _, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        try:
            with contextlib.suppress(OSError, TimeoutError):
                writer.write(head.encode() + body[: len(body) if rng.random() < 0.7 else len(body) // 2])
                await asyncio.wait_for(writer.drain(), 5)
                await asyncio.sleep(rng.random())
        finally:
            writer.transport.abort()
        self.hostile["left"] += 1

    async def _flood(self, rng: random.Random) -> None:
        """Connections that say nothing, or begin to."""
        held: list[asyncio.StreamWriter] = []
        try:
            for _ in range(100):
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
                    held.append(writer)
                    writer.write(rng.choice((b"", b"POST /v1/rerank HTT", b"\0" * 10)))
            await asyncio.sleep(1.0)
        finally:
            for writer in held:
                writer.transport.abort()
        self.hostile["silent connections"] += len(held)

    async def _kill_workers(self) -> None:
        for _ in range(self._kills):
            await asyncio.sleep(self._seconds / (self._kills + 1))
            os.kill(self.server.family()[2], signal.SIGKILL)
            self.hostile["workers killed"] += 1

    # -- what it costs ----------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        started = time.monotonic()
        while not self._over:
            await asyncio.sleep(min(5.0, self._seconds / 10))
            with contextlib.suppress(OSError):  # a process that has just been killed
                self.samples.append((time.monotonic() - started, *_weight(self.server.family())))

    @property
    def grown_mib(self) -> float:
        half = len(self.samples) // 2
        return max(mib for _, mib, _ in self.samples[half:]) - max(mib for _, mib, _ in self.samples[:half])

    def figure(self) -> Figure:
        lost = self.honest["lost"] + self.honest["wrong"]
        files = max(count for *_, count in self.samples[-3:])
        return Figure(
            f"{self._seconds / 60:.2g} minutes of honest callers beside hostile ones",
            "no honest call lost or wrong, no answer that is not foreseen, memory bounded",
            f"{self.honest['right']} right, {self.honest['refused']} refused, {lost} lost or wrong, p50 "
            f"{quantile(self.taken_s, 0.5) * 1e3:.0f} ms, p99 {quantile(self.taken_s, 0.99) * 1e3:.0f} ms; hostile "
            f"{dict(sorted(self.hostile.items()))}, {len(self.unexpected)} unforeseen; memory at most "
            f"{max(mib for _, mib, _ in self.samples):.0f} MiB, {self.grown_mib:+.0f} from the first half to the "
            f"second; {files} descriptors",
            not self.unexpected and self.honest["right"] > 0 and self.grown_mib <= MAX_GROWTH_MIB and files < MAX_OPEN,
            {"unexpected": self.unexpected[:50], "samples": self.samples, "honest": dict(self.honest)},
        )


async def soak(checkpoint: Path, minutes: float, kills: int | None = None) -> Figure:
    """A worker is killed every five minutes, and at least once, unless ``kills`` says how often."""
    kills = max(1, round(minutes / 5)) if kills is None else kills
    restarts = str(kills + 10)
    arguments = ("--max-model-len", "512", "--max-worker-restarts", restarts, "--max-num-batched-tokens", "2048")
    with ServerProcess(checkpoint, *arguments, limits_wait=True) as server:
        run = Soak(server, 60 * minutes, kills)
        await run.run()
    return run.figure()


def _same(scores: list[float] | int, expected: list[float] | int) -> bool:
    if isinstance(scores, int) or isinstance(expected, int) or len(scores) != len(expected):
        return False
    return all(abs(one - other) <= TOLERANCE for one, other in zip(scores, expected, strict=True))


def _weight(family: list[int]) -> tuple[float, int]:
    """Resident MiB and open descriptors of these processes."""
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in family)
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in family)
