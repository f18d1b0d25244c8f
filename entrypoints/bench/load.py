"""Driving the load: sends each call at its planned time and keeps every sample.

Ctrl-C sets ``stop``: nothing more is sent, what is under way is given up, and the samples so far are the result.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from typing import Any

import numpy as np

from engine.entrypoints.bench.call import BenchCall
from engine.entrypoints.bench.samples import Run, Sample
from engine.entrypoints.bench.sender import Sender


async def run_load(
    sender: Sender,
    calls: Sequence[BenchCall],
    planned_s: np.ndarray,
    *,
    max_concurrency: int | None,
    stop: asyncio.Event,
    on_sample: Callable[[Sample], None] = lambda sample: None,
    probe: BenchCall | None = None,
    probe_rate: float = 0.0,
) -> Run:
    """All calls against one server, each no earlier than its planned time."""
    loop = asyncio.get_running_loop()
    run = Run(started_at=time.time())
    start = loop.time()

    def clock() -> float:
        return loop.time() - start

    gate = _gate(max_concurrency)

    async def one(index: int) -> None:
        async with gate:
            sample = await sender.send(index, calls[index], float(planned_s[index]), clock)
        run.samples.append(sample)
        on_sample(sample)

    background = [asyncio.create_task(_probe(sender, probe, probe_rate, clock, run.probes))] if probe else []
    tasks: list[asyncio.Task[None]] = []
    try:
        for index in range(len(calls)):
            if not await _sleep_until(float(planned_s[index]), clock, stop):
                break
            tasks.append(asyncio.create_task(one(index)))
        await _finish(tasks, stop)
    finally:
        await _cancelled(*tasks, *background)
    run.end(len(calls), duration_s=clock(), interrupted=stop.is_set())
    return run


def _gate(max_concurrency: int | None) -> AbstractAsyncContextManager[object]:
    return nullcontext() if max_concurrency is None else asyncio.Semaphore(max_concurrency)


async def _cancelled(*tasks: asyncio.Task[None]) -> None:
    """Returns when they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _sleep_until(when_s: float, clock: Callable[[], float], stop: asyncio.Event) -> bool:
    """False when the run was stopped meanwhile."""
    wait_s = when_s - clock()
    if wait_s > 0:
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), wait_s)
    return not stop.is_set()


async def _finish(tasks: list[asyncio.Task[None]], stop: asyncio.Event) -> None:
    """Until all calls are answered, or the run is stopped. A bug in a call's own task is raised here."""
    if not tasks:
        return
    everything: asyncio.Future[Any] = asyncio.gather(*tasks)
    stopped: asyncio.Future[Any] = asyncio.ensure_future(stop.wait())
    await asyncio.wait((everything, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if everything.done():
        everything.result()
    else:
        everything.cancel()
        await asyncio.gather(everything, return_exceptions=True)


async def _probe(
    sender: Sender, call: BenchCall, rate: float, clock: Callable[[], float], samples: list[Sample]
) -> None:
    """Light calls at an even pace while the load runs: how does the server treat a small caller?"""
    index = 0
    pending: set[asyncio.Task[Sample]] = set()
    try:
        while True:
            task = asyncio.create_task(sender.send(-1 - index, call, clock(), clock))
            pending.add(task)
            task.add_done_callback(pending.discard)
            task.add_done_callback(lambda done: None if done.cancelled() else samples.append(done.result()))
            index += 1
            await asyncio.sleep(1.0 / rate)
    finally:
        for task in list(pending):
            task.cancel()
