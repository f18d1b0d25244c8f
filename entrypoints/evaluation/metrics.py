"""Metrics of one ranked list against its judgements, as trec_eval defines them.

nDCG: gain is the grade itself, discount is log2(1 + rank), and the ideal list holds every relevant document, found or
not. MRR: one over the rank of the first relevant document. Recall: the share of relevant documents among the first k.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from engine.entrypoints.evaluation.dataset import EvaluationSet, Ranking

Metric = Callable[[Sequence[str], Mapping[str, int], int], float]


def ndcg(ranked: Sequence[str], grades: Mapping[str, int], k: int) -> float:
    ideal = sorted((grade for grade in grades.values() if grade > 0), reverse=True)
    return _dcg([max(grades.get(document, 0), 0) for document in ranked[:k]]) / _dcg(ideal[:k])


def _dcg(gains: Sequence[int]) -> float:
    return math.fsum(gain / math.log2(1 + rank) for rank, gain in enumerate(gains, 1))


def reciprocal_rank(ranked: Sequence[str], grades: Mapping[str, int], k: int) -> float:
    return next((1 / rank for rank, document in enumerate(ranked[:k], 1) if grades.get(document, 0) > 0), 0.0)


def recall(ranked: Sequence[str], grades: Mapping[str, int], k: int) -> float:
    num_found = sum(grades.get(document, 0) > 0 for document in ranked[:k])
    return num_found / sum(grade > 0 for grade in grades.values())


METRICS: dict[str, Metric] = {"nDCG": ndcg, "MRR": reciprocal_rank, "Recall": recall}


def metric_names(k: int) -> list[str]:
    return [f"{name}@{k}" for name in METRICS]


def measure(dataset: EvaluationSet, ranking: Ranking, k: int) -> np.ndarray:
    """(queries, metrics) of a ranking; a query that it lacks counts as zero."""
    rows = [
        [metric(ranking.get(query, ()), dataset.qrels[query], k) for metric in METRICS.values()]
        for query in dataset.queries
    ]
    return np.array(rows, np.float64)
