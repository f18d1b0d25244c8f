"""What the scheduler counts: totals since the start, and the present state when it is asked for."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from engine.messages import STEP_TOKEN_BOUNDS, SchedulerStats
from engine.scheduling.call import Call
from engine.scheduling.kv_memory import KVMemory
from engine.scheduling.step_plan import StepPlan


class Statistics:
    """Owns the one ``SchedulerStats`` of a scheduler, whose other totals the scheduler adds to directly."""

    def __init__(self) -> None:
        self.totals = SchedulerStats(step_token_counts=[0] * (len(STEP_TOKEN_BOUNDS) + 1))
        self._fill_sum = 0.0

    def count_step(self, plan: StepPlan, token_budget: int) -> None:
        """Counts a step that was planned, and how much of the budget it used."""
        self.totals.num_steps += 1
        self.totals.computed_tokens += plan.num_tokens
        self.totals.step_token_counts[bisect_left(STEP_TOKEN_BOUNDS, plan.num_tokens)] += 1
        self._fill_sum += plan.num_tokens / token_budget

    def now(self, calls: Iterable[Call], memory: KVMemory) -> SchedulerStats:
        """The totals with the present state: the same object each time, brought up to date."""
        stats = self.totals
        # An aborted call stays until its steps in flight have ended; nobody waits for it.
        live = [call for call in calls if not call.aborted]
        stats.num_waiting_calls = sum(1 for call in live if call.ready)
        stats.num_waiting_pairs = sum(call.num_pairs - call.num_answered for call in live)
        stats.num_waiting_tokens = sum(call.remaining_tokens for call in live)
        stats.step_fill = self._fill_sum / stats.num_steps if stats.num_steps else 0.0
        store = memory.store
        stats.prefix_hits, stats.prefix_lookups = store.hits, store.lookups
        stats.prefix_store_tokens = store.num_tokens
        stats.kv_used_tokens = memory.used_tokens
        return stats
