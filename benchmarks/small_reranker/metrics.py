"""Ranking metrics over frozen candidate lists, with bootstrap intervals.

Every query has exactly one right candidate here, so the ideal DCG is 1 and recall is a matter of the list.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

CUTOFF = 10


class Interval(NamedTuple):
    mean: float
    low: float
    high: float


def rank_of_positive(scores: Sequence[float], positive: int) -> float:
    """Expected rank, from 1, of the candidate ``positive`` when ties are broken at random."""
    own = scores[positive]
    above = sum(score > own for score in scores)
    ties = sum(score == own for score in scores) - 1
    return 1 + above + ties / 2


def reciprocal_rank(rank: float, cutoff: int = CUTOFF) -> float:
    return 1 / rank if rank <= cutoff else 0.0


def ndcg(rank: float, cutoff: int = CUTOFF) -> float:
    return 1 / math.log2(1 + rank) if rank <= cutoff else 0.0


def first(rank: float) -> float:
    return float(rank == 1)


METRICS: dict[str, Callable[[float], float]] = {"MRR@10": reciprocal_rank, "nDCG@10": ndcg, "first": first}


def bootstrap(values: Sequence[float], *, rounds: int = 1000, seed: int = 0) -> Interval:
    """Mean with its 95 % percentile interval over queries drawn with replacement."""
    array = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(seed)
    means = array[rng.integers(0, len(array), (rounds, len(array)))].mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return Interval(float(array.mean()), float(low), float(high))


def paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """Interval of the mean difference per query: it excludes zero where one side is really better."""
    return bootstrap([a - b for a, b in zip(ours, theirs, strict=True)])


def summarise(ranks: Sequence[float]) -> dict[str, Interval]:
    return {name: bootstrap([metric(rank) for rank in ranks]) for name, metric in METRICS.items()}


def random_ranks(sizes: Sequence[int], *, seed: int = 0) -> list[float]:
    """Rank of the right candidate in one random order per list."""
    rng = np.random.default_rng(seed)
    return [float(rng.integers(1, size + 1)) for size in sizes]
