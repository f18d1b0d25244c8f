"""How sure a mean over queries is: the paired bootstrap.

Queries are drawn with replacement, the same draw for all systems, so the interval of a difference takes in that both
systems find the same queries hard.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

ROUNDS = 2000
_ROUNDS_AT_ONCE = 100
PERCENTILES = (2.5, 97.5)

Verdict = Literal["better", "worse", "no clear difference"]


@dataclass(frozen=True)
class Interval:
    """A mean and where it lies in 95 % of the draws."""

    mean: float
    low: float
    high: float

    @property
    def verdict(self) -> Verdict:
        """The verdict on a difference: better, worse or not told apart."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "no clear difference"


def intervals(values: np.ndarray, *, rounds: int = ROUNDS, seed: int = 0) -> list[Interval]:
    """One interval for each column of ``values`` (queries, columns); one draw serves all columns."""
    num_queries = len(values)
    rng = np.random.default_rng(seed)
    chances = np.full(num_queries, 1 / num_queries)
    means = []
    for start in range(0, rounds, _ROUNDS_AT_ONCE):
        # How often each query is drawn, instead of which one each time: a product of matrices does the rest.
        counts = rng.multinomial(num_queries, chances, size=min(_ROUNDS_AT_ONCE, rounds - start))
        means.append(counts @ values / num_queries)
    low, high = np.percentile(np.concatenate(means), PERCENTILES, axis=0)
    columns = zip(values.mean(axis=0).tolist(), low.tolist(), high.tolist(), strict=True)
    return [Interval(*numbers) for numbers in columns]
