"""The order in which calls fill a step: half of it for the oldest, the rest for those with the least work left.

A step with a short call in it is not filled up beyond its half with long ones: the short call's answer is as late as
the step is long.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from engine.config import SchedulerConfig
from engine.scheduling.call import Call
from engine.scheduling.policy import CallHeap, is_short, least_work, oldest
from engine.scheduling.step_filler import LOOK_PAST, StepFiller
from engine.scheduling.step_plan import StepPlan

FailCall = Callable[[Call, Exception], None]
"""Ends a call for which planning raised."""


class CallQueues:
    """The waiting calls, in both orders of ``policy.py``; each call stands in both."""

    def __init__(self, config: SchedulerConfig, token_budget: int) -> None:
        self._short = CallHeap(least_work, config, token_budget)
        self._old = CallHeap(oldest, config, token_budget)
        self._is_short = partial(is_short, config=config, token_budget=token_budget)
        self._others_first = False
        """The last step was the oldest call's, more than by half or by its adapter: the next one is the others'."""

    def __bool__(self) -> bool:
        return bool(self._short)

    def push(self, call: Call) -> None:
        """Puts a call with waiting segments into both orders."""
        self._short.push(call)
        self._old.push(call)

    def clear(self) -> None:
        """Takes out every call, since their segments are made anew."""
        self._short.clear()
        self._old.clear()

    def fill(self, plan: StepPlan, filler: StepFiller, give_up: FailCall) -> None:
        """Fills a step up to its limits of tokens and segments; what does not fit is looked past."""
        memory_free = True
        if len(self._short) > 1 and not self._others_first:
            memory_free = self._take_oldest(plan, filler, give_up)
        self._others_first = plan.num_tokens > plan.token_budget // 2
        self._take(plan, self._short, filler, give_up, memory_free, spares_short=True)

    def _take_oldest(self, plan: StepPlan, filler: StepFiller, give_up: FailCall) -> bool:
        """Half of the step for the oldest calls, or more where the next segment of the very oldest is longer."""
        tokens, segments = plan.token_budget, plan.max_segments
        plan.limit(max(1, tokens // 2), max(1, segments // 2))
        memory_free = self._take(plan, self._old, filler, give_up, True, max_calls=1)
        if not plan.entries:
            plan.limit(tokens, 1)
            memory_free = self._take(plan, self._old, filler, give_up, memory_free, max_calls=1)
        plan.limit(max(1, tokens // 2), max(1, segments // 2))
        memory_free = self._take(plan, self._old, filler, give_up, memory_free)
        plan.limit(tokens, segments)
        return memory_free

    def _take(
        self,
        plan: StepPlan,
        calls: CallHeap,
        filler: StepFiller,
        give_up: FailCall,
        memory_free: bool,
        max_calls: int | None = None,
        spares_short: bool = False,
    ) -> bool:
        """Takes from calls in their order until the step is full; returns whether commitments may still be made.

        ``spares_short``: it is full at half of its tokens where it has a short call, and only long ones are left.
        """
        touched: list[Call] = []
        while calls and not plan.full and len(touched) < (max_calls or LOOK_PAST + plan.num_segments):
            call = calls.pop()
            if not call.ready:
                continue
            touched.append(call)
            if spares_short and plan.num_tokens >= plan.token_budget // 2 and self._would_delay(call, plan):
                break
            if plan.entries and plan.adapter != call.request.adapter:
                self._others_first = True
                continue
            try:
                memory_free = filler.take_from(call, plan, memory_free)
            except Exception as error:
                give_up(call, error)
        for call in touched:
            if call.ready:
                calls.push(call)
        return memory_free

    def _would_delay(self, call: Call, plan: StepPlan) -> bool:
        """Whether this is a long call, and the step has a short one."""
        return not self._is_short(call) and any(one is not None and self._is_short(one) for one in plan.calls)
