"""One line in the log every ten seconds in which something happened: what came in, what it cost, what waits."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from engine.messages import SchedulerStats

logger = logging.getLogger(__name__)
PERIOD_S = 10.0


def stats_line(before: SchedulerStats, now: SchedulerStats, seconds: float) -> str:
    """The difference of two totals, as rates."""
    logical = now.logical_tokens - before.logical_tokens
    computed = now.computed_tokens - before.computed_tokens
    shared = 1 - computed / logical if logical else 0.0
    busy = min(1.0, (now.device_s - before.device_s) / seconds)
    return (
        f"{(now.finished_pairs - before.finished_pairs) / seconds:.1f} pairs/s, {logical / seconds:.0f} tokens/s "
        f"({computed / seconds:.0f} computed, {shared:.0%} shared), device busy {busy:.0%}, "
        f"waiting: {now.num_waiting_calls} calls, {now.num_waiting_pairs} pairs"
    )


async def log_stats(stats: Callable[[], SchedulerStats], period_s: float = PERIOD_S) -> None:
    """Runs until it is cancelled."""
    before, started = stats(), time.monotonic()
    while True:
        await asyncio.sleep(period_s)
        now, ended = stats(), time.monotonic()
        if now.num_steps != before.num_steps:
            logger.info("%s", stats_line(before, now, ended - started))
        before, started = now, ended
