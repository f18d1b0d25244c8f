"""Samples -> numbers: throughput, percentiles, goodput, and ratios with an interval."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from engine.entrypoints.bench.samples import Run, Sample
from engine.errors import ConfigError

METRICS = ("e2el", "queue", "ttfs")
BOOTSTRAP_ROUNDS = 2000


@dataclass(frozen=True)
class Spread:
    """Mean, median, deviation and percentiles of a list of seconds, in milliseconds."""

    mean_ms: float
    median_ms: float
    std_ms: float
    percentiles_ms: dict[float, float]


def spread(seconds: list[float], percentiles: tuple[float, ...]) -> Spread:
    """All zero for an empty list, as other benches print it."""
    values = np.asarray(seconds or [0.0]) * 1000.0
    cut = {p: float(np.percentile(values, p)) for p in percentiles}
    return Spread(float(values.mean()), float(np.median(values)), float(values.std()), cut)


class Limit(NamedTuple):
    """One service level: a metric and its most milliseconds."""

    metric: str
    max_ms: float


def goodput_limits(words: tuple[str, ...]) -> list[Limit]:
    """The limits of ``--goodput``. Raises ``ConfigError`` for a word that is none."""
    limits = []
    for word in words:
        metric, sign, value = word.partition(":")
        try:
            max_ms = float(value)
        except ValueError:
            max_ms = -1.0
        if not sign or metric not in ("e2el", "ttfs") or max_ms <= 0:
            raise ConfigError(f"--goodput {word!r}: write e2el:MS or ttfs:MS, in milliseconds.")
        limits.append(Limit(metric, max_ms))
    return limits


def is_good(sample: Sample, limits: list[Limit]) -> bool:
    """Within every limit. End-to-end is counted from the planned time: a call that had to wait was late."""
    for limit in limits:
        if limit.metric == "e2el":
            value = sample.inclusive_s
        elif sample.first_score_s is not None:
            value = sample.first_score_s - sample.planned_s
        else:
            return False
        if value * 1000.0 > limit.max_ms:
            return False
    return sample.ok


@dataclass(frozen=True)
class Summary:
    """The figures of a run that are printed or saved."""

    completed: int
    failed: int
    num_documents: int
    total_tokens: int
    tokens_counted_here: bool
    duration_s: float
    requests_per_s: float
    documents_per_s: float
    tokens_per_s: float
    good_per_s: float | None
    good_share: float | None
    latency: Spread
    queue: Spread
    inclusive: Spread
    first_score: Spread | None
    errors: list[tuple[str, int]]
    """Most frequent first."""


def summarise(run: Run, percentiles: tuple[float, ...], limits: list[Limit]) -> Summary:
    done = run.completed
    seconds = max(run.duration_s, 1e-9)
    tokens, documents = sum(s.num_tokens for s in done), sum(s.num_documents for s in done)
    firsts = [s.first_score_latency_s for s in done if s.first_score_latency_s is not None]
    good = sum(is_good(s, limits) for s in done) if limits else None
    return Summary(
        completed=len(done),
        failed=len(run.failed),
        num_documents=documents,
        total_tokens=tokens,
        tokens_counted_here=any(s.tokens_counted_here for s in done),
        duration_s=run.duration_s,
        requests_per_s=len(done) / seconds,
        documents_per_s=documents / seconds,
        tokens_per_s=tokens / seconds,
        good_per_s=None if good is None else good / seconds,
        good_share=None if good is None else good / max(1, len(run.samples)),
        latency=spread([s.latency_s for s in done], percentiles),
        queue=spread([s.queued_s for s in done], percentiles),
        inclusive=spread([s.inclusive_s for s in done], percentiles),
        first_score=spread(firsts, percentiles) if firsts else None,
        errors=Counter(s.error for s in run.failed if s.error).most_common(),
    )


class Ratio(NamedTuple):
    """A against B, with a 95 % interval."""

    value: float
    low: float
    high: float


def ratio(a: list[float], b: list[float], seed: int = 0) -> Ratio:
    """Geometric mean of the ratios of paired blocks; the interval is a bootstrap over the blocks.

    Blocks of A and B are neighbours in time, so what drifts on the machine cancels in each ratio.
    """
    logs = np.log(np.asarray(a) / np.asarray(b))
    rng = np.random.default_rng(seed)
    means = logs[rng.integers(0, len(logs), (BOOTSTRAP_ROUNDS, len(logs)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Ratio(float(np.exp(logs.mean())), float(np.exp(low)), float(np.exp(high)))
