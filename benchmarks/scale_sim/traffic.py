"""Calls and when they come: Poisson arrivals, queries that repeat as a power law says."""

from __future__ import annotations

import random
from bisect import bisect
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True, slots=True)
class Call:
    """One query and its documents. The constant prefix (the template) is kept by every replica and costs nothing."""

    arrival_s: float
    query: int
    """Which query; calls with the same number share its tokens."""
    query_tokens: int
    document_tokens: int
    documents: int

    def work_tokens(self, constant_prefix: int) -> int:
        """As ``engine.core.replicas.work_tokens`` counts them."""
        return constant_prefix + self.query_tokens + self.documents * self.document_tokens


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the calls have in common."""

    query_tokens: int = 30
    document_tokens: int = 190
    documents: int = 100
    spread: float = 0.5
    """Documents of a call are drawn from ``documents`` times 1 - spread to 1 + spread."""
    num_queries: int = 10_000
    zipf: float = 1.0
    """0: every query is as likely as any other."""

    @property
    def mean_tokens(self) -> float:
        """Computed for a call whose query is not kept."""
        return self.query_tokens + self.documents * self.document_tokens


def poisson(shape: Shape, calls_per_s: float, num_calls: int, seed: int) -> list[Call]:
    rng = random.Random(seed)
    weights = list(accumulate((rank + 1) ** -shape.zipf for rank in range(shape.num_queries)))
    low = max(1, round(shape.documents * (1 - shape.spread)))
    high = max(low, round(shape.documents * (1 + shape.spread)))
    now, calls = 0.0, []
    for _ in range(num_calls):
        now += rng.expovariate(calls_per_s)
        query = bisect(weights, rng.random() * weights[-1])
        calls.append(Call(now, query, shape.query_tokens, shape.document_tokens, rng.randint(low, high)))
    return calls
