"""One function a figure. Each starts its own server with the small checkpoint, does its worst, and measures."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

from benchmarks.reliability.figures import Figure, live_figure, quantile
from benchmarks.reliability.load import (
    Outcome,
    call_body,
    closed_loop,
    probe_live,
)
from tests.e2e.server import ServerProcess, all_gone

CANARY = call_body(424242, num_documents=3)


def canary(server: ServerProcess) -> list[float]:
    results = server.post("/v1/rerank", CANARY).json()["results"]
    return [entry["relevance_score"] for entry in sorted(results, key=lambda entry: entry["index"])]


def wait_ready(server: ServerProcess, timeout_s: float = 120.0) -> float:
    started = time.monotonic()
    while True:
        try:
            if requests.get(f"{server.url}/ready", timeout=5).status_code == 200:
                return time.monotonic() - started
        except requests.RequestException:
            pass
        assert time.monotonic() - started < timeout_s, "never ready again"
        time.sleep(0.02)


async def worker_kills(checkpoint: Path, kills: int) -> Figure:
    """Every kill happens while calls are inside; the load goes on through all of them."""
    arguments = ("--distributed-executor-backend", "mp", "--max-worker-restarts", str(2 * kills + 10))
    started = time.monotonic()
    with ServerProcess(checkpoint, *arguments) as server:
        start_s = time.monotonic() - started
        recoveries: list[float] = []
        stop = time.monotonic() + 10**9

        def kill_over_and_over() -> None:
            for _ in range(kills):
                time.sleep(1.0)
                worker = server.family()[2]
                os.kill(worker, signal.SIGKILL)
                killed = time.monotonic()
                assert canary(server)  # sent after the kill, so the next worker computes it
                recoveries.append(time.monotonic() - killed)
                wait_ready(server)

        killing = asyncio.create_task(asyncio.to_thread(kill_over_and_over))
        total, seed = Outcome(), 0
        while not killing.done() and time.monotonic() < stop:
            outcome = await closed_loop(server.url, 8, 1.0, seed)
            seed += 1_000_000
            for status, seconds in outcome.seconds.items():
                total.seconds.setdefault(status, []).extend(seconds)
        await killing
        restarts = server.metric("engine_core_worker_restarts_total")
    lost = sum(count for status, count in total.counts.items() if status != 200)
    slowest = max(recoveries)
    return Figure(
        f"worker killed under load, {kills} times",
        f"all answered; ready within start time + 1 s ({start_s + 1:.1f} s)",
        f"{total.count(200)} answered, {lost} lost; again p50 {quantile(recoveries, 0.5):.1f} s, max {slowest:.1f} s",
        lost == 0 and slowest <= start_s + 1 and restarts == kills,
        {"statuses": total.counts, "recoveries_s": recoveries, "start_s": start_s, "restarts": restarts},
    )


async def api_kills(checkpoint: Path, kills: int) -> Figure:
    """The family of a killed API process, and its port."""
    gone_s: list[float] = []
    clean = 0
    for _ in range(kills):
        with ServerProcess(checkpoint, "--distributed-executor-backend", "mp") as server:
            family = server.family()
            load = asyncio.create_task(closed_loop(server.url, 4, 0.5))
            await asyncio.sleep(0.3)
            server.process.kill()
            killed = time.monotonic()
            left = not await asyncio.to_thread(all_gone, family, 5.0)
            gone_s.append(time.monotonic() - killed)
            await load
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", server.port))
            clean += not left
    return Figure(
        f"API process killed, {kills} times",
        "no child and no port left after 5 s",
        f"{clean} of {kills} clean; gone after max {max(gone_s):.2f} s",
        clean == kills,
        {"gone_s": gone_s},
    )


async def broken_workers(checkpoint: Path, calls: int) -> Figure:
    """Every worker fails each of its steps from the fortieth on; calls go on all the while."""
    arguments = ("--enable-fault-injection", "--max-worker-restarts", str(calls))
    with ServerProcess(checkpoint, *arguments, environment={"ENGINE_FAULTS": "fail@40+"}) as server:
        expected, wrong = canary(server), 0
        for _ in range(calls):
            wrong += canary(server) != expected
        restarts = server.metric("engine_core_worker_restarts_total")
    return Figure(
        f"workers that fail every step from the fortieth on, {calls} calls",
        "every call answered rightly; the workers are replaced",
        f"{calls - wrong} of {calls} right; {restarts:.0f} workers replaced",
        wrong == 0 and restarts >= 1,
        {"restarts": restarts},
    )


async def stop_while_loading(checkpoint: Path, times: int) -> Figure:
    """SIGTERM at moments spread over the start: seconds to the end, exit codes, and processes that are left."""
    took: list[float] = []
    codes: Counter[int] = Counter()
    left = 0
    for i in range(times):
        with ServerProcess(checkpoint, wait="listening") as server:
            await asyncio.sleep(3.0 * i / times)
            family, started = server.family(), time.monotonic()
            server.signal(signal.SIGTERM)
            codes[await asyncio.to_thread(server.wait, 30)] += 1
            took.append(time.monotonic() - started)
            left += not all_gone(family, 2.0)
    return Figure(
        f"SIGTERM while the model loads, {times} times",
        "ends within a second, exit code 0, nothing left",
        f"p50 {quantile(took, 0.5):.2f} s, max {max(took):.2f} s; exit codes {dict(codes)}; left {left}",
        max(took) <= 1.0 and set(codes) == {0} and not left,
        {"took_s": took, "codes": dict(codes)},
    )


async def large_bodies(checkpoint: Path, bodies: int) -> Figure:
    document = "panda bamboo " * 270
    body = json.dumps({"query": "q", "documents": [document] * 9000, "max_tokens_per_doc": 4}).encode()
    with ServerProcess(checkpoint, "--max-body-bytes", "40M") as server:
        stop = asyncio.Event()
        probing = asyncio.create_task(probe_live(server.url, stop, 0.01))
        for _ in range(bodies):
            answer = await asyncio.to_thread(requests.post, f"{server.url}/v1/rerank", data=body, timeout=120)
            assert answer.status_code == 200, answer.text[:200]
        stop.set()
        taken = await probing
    return live_figure(f"while {bodies} bodies of {len(body) / 2**20:.0f} MiB are read", taken)


@contextmanager
def slow_connections(port: int, count: int) -> Iterator[list[socket.socket]]:
    held = []
    try:
        for i in range(count):
            client = socket.create_connection(("127.0.0.1", port), timeout=5)
            client.sendall(
                b"POST /v1/rerank HTTP/1.1\r\nHost: x\r\n" + (b"Content-Length: 9\r\n\r\n{" if i % 2 else b"")
            )
            held.append(client)
        yield held
    finally:
        for client in held:
            client.close()


async def slow_clients(checkpoint: Path, count: int, seconds: float) -> Figure:
    """Half of them are slow with their headers, half with their bodies. With and without them in turn: A B A B A B.

    Counted once they are there: to take in a thousand connections costs the same from fast clients.
    """
    with ServerProcess(checkpoint) as server:
        await closed_loop(server.url, 8, 1.0, first_seed=10**8)
        alone, beside = [], []
        for turn in range(3):
            alone.append((await closed_loop(server.url, 8, seconds, turn * 10**6)).goodput)
            with slow_connections(server.port, count):
                await asyncio.sleep(1.0)
                beside.append((await closed_loop(server.url, 8, seconds, 10**7 + turn * 10**6)).goodput)
    share = sum(beside) / sum(alone)
    return Figure(
        f"{count} slow connections",
        "goodput of others >= 90%",
        f"{share:.0%} of {sum(alone) / 3:.0f} calls/s",
        share >= 0.9,
        {"alone_per_s": alone, "beside_per_s": beside},
    )


async def cancel(checkpoint: Path, times: int) -> Figure:
    """Steps that ran after the server had noticed that a call's client left."""
    after: list[float] = []
    body = json.dumps(call_body(1, num_documents=3000, words=100)).encode()
    head = b"POST /v1/rerank HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    with ServerProcess(checkpoint, "--max-num-batched-tokens", "512") as server:
        for i in range(times):
            with socket.create_connection(("127.0.0.1", server.port)) as client:
                client.sendall(head + body)
                server.wait_for("engine_core_waiting_pairs", 100)
            server.wait_for("engine_cancelled_total", i + 1)
            time.sleep(0.6)  # the core tells its totals twice a second
            first = server.metric("engine_core_steps_total")
            time.sleep(1.2)
            after.append(server.metric("engine_core_steps_total") - first)
            assert server.metric("engine_core_waiting_pairs") == 0
    return Figure(
        f"cancel, {times} times",
        "the call is out of the queue at once, no step of it later",
        f"steps after the cancel had settled: {max(after):.0f}",
        max(after) == 0,
        {"steps_after": after},
    )
