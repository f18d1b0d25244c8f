"""Systems side by side: the first stage and each setting of the model, with intervals and paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.entrypoints.evaluation.bootstrap import ROUNDS, Interval, intervals
from engine.entrypoints.evaluation.dataset import EvaluationSet, Ranking
from engine.entrypoints.evaluation.metrics import measure, metric_names


@dataclass(frozen=True)
class System:
    """One order of the documents, and what made it."""

    name: str
    ranking: Ranking
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Settings, device, speed: for the report."""


@dataclass(frozen=True)
class Row:
    """One system, measured."""

    name: str
    metrics: list[Interval]
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Difference:
    """``system`` minus ``baseline``, query by query."""

    system: str
    baseline: str
    metrics: list[Interval]


@dataclass(frozen=True)
class Comparison:
    dataset: EvaluationSet
    cutoff: int
    rows: list[Row]
    differences: list[Difference]

    @property
    def metric_names(self) -> list[str]:
        return metric_names(self.cutoff)


def compare(dataset: EvaluationSet, systems: Sequence[System], cutoff: int, *, rounds: int = ROUNDS) -> Comparison:
    """Every system against the first one, and the third and later ones against the second (setting by setting)."""
    measured = [measure(dataset, system.ranking, cutoff) for system in systems]
    pairs = [(i, base) for i in range(1, len(systems)) for base in range(min(i, 2))]
    columns = [*measured, *(measured[i] - measured[base] for i, base in pairs)]
    width = measured[0].shape[1]
    flat = intervals(np.concatenate(columns, axis=1), rounds=rounds)
    groups = [flat[start : start + width] for start in range(0, len(flat), width)]
    rows = [Row(system.name, group, system.facts) for system, group in zip(systems, groups, strict=False)]
    differences = [
        Difference(systems[i].name, systems[base].name, group)
        for (i, base), group in zip(pairs, groups[len(systems) :], strict=True)
    ]
    return Comparison(dataset, cutoff, rows, differences)
