"""How long a step takes: ``a + b * tokens + c * sum(len * keys)``, the form that the CUDA planner fits.

Beside it stands what a call costs outside of steps (its client, sockets, the scheduler), which keeps no device busy.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from engine.backends.cuda.planner import StepSample, StepTime, fit_step_time


@dataclass(frozen=True)
class CostModel:
    step: StepTime
    overhead_s: float = 0.0
    """Of a call, beside its steps."""


@dataclass(frozen=True)
class IsolatedCall:
    """A call that was alone and fitted into one step."""

    num_tokens: int
    sum_squares: int
    device_s: float
    latency_s: float


def fit(samples: Sequence[IsolatedCall]) -> CostModel:
    """The median of every size is fitted: one slow run says nothing about the cost model."""
    by_size: dict[tuple[int, int], list[IsolatedCall]] = {}
    for sample in samples:
        by_size.setdefault((sample.num_tokens, sample.sum_squares), []).append(sample)
    steps = [
        StepSample(tokens, squares, statistics.median(sample.device_s for sample in group))
        for (tokens, squares), group in by_size.items()
    ]
    overhead = statistics.median(sample.latency_s - sample.device_s for sample in samples)
    return CostModel(fit_step_time(steps), max(0.0, overhead))


def worst_error(cost_model: CostModel, samples: Sequence[IsolatedCall]) -> float:
    """Largest relative error of the cost model against the median of a size."""
    by_size: dict[tuple[int, int], list[float]] = {}
    for sample in samples:
        by_size.setdefault((sample.num_tokens, sample.sum_squares), []).append(sample.device_s)
    return max(
        abs(cost_model.step.seconds(*size) / statistics.median(seconds) - 1.0) for size, seconds in by_size.items()
    )
