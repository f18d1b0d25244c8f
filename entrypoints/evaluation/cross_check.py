"""The same means by ``ir-measures``, so that nobody has to believe our own metric functions."""

from __future__ import annotations

from importlib.util import find_spec

from engine.entrypoints.evaluation.dataset import EvaluationSet, Ranking
from engine.entrypoints.evaluation.metrics import METRICS
from engine.errors import ConfigError

_THEIR_NAMES = {"nDCG": "nDCG", "MRR": "RR", "Recall": "R"}


def check_installed() -> None:
    if find_spec("ir_measures") is None:
        raise ConfigError("--cross-check needs ir-measures: pip install 'rerank-engine[eval]'.")


def reference_means(dataset: EvaluationSet, ranking: Ranking, k: int) -> list[float]:
    """In the order of ``METRICS``. Scores are made from ranks, as tools read the order from scores."""
    import ir_measures

    measures = [ir_measures.parse_measure(f"{_THEIR_NAMES[name]}@{k}") for name in METRICS]
    qrels = [
        ir_measures.Qrel(query, document, grade)
        for query, judged in dataset.qrels.items()
        for document, grade in judged.items()
    ]
    run = [
        ir_measures.ScoredDoc(query, document, float(len(documents) - place))
        for query, documents in ranking.items()
        for place, document in enumerate(documents)
    ]
    found = ir_measures.calc_aggregate(measures, qrels, run)
    return [float(found[measure]) for measure in measures]
