"""How far two sides agree on logits, scores and the order of each query's documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.entrypoints.inspection.verify_bounds import Bounds
from engine.model_spec import HeadSpec
from engine.scoring.activation import activate

NEAR = 0.1
"""Of the bound of a precision: documents that are nearer than that share of their query's range are near ties."""
_BOUNDED = ("sigmoid", "softmax", "tanh", "cosine")
"""Activations whose scores lie between fixed ends."""


@dataclass(frozen=True)
class Agreement:
    """One setting against another one."""

    setting: str
    against: str
    max_logit: float
    max_score: float
    num_swaps: int
    """Documents of one query in another order."""
    kendall_tau: float
    """Of documents that this side no longer tells apart half a swap counts."""
    largest_swap: float
    """How far apart, in logits of the other side, the farthest swapped documents were."""
    bound: float
    bounds_logit: bool
    """The bound is on logits; else on scores."""
    num_top1: int = 0
    """Queries with another first document than the other side has, as far as that one does not hold the two equal."""
    num_queries: int = 0
    num_ties: int = 0
    """Documents of a query that the other side tells apart and this one does not."""
    num_ordered: int = 1
    """Pairs of documents of a query that the other side tells apart; 0: no order was compared."""
    right_top1: float | None = None
    """Of a judged file: the share of queries whose first document is a right one."""
    order: Bounds | None = None
    """Bounds beside ``bound``; None: the two sides compute the same, so that only the numbers are bounded."""
    score_bound: float | None = None
    """On ``max_score``, where scores are not logits."""

    @property
    def ok(self) -> bool:
        return not self.faults

    @property
    def _is_one_near_swap(self) -> bool:
        """One pair of neighbours may swap in a set of any size."""
        return self.num_swaps <= 1 and self.num_ties == 0 and self.largest_swap <= self.bound / 2

    @property
    def faults(self) -> list[str]:
        """The figures that are out of their bounds, one phrase each."""
        what, size = ("logits", self.max_logit) if self.bounds_logit else ("scores", self.max_score)
        found = []
        if not size <= self.bound:  # so that NaN is one
            found.append(f"differs from {self.against} by {size:.2g} in its {what}, more than {self.bound:.2g}")
        if self.score_bound is not None and not self.max_score <= self.score_bound:
            found.append(f"moves scores by {self.max_score:.2g}, more than {self.score_bound:.2g}")
        if self.order is None or self._is_one_near_swap:
            return found
        if self.kendall_tau < self.order.tau:
            found.append(f"has another order (Kendall tau {self.kendall_tau:.2f}, less than {self.order.tau:g})")
        if self.num_top1 > self.order.top1_share * self.num_queries:
            allowed = int(self.order.top1_share * self.num_queries)
            found.append(
                f"puts another document first in {self.num_top1} of {self.num_queries} queries, more than {allowed}"
            )
        return found


def agreement(
    setting: str,
    against: str,
    found: Sequence[np.ndarray],
    expected: Sequence[np.ndarray],
    head: HeadSpec,
    bound: float,
    *,
    order: Bounds | None = None,
    grades: Sequence[Sequence[int]] | None = None,
) -> Agreement:
    """Compares logits of one side, (documents,) of each query, with those that are expected.

    ``bound``: of the logits where an ``order`` is given, a precision's bounds; else of the scores. ``grades`` as for
    ``verify``.
    """
    ours, theirs = np.concatenate(found), np.concatenate(expected)
    figures = compare_orders(found, expected, 0.0 if order is None else order.logit_share * NEAR)
    firsts = [int(row.argmax()) for row in found]
    right = None if grades is None else [own[first] > 0 for own, first in zip(grades, firsts, strict=True)]
    return Agreement(
        setting=setting,
        against=against,
        max_logit=float(np.abs(ours - theirs).max()),
        max_score=float(np.abs(activate(ours, head) - activate(theirs, head)).max()),
        num_swaps=len(figures.gaps),
        kendall_tau=figures.tau,
        largest_swap=max(figures.gaps, default=0.0),
        bound=bound,
        bounds_logit=order is not None,
        num_top1=figures.num_top1,
        num_queries=len(found),
        num_ties=figures.num_ties,
        num_ordered=figures.num_ordered,
        right_top1=None if right is None else sum(right) / len(right),
        order=order,
        score_bound=order.score if order is not None and head.activation in _BOUNDED else None,
    )


@dataclass(frozen=True)
class OrderFigures:
    """How far two sides agree on the order of each query's documents."""

    gaps: tuple[float, ...]
    """Of swapped documents, in logits of the other side; near ties count too."""
    num_ties: int
    num_ordered: int
    tau: float
    num_top1: int


def compare_orders(found: Sequence[np.ndarray], expected: Sequence[np.ndarray], near: float = 0.0) -> OrderFigures:
    """The order of ``found`` against that of ``expected``, within each query.

    ``near``: the share of a query's range within which ``expected`` holds two documents to be near ties, whose order
    says nothing; exact ties always are. Documents that ``found`` no longer tells apart count as half a swap.
    """
    gaps: list[float] = []
    num_swaps = num_ties = num_ordered = num_top1 = 0
    for ours, theirs in zip(found, expected, strict=True):
        tie = near * float(theirs.max() - theirs.min())
        first, second = np.triu_indices(len(ours), 1)
        our_gaps, their_gaps = ours[first] - ours[second], theirs[first] - theirs[second]
        is_swap, is_apart = our_gaps * their_gaps < 0, np.abs(their_gaps) > tie
        gaps += np.abs(their_gaps[is_swap]).tolist()
        num_swaps += int((is_swap & is_apart).sum())
        num_ties += int(((our_gaps == 0) & is_apart).sum())
        num_ordered += int(is_apart.sum())
        num_top1 += bool(theirs.max() - theirs[int(ours.argmax())] > tie)
    tau = 1 - (2 * num_swaps + num_ties) / num_ordered if num_ordered else 1.0
    return OrderFigures(tuple(gaps), num_ties, num_ordered, tau, num_top1)
