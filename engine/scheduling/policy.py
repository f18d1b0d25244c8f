"""The scheduling policy: which call goes first. Nothing else in the scheduler knows how calls are ordered.

*Half of every step goes to the oldest calls, the other half to those with the least work left*; what one half leaves,
the other takes. So a call of one document passes one of 10,000 at once, and what is oldest has half of the device,
whatever else comes: nobody starves. Where the oldest call's next segment alone is more than half of a step, or has an
adapter that others do not use, it takes turns with the others from step to step.

Calls of a few steps are short: among them the first comes first, where a call counts as if it had come later by its
own work, and by what its caller already had inside when it came. So a call of one document passes one of a hundred that
has just begun; who sends much waits behind himself, not in front of others; and his own calls are done about in the
order in which they came: under overload none of them waits much longer than the others. Long calls come behind them,
the one with the least work first, and stay long until they are done: with a few steps left they would else be the first
of the short ones. Among the oldest only the time of arrival counts.

A key changes only when its call makes progress, so a heap is enough for each order.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count

from engine.config import SchedulerConfig
from engine.scheduling.call import Call

SHORT_STEPS = 8
"""Calls of at most so many steps of work are short."""
SWEEP_FROM = 256
Key = tuple[float, float, float]


def is_short(call: Call, config: SchedulerConfig, token_budget: int) -> bool:
    """Whether all of a call, with its priority, is a few steps' work."""
    return call.work_tokens + call.request.priority * config.priority_tokens <= SHORT_STEPS * token_budget


def least_work(call: Call, config: SchedulerConfig, token_budget: int) -> Key:
    """Whether it is long, tokens, seconds; the call with the smallest key goes first in the half of the short ones."""
    request = call.request
    work = call.remaining_tokens + request.backlog_tokens + request.priority * config.priority_tokens
    if is_short(call, config, token_budget):
        return 0, call.planned_before + work, request.arrival_s
    return 1, work, request.arrival_s


def oldest(call: Call, config: SchedulerConfig, token_budget: int) -> Key:
    """Tokens; the call with the smallest key goes first in the half of the old ones."""
    request = call.request
    return request.arrival_s * config.ageing_tokens_per_s + request.priority * config.priority_tokens, 0, 0


class CallHeap:
    """Calls in one order. A call that has nothing left to schedule may still be in it until it is at the front."""

    def __init__(
        self, key: Callable[[Call, SchedulerConfig, int], Key], config: SchedulerConfig, token_budget: int
    ) -> None:
        self._key = key
        self._config = config
        self._token_budget = token_budget
        self._order = count()
        self._heap: list[tuple[Key, int, Call]] = []
        self._sweep_at = SWEEP_FROM

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, call: Call) -> None:
        """Enter a call, with the key that it has now."""
        heapq.heappush(self._heap, (self._key(call, self._config, self._token_budget), next(self._order), call))
        if len(self._heap) > self._sweep_at:
            self._heap = [entry for entry in self._heap if entry[2].ready]
            heapq.heapify(self._heap)
            self._sweep_at = max(SWEEP_FROM, 2 * len(self._heap))

    def pop(self) -> Call:
        """Take out the call at the front."""
        return heapq.heappop(self._heap)[2]

    def clear(self) -> None:
        self._heap.clear()
