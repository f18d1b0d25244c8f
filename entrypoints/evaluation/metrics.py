"""Metrics of rankings, computed by ir-measures as trec_eval defines them.

nDCG: gain is the grade itself, discount is log2(1 + rank), and the ideal list holds every relevant document, found or
not. MRR: one over the rank of the first relevant document. Recall: the share of relevant documents among the first k.
"""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np

from engine.entrypoints.evaluation.dataset import EvaluationSet, Ranking
from engine.errors import ConfigError
from engine.extras import pip_install

METRICS = {"nDCG": "nDCG", "MRR": "RR", "Recall": "R"}
"""Our name of a metric -> that of ir-measures."""


def check_installed() -> None:
    """Raises ``ConfigError`` where ir-measures is missing."""
    if find_spec("ir_measures") is None:
        raise ConfigError(f"engine eval needs ir-measures: {pip_install('eval')}.")


def metric_names(k: int) -> list[str]:
    return [f"{name}@{k}" for name in METRICS]


def measure(dataset: EvaluationSet, ranking: Ranking, k: int) -> np.ndarray:
    """(queries, metrics) of a ranking at cutoff ``k``; a query that it lacks counts as zero."""
    import ir_measures

    columns = {ir_measures.parse_measure(f"{name}@{k}"): column for column, name in enumerate(METRICS.values())}
    rows = {query: row for row, query in enumerate(dataset.queries)}
    qrels = {query: dict(judged) for query, judged in dataset.qrels.items()}
    # Evaluation tools read the order from scores, so the scores are made from ranks.
    run = {query: {document: -float(rank) for rank, document in enumerate(ranked)} for query, ranked in ranking.items()}
    values = np.zeros((len(rows), len(columns)))
    for found in ir_measures.iter_calc(list(columns), qrels, run):
        values[rows[found.query_id], columns[found.measure]] = found.value
    return values


def recall_of_all(dataset: EvaluationSet, ranking: Ranking) -> float:
    """The mean share of relevant documents anywhere in the ranking."""
    return float(measure(dataset, ranking, len(dataset.documents))[:, list(METRICS).index("Recall")].mean())
