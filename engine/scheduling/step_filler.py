"""Filling a step from one call: which of its segments go in, and which are looked past.

What orders the calls is ``policy.py``; what a step may hold is ``step_plan.py``. This file walks down the token tree of
one call: leaves where they fit, segments with something below them where the KV cache has room for their whole path.
"""

from __future__ import annotations

from collections.abc import Callable

from engine.scheduling.call import Call
from engine.scheduling.failure_attribution import SuspectedPairs
from engine.scheduling.kv_memory import KVMemory
from engine.scheduling.step_plan import StepPlan
from engine.scheduling.token_tree import Entry, LeafRun, Segment, SegmentState

LOOK_PAST = 64
"""Segments and calls that may be looked past in one step before it is called full."""


class StepFiller:
    """Moves segments of calls into a step; ``clock`` (seconds) dates the first step of each call."""

    def __init__(self, memory: KVMemory, suspects: SuspectedPairs, clock: Callable[[], float]) -> None:
        self._memory = memory
        self._suspects = suspects
        self._clock = clock

    def take_from(self, call: Call, plan: StepPlan, memory_free: bool) -> bool:
        """Move entries of the call that are ready into the plan; returns whether commitments may still be made.

        Once one segment had to wait for memory, none behind it may take memory first, or a large call would starve.
        """
        skipped: list[Entry] = []
        ready, constant_prefix, before = call.ready, self._memory.constant_prefix, plan.num_tokens
        while ready and not plan.full and len(skipped) < LOOK_PAST:
            entry = ready.pop()
            if (
                constant_prefix is not None
                and entry.parent is constant_prefix
                and constant_prefix.state is SegmentState.WAITING
            ):
                self._take_constant_prefix(constant_prefix, call, plan)
            if entry.parent is not None and entry.parent.state is SegmentState.WAITING:
                skipped.append(entry)
            elif isinstance(entry, LeafRun):
                skipped += self._take_leaves(call, entry, plan)
            elif not plan.fits(entry) or self._suspects.must_wait(call, entry, plan):
                skipped.append(entry)
            elif not self._memory.commit(entry, memory_free):
                memory_free = False
                skipped.append(entry)
            else:
                entry.state = SegmentState.SCHEDULED
                plan.add(entry, call)
                call.took(len(entry))
                call.make_ready(entry.below())
        ready.extend(reversed(skipped))
        if plan.num_tokens > before:
            call.num_steps += 1
            call.first_step_s = self._clock() if call.first_step_s is None else call.first_step_s
            plan.adapter = call.request.adapter
        return memory_free

    def _take_leaves(self, call: Call, run: LeafRun, plan: StepPlan) -> list[LeafRun]:
        """Take what fits of some leaves, looking past those that are too long; returns the others, in order."""
        if self._suspects:
            return self._take_leaves_one_by_one(call, run, plan)
        leaves, first, last = run
        left: list[LeafRun] = []
        while first < last and not plan.full:
            count = plan.num_fitting(leaves, first, last)
            if not count:
                fitting = leaves.lens[first : min(last, first + LOOK_PAST)] <= plan.token_budget - plan.num_tokens
                count = int(fitting.argmax())
                if not fitting[count]:
                    break
                left.append(LeafRun(leaves, first, first + count))
            else:
                self._take_run(call, LeafRun(leaves, first, first + count), plan)
            first += count
        return [*left, LeafRun(leaves, first, last)] if first < last else left

    def _take_leaves_one_by_one(self, call: Call, run: LeafRun, plan: StepPlan) -> list[LeafRun]:
        left: list[LeafRun] = []
        for leaf in run.one_by_one():
            fits = not plan.full and plan.num_fitting(*leaf) and len(left) < LOOK_PAST
            if fits and not self._suspects.must_wait(call, leaf, plan):
                self._take_run(call, leaf, plan)
            elif left and left[-1].last == leaf.first:
                left[-1] = LeafRun(run.leaves, left[-1].first, leaf.last)
            else:
                left.append(leaf)
        return left

    def _take_run(self, call: Call, run: LeafRun, plan: StepPlan) -> None:
        num_tokens = run.num_tokens
        plan.add_leaves(run, call, num_tokens)
        call.took(num_tokens)

    def _take_constant_prefix(self, constant_prefix: Segment, call: Call, plan: StepPlan) -> None:
        """The first step that needs the constant prefix computes it, for everybody."""
        if plan.fits(constant_prefix):
            constant_prefix.state = SegmentState.SCHEDULED
            plan.add(constant_prefix, None)
            call.computed_tokens += len(constant_prefix)
