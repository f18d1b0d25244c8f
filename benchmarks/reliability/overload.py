"""More calls than can be answered, and one call among very many documents: what each costs the others.

All with default flags. The load is made in this process, of bodies that were made before; what share of a core it took
from the server stands in the details.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests
from tokenizers import Tokenizer

from benchmarks.reliability.figures import Figure, live_figure, quantile
from benchmarks.reliability.load import (
    MEAN_DOCUMENTS,
    Outcome,
    body_of_any_size,
    call_body,
    closed_loop,
    open_loop,
    probe_live,
)
from engine.config import ServerConfig
from engine.inputs.windows import WINDOW
from tests.e2e.server import ServerProcess
from tests.support.checkpoints import make_qwen3

CALLERS = 12
"""Of the closed loop that finds the peak: with 18 documents a call on average, always more than a step's work."""


def loaded_checkpoint(folder: Path) -> Path:
    """Eight million parameters: enough that the model, not HTTP, is what a call costs, as with any real one.

    With a toy, ten times the capacity would be more than two cores can even send.
    """
    return make_qwen3(folder, hidden=384, layers=4, heads=6, kv_heads=3, head_dim=64, intermediate=1152)


async def overload(checkpoint: Path, seconds: float) -> AsyncIterator[Figure]:
    """Calls of 1 to 64 documents. Client and server share the machine; the peak is measured before and after each
    load, since what else the machine does may have changed it."""
    with ServerProcess(loaded_checkpoint(checkpoint.parent / "loaded"), limits_wait=True) as server:
        await closed_loop(server.url, CALLERS, min(3.0, seconds), 10**8, body_of_any_size)
        peak = await closed_loop(server.url, CALLERS, seconds, 2 * 10**8, body_of_any_size)
        for factor in (2, 5, 10):
            stop, before = asyncio.Event(), cpu_seconds(server)
            probing, started = asyncio.create_task(probe_live(server.url, stop)), time.monotonic()
            calls_per_s = factor * peak.goodput / MEAN_DOCUMENTS
            outcome = await open_loop(server.url, calls_per_s, seconds, factor * 10**6, body_of_any_size)
            stop.set()
            live, elapsed = await probing, time.monotonic() - started
            cores = {name: (spent - before[name]) / elapsed for name, spent in cpu_seconds(server).items()}
            after = await closed_loop(server.url, CALLERS, seconds, 2 * 10**8 + factor * 10**6, body_of_any_size)
            yield _overload_figure(factor, outcome, peak.goodput, after.goodput, cores)
            peak = after
        yield live_figure("at 10x load", live)


def cpu_seconds(server: ServerProcess) -> dict[str, float]:
    """Processor time so far of the load generator and of each of the server's processes."""
    names = {os.getpid(): "load generator", server.process.pid: "api"}
    spent: dict[str, float] = {}
    for pid in (os.getpid(), *server.family()):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        name = names.get(pid, "core and worker")
        spent[name] = spent.get(name, 0.0) + (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return spent


def _overload_figure(factor: int, outcome: Outcome, before: float, after: float, cores: dict[str, float]) -> Figure:
    """``before`` and ``after``: the peak's pairs a second on both sides of the overload; ``cores``: how many each
    process kept busy."""
    refused, accepted = outcome.seconds.get(503, []), outcome.seconds.get(200, [])
    other = {status: number for status, number in outcome.counts.items() if status not in (200, 503)}
    share, refusal_s = 2 * outcome.goodput / (before + after), quantile(refused, 0.99)
    accepted_s, limit_s = quantile(accepted, 0.99), ServerConfig.max_queue_seconds
    largest_s = _seconds_of_size(outcome, 64)["p50"]
    offered = [pairs for each in outcome.pairs.values() for pairs in each]
    sizes = statistics.mean(outcome.pairs.get(200, [0])), statistics.mean(offered)
    return Figure(
        f"open-loop load at {factor}x capacity, default flags, 1 to 64 documents a call",
        f"goodput >= 95% of the peak before and after; refusals p99 <= 20 ms; accepted p99 <= {limit_s:g} s",
        f"goodput {share:.0%} of {before:.0f} and {after:.0f} pairs/s; {len(refused)} refusals p99 "
        f"{refusal_s * 1e3:.0f} ms; {len(accepted)} accepted p50 {quantile(accepted, 0.5):.2f} s, "
        f"p99 {accepted_s:.2f} s (64 documents p50 {largest_s:.2f} s); "
        f"pairs a call {sizes[0]:.1f} accepted, {sizes[1]:.1f} offered; "
        f"load generator {cores['load generator']:.0%} of a core; others {other or 'none'}",
        share >= 0.95 and (not refused or refusal_s <= 0.02) and accepted_s <= limit_s and not other,
        {
            "statuses": outcome.counts,
            "before_per_s": before,
            "after_per_s": after,
            "goodput_per_s": outcome.goodput,
            "pairs_a_call": sizes,
            "cores": cores,
            "accepted_s": {documents: _seconds_of_size(outcome, documents) for documents in (1, 8, 64)},
        },
    )


def _seconds_of_size(outcome: Outcome, documents: int) -> dict[str, float]:
    """Of accepted calls with so many documents: how many, and how long they took."""
    calls = zip(outcome.seconds.get(200, ()), outcome.pairs.get(200, ()), strict=True)
    taken = [seconds for seconds, pairs in calls if pairs == documents]
    return {"calls": len(taken), "p50": quantile(taken, 0.5), "p99": quantile(taken, 0.99)}


async def large_call(checkpoint: Path, documents: int) -> Figure:
    """A caller of one document beside a caller of very many: alone, and while the large call runs."""
    with (
        ServerProcess(loaded_checkpoint(checkpoint.parent / "loaded"), limits_wait=True) as server,
        ThreadPoolExecutor(1) as pool,
    ):

        def one(seed: int) -> float:
            started = time.monotonic()
            assert server.post("/v1/rerank", call_body(seed, num_documents=1)).status_code == 200
            return time.monotonic() - started

        alone = [one(seed) for seed in range(30)]
        body = call_body(10**8, num_documents=documents)
        started = time.monotonic()
        large = pool.submit(requests.post, f"{server.url}/v1/rerank", json=body, timeout=600)
        server.wait_for("engine_core_waiting_pairs", documents // 2)
        beside: list[float] = []
        while not large.done():
            beside.append(one(10**6 + len(beside)))
        large_s = time.monotonic() - started
        assert large.result().status_code == 200, large.result().text[:200]
    slower = quantile(beside, 0.5) - quantile(alone, 0.5)
    return Figure(
        f"one document at a time beside a call of {documents}",
        "no call refused; p99 under a second",
        f"p50 {quantile(alone, 0.5) * 1e3:.0f} ms alone, {quantile(beside, 0.5) * 1e3:.0f} ms beside it, p99 "
        f"{quantile(beside, 0.99) * 1e3:.0f} ms of {len(beside)}; the large call took {large_s:.1f} s",
        quantile(beside, 0.99) < 1.0,
        {"alone_s": alone, "beside_s": beside, "large_s": large_s, "slower_s": slower},
    )


async def long_text(checkpoint: Path, characters: int) -> AsyncIterator[Figure]:
    """A caller of one document, and ``/live``, beside ``/tokenize`` of a long text, in each form of its answer; and
    how the server's processor time compares with what the library alone takes for the same text."""
    words = call_body(0, num_documents=1, words=characters // 4)["documents"][0][:characters]
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    spent = time.process_time()
    for start in range(0, characters, WINDOW):
        tokenizer.encode_batch([words[start : start + WINDOW]], add_special_tokens=False)
    library_s = time.process_time() - spent
    bodies = {"vLLM's": {"prompt": words}, "TEI's": {"inputs": words}}
    for name, body in bodies.items():
        with ServerProcess(checkpoint, limits_wait=True) as server, ThreadPoolExecutor(1) as pool:
            before, stop, beside = cpu_seconds(server)["api"], asyncio.Event(), list[float]()
            probing = asyncio.create_task(probe_live(server.url, stop))
            asked = pool.submit(requests.post, f"{server.url}/tokenize", json=body, timeout=600)
            while not asked.done():
                started = time.monotonic()
                await asyncio.to_thread(server.post, "/v1/rerank", call_body(len(beside), num_documents=1))
                beside.append(time.monotonic() - started)
                await asyncio.sleep(0.05)
            assert asked.result().status_code == 200
            api_s = cpu_seconds(server)["api"] - before
            stop.set()
            live_s = await probing
        yield Figure(
            f"/tokenize of {characters:,} characters, {name} answer",
            "p99 of one document and of /live under 0.2 s",
            f"{api_s:.1f} s of the API process, the other calls among them ({library_s:.1f} s by the library alone); "
            f"one document p50 {quantile(beside, 0.5) * 1e3:.0f} ms, p99 {quantile(beside, 0.99) * 1e3:.0f} ms of "
            f"{len(beside)}; /live p99 {quantile(live_s, 0.99) * 1e3:.0f} ms",
            quantile(beside, 0.99) < 0.2 and quantile(live_s, 0.99) < 0.2,
            {"api_s": api_s, "library_s": library_s, "beside_s": beside, "live_s": live_s},
        )
