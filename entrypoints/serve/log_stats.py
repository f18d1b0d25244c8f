"""One line in the log every ten seconds in which something happened: what came in, what it cost, what waits."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from engine.messages import SchedulerStats

logger = logging.getLogger(__name__)
PERIOD_S = 10.0


def stats_fields(before: SchedulerStats, now: SchedulerStats, seconds: float) -> dict[str, float]:
    """Rates over a period, from the totals ``before`` and ``now``, and what waits ``now``."""
    logical = now.logical_tokens - before.logical_tokens
    computed = now.computed_tokens - before.computed_tokens
    rates = {
        "calls_per_s": (now.finished_calls - before.finished_calls) / seconds,
        "pairs_per_s": (now.finished_pairs - before.finished_pairs) / seconds,
        "tokens_per_s": logical / seconds,
        "computed_tokens_per_s": computed / seconds,
        # Pairs and their tokens count when they are answered, steps when they run: there may be more of the latter.
        "shared": max(0.0, 1 - computed / logical) if logical else 0.0,
        "device_busy": min(1.0, (now.device_s - before.device_s) / seconds),
    }
    return {name: round(rate, 3) for name, rate in rates.items()} | {
        "waiting_calls": now.num_waiting_calls,
        "waiting_pairs": now.num_waiting_pairs,
        "waiting_tokens": now.num_waiting_tokens,
    }


def stats_line(fields: dict[str, float]) -> str:
    """``stats_fields`` as a line for people."""
    return (
        "{calls_per_s:.1f} calls/s, {pairs_per_s:.1f} pairs/s, {tokens_per_s:.0f} tokens/s "
        "({computed_tokens_per_s:.0f} computed, {shared:.0%} shared), device busy {device_busy:.0%}, "
        "waiting: {waiting_calls} calls, {waiting_pairs} pairs"
    ).format(**fields)


async def log_stats(stats: Callable[[], SchedulerStats], period_s: float = PERIOD_S) -> None:
    """Logs a line every ``period_s`` in which a step ran. Runs until it is cancelled."""
    before, started = stats(), time.monotonic()
    while True:
        await asyncio.sleep(period_s)
        now, ended = stats(), time.monotonic()
        if now.num_steps != before.num_steps:
            fields = stats_fields(before, now, ended - started)
            logger.info("%s", stats_line(fields), extra={"fields": fields})
        before, started = now, ended
