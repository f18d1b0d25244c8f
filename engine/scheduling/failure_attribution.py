"""Finding the pair that kills its worker, by bisection.

After a step was lost, its pairs are suspected. From then on a step holds either suspects or others, and of suspects
only half as many as the lost step did. A pair that is lost twice, the second time alone, is given up; answered pairs
are cleared. So a pair that kills its worker is found after about log2(n) lost steps, and no other pair costs more than
a replay.

A loss that only narrows the circle says nothing bad about the worker, which is why the executor does not count it
against the worker's restarts (``step.Blame``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from engine.scheduling.call import Call, pairs_at, pairs_below
from engine.scheduling.step_plan import StepPlan
from engine.scheduling.token_tree import Entry, LeafRun
from engine.step import Blame

MAX_ATTEMPTS = 24
"""A pair lost this often is given up whatever else is in its step: the fault may lie in a context that many share."""
MAX_GIVEN_UP = 3
"""A call with so many pairs given up is given up as a whole: what kills the worker is what they share."""


class SuspectedPairs:
    """Pairs of lost steps that are neither cleared nor given up, and how many of them a step may hold."""

    def __init__(self) -> None:
        self._pairs: set[tuple[str, int]] = set()
        self._limit = 0

    def __bool__(self) -> bool:
        return bool(self._pairs)

    def _any_suspected(self, call: Call, pairs: Iterable[int]) -> bool:
        return any((call.call_id, pair) in self._pairs for pair in pairs)

    def must_wait(self, call: Call, entry: Entry, plan: StepPlan) -> bool:
        """Whether ``entry`` would put suspects and others into one step, or more suspects than it may hold.

        While there are suspects, leaves come one at a time.
        """
        if not self._pairs or not (pairs := pairs_at(entry)):
            return False
        readers = [
            self._any_suspected(other, read)
            for other, taken in zip(plan.calls, plan.entries, strict=True)
            if other is not None and (read := pairs_at(taken))
        ]
        if self._any_suspected(call, pairs):
            return not all(readers) or len(readers) >= self._limit
        return any(readers)

    def clear(self, call_id: str, pairs: Iterable[int]) -> None:
        """These pairs of the call were answered, or nobody waits for them: they are suspected no more."""
        if self._pairs:
            self._pairs.difference_update((call_id, pair) for pair in pairs)

    def forget(self, calls: Iterable[Call]) -> None:
        """Clears all pairs, and takes back what was held against those of these calls."""
        self._pairs.clear()
        for call in calls:
            call.attempts.clear()

    def attribute(self, plan: StepPlan) -> tuple[dict[Call, list[int]], Blame]:
        """Enter the pairs of a lost step; returns those that are given up, and what the loss told."""
        held = list(_lost(plan))
        known = bool(held) and all((call.call_id, pair) in self._pairs for call, pairs in held for pair in pairs)
        self._limit = max(1, len(held) // 2)
        given_up: dict[Call, list[int]] = {}
        for call, pairs in held:
            for pair in pairs:
                lost = call.attempts[pair] = call.attempts.get(pair, 0) + 1
                if lost >= MAX_ATTEMPTS or (lost >= 2 and len(held) == 1):
                    given_up.setdefault(call, []).append(pair)
                else:
                    self._pairs.add((call.call_id, pair))
        for call, pairs in given_up.items():
            call.num_given_up += len(pairs)
            if call.num_given_up >= MAX_GIVEN_UP:
                given_up[call] = call.unanswered().tolist()
        return given_up, "found" if given_up else "narrowed" if known else "unknown"


def _lost(plan: StepPlan) -> Iterator[tuple[Call, list[int]]]:
    """Unanswered pairs of each segment at which some are read; in a step that reads nothing, all below it."""
    reads = plan.reads
    for call, entry in zip(plan.calls, plan.entries, strict=True):
        if call is None or call.aborted:
            continue
        for segment in entry.one_by_one() if isinstance(entry, LeafRun) else (entry,):
            pairs = pairs_at(segment) if reads else pairs_below(segment)
            if open_pairs := [pair for pair in pairs if not call.answered[pair]]:
                yield call, open_pairs
