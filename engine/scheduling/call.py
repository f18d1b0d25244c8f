"""The scheduler's own record of one call: what it still has to do, and what it has cost so far."""

from __future__ import annotations

import numpy as np

from engine.messages import CallStats, EngineCoreRequest
from engine.scheduling.token_tree import Segment


class Call:
    """One accepted call. ``frontier`` holds the segments whose parent is computed or under way, next one last."""

    __slots__ = (
        "aborted",
        "answered",
        "attempts",
        "computed_tokens",
        "first_step_s",
        "frontier",
        "num_given_up",
        "num_in_flight",
        "num_steps",
        "pairs",
        "remaining_tokens",
        "request",
        "roots",
        "token_types",
    )

    def __init__(self, request: EngineCoreRequest) -> None:
        self.request = request
        ends = np.cumsum(request.pair_lens)[:-1]
        self.pairs: list[np.ndarray] = np.split(request.token_ids, ends)
        types = request.token_type_ids
        self.token_types: list[np.ndarray] | None = None if types is None else np.split(types, ends)
        self.answered: set[int] = set()
        self.attempts: dict[int, int] = {}
        """Steps that failed with this pair in them."""
        self.num_given_up = 0
        """Pairs answered with an error because they kept losing their steps."""
        self.roots: list[Segment] = []
        self.frontier: list[Segment] = []
        self.remaining_tokens = 0
        self.num_in_flight = 0
        """Its segments in steps that have not come back."""
        self.aborted = False
        self.first_step_s: float | None = None
        self.num_steps = 0
        self.computed_tokens = 0

    @property
    def call_id(self) -> str:
        return self.request.call_id

    @property
    def finished(self) -> bool:
        return len(self.answered) == len(self.pairs)

    def unanswered(self) -> list[int]:
        return [index for index in range(len(self.pairs)) if index not in self.answered]

    def plant(self, roots: list[Segment]) -> None:
        """Start (again) from these roots."""
        self.roots = roots
        self.frontier = list(reversed(roots))
        self.remaining_tokens = sum(len(segment) for root in roots for segment in root.descend())
        self.num_in_flight = 0

    def stats(self, now_s: float) -> CallStats:
        first = now_s if self.first_step_s is None else self.first_step_s
        return CallStats(
            logical_tokens=int(self.request.pair_lens.sum()),
            computed_tokens=self.computed_tokens,
            queue_s=max(0.0, first - self.request.arrival_s),
            compute_s=max(0.0, now_s - first),
            num_steps=self.num_steps,
        )
