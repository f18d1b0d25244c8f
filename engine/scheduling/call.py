"""The scheduler's own record of one call: what it still has to do, and what it has cost so far."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.messages import CallStats, EngineCoreRequest
from engine.scheduling.reads import ReadRows
from engine.scheduling.token_tree import Entry, LeafRun, Leaves, Node, Segment
from engine.scheduling.tree_builder import total_tokens


class Call:
    """One accepted call. ``ready`` holds the entries whose context is computed or in flight; the next one is last."""

    __slots__ = (
        "aborted",
        "answered",
        "attempts",
        "computed_tokens",
        "first_step_s",
        "num_answered",
        "num_given_up",
        "num_in_flight",
        "num_pairs",
        "num_steps",
        "planned_before",
        "read_rows",
        "ready",
        "remaining_tokens",
        "request",
        "roots",
        "work_tokens",
    )

    def __init__(self, request: EngineCoreRequest, planned_before: int = 0) -> None:
        """``planned_before``: tokens that all steps had taken when the call came."""
        self.request = request
        self.planned_before = planned_before
        self.num_pairs = len(request.pair_lens)
        self.answered = np.zeros(self.num_pairs, bool)
        self.num_answered = 0
        self.read_rows = None if request.read_offsets is None else ReadRows(request)
        """Of prompts that are read at several tokens."""
        self.attempts: dict[int, int] = {}
        """Steps that failed with this pair in them."""
        self.num_given_up = 0
        """Pairs answered with an error because they kept losing their steps."""
        self.roots: list[Node] = []
        self.ready: list[Entry] = []
        self.work_tokens = 0
        """Of all that it had to do when it came."""
        self.remaining_tokens = 0
        self.num_in_flight = 0
        """Its entries in steps that have not come back."""
        self.aborted = False
        self.first_step_s: float | None = None
        self.num_steps = 0
        self.computed_tokens = 0

    @property
    def call_id(self) -> str:
        return self.request.call_id

    @property
    def finished(self) -> bool:
        return self.num_answered == self.num_pairs

    def num_tokens(self, pairs: np.ndarray | list[int]) -> int:
        """Tokens of these pairs as they were asked for, shared ones in each."""
        return int(self.request.pair_lens[pairs].sum()) if len(pairs) else 0

    def unanswered(self) -> np.ndarray:
        """Numbers of the pairs that have no answer yet."""
        return (~self.answered).nonzero()[0]

    def start_from(self, roots: list[Node]) -> None:
        """Start (again) from these roots."""
        self.roots = roots
        if self.read_rows is not None:
            self.read_rows.place(roots)
        self.ready = []
        self.make_ready(roots)
        self.remaining_tokens = total_tokens(roots)
        self.work_tokens = self.work_tokens or self.remaining_tokens
        self.num_in_flight = 0

    def make_ready(self, nodes: Sequence[Node]) -> None:
        """These may be scheduled from now on: leaves first, so that their parent is soon done with."""
        self.ready += [node for node in reversed(nodes) if isinstance(node, Segment)]
        self.ready += [node.all() for node in nodes if isinstance(node, Leaves)]

    def took(self, num_tokens: int) -> None:
        """An entry of so many tokens was taken into a step."""
        self.num_in_flight += 1
        self.remaining_tokens -= num_tokens
        self.computed_tokens += num_tokens

    def waiting_pairs(self) -> list[int]:
        """Pairs that end at, or below, what has not been scheduled."""
        found: list[int] = []
        for entry in self.ready:
            found += pairs_below(entry)
        return sorted(found)

    def stats(self, now_s: float) -> CallStats:
        first = now_s if self.first_step_s is None else self.first_step_s
        return CallStats(
            logical_tokens=len(self.request.token_ids),
            computed_tokens=self.computed_tokens,
            queue_s=max(0.0, first - self.request.arrival_s),
            compute_s=max(0.0, now_s - first),
            num_steps=self.num_steps,
        )


def pairs_below(entry: Entry) -> list[int]:
    """Pairs that end at an entry, or below it."""
    if isinstance(entry, LeafRun):
        found: list[int] = entry.pairs.tolist()
        return found
    below: list[int] = []
    for segment in entry.descend():
        below += segment.pairs
        for leaves in segment.leaves:
            below += leaves.pairs.tolist()
    return below


def pairs_at(entry: Entry) -> list[int]:
    """Pairs whose score is read at an entry."""
    if isinstance(entry, Segment):
        return entry.pairs
    found: list[int] = entry.pairs.tolist()
    return found
