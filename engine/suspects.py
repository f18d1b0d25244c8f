"""Finding the pair that kills its worker, by bisection.

After a step was lost, its pairs are suspected, and a step may hold only half as many suspects as the lost one did. A
pair that is lost twice, the second time alone, is given up; answered pairs are cleared. So a poisonous pair is found
after about log2(n) lost steps, and nobody else pays more than a replay.
"""

from __future__ import annotations

from engine.call import Call
from engine.step_plan import StepPlan
from engine.token_tree import Segment

MAX_ATTEMPTS = 8
"""A pair lost this often is given up in any company: the fault may lie in a context that many pairs share."""


class Suspects:
    def __init__(self) -> None:
        self._pairs: set[tuple[str, int]] = set()
        self._limit = 0

    def _suspected(self, call: Call, segment: Segment) -> bool:
        return any((call.call_id, pair) in self._pairs for pair in segment.pairs)

    def crowded(self, call: Call, segment: Segment, plan: StepPlan) -> bool:
        """Whether ``segment`` would put more suspects into the step than it may hold."""
        if not self._pairs or not self._suspected(call, segment):
            return False
        held = zip(plan.calls, plan.segments, strict=True)
        return sum(other is not None and self._suspected(other, taken) for other, taken in held) >= self._limit

    def clear(self, call_id: str, pairs: list[int]) -> None:
        if self._pairs:
            self._pairs.difference_update((call_id, pair) for pair in pairs)

    def blame(self, plan: StepPlan) -> dict[Call, list[int]]:
        """Enter the pairs of a lost step; returns those that are given up."""
        held = [
            (call, pairs)
            for call, segment in zip(plan.calls, plan.segments, strict=True)
            if call is not None and not call.aborted and (pairs := _pairs_lost(segment, plan, call))
        ]
        self._limit = max(1, len(held) // 2)
        given_up: dict[Call, list[int]] = {}
        for call, pairs in held:
            for pair in pairs:
                lost = call.attempts[pair] = call.attempts.get(pair, 0) + 1
                if lost >= MAX_ATTEMPTS or (lost >= 2 and len(held) == 1):
                    given_up.setdefault(call, []).append(pair)
                else:
                    self._pairs.add((call.call_id, pair))
        return given_up


def _pairs_lost(segment: Segment, plan: StepPlan, call: Call) -> list[int]:
    """Pairs read at the segment; in a step that reads nothing, all pairs below it."""
    below = segment.descend() if not plan.reads else iter([segment])
    return [pair for node in below for pair in node.pairs if pair not in call.answered]
