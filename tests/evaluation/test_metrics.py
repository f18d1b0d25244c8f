"""Metrics against numbers worked out by hand."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from engine.entrypoints.evaluation.dataset import EvaluationSet, judged_set
from engine.entrypoints.evaluation.metrics import measure, metric_names, recall_of_all
from engine.errors import ConfigError

GRADES = {"a": 3, "b": 0, "c": 1, "d": -1, "e": 2}


def measured(ranked: list[str], k: int) -> list[float]:
    """nDCG, MRR and recall of one query."""
    documents = {name: name for name in "abcdex"}
    row: list[float] = measure(judged_set("one", {"q": "q"}, documents, {"q": GRADES}), {"q": ranked}, k)[0].tolist()
    return row


def test_ndcg_by_hand() -> None:
    # Gains 0, 3, 1 at discounts 1, log2(3), 2; the ideal is 3, 2, 1.
    found = 3 / math.log2(3) + 1 / 2
    ideal = 3 + 2 / math.log2(3) + 1 / 2
    assert measured(["b", "a", "c"], 10)[0] == pytest.approx(found / ideal, abs=1e-12)
    assert measured(["b", "a", "c"], 10)[0] == pytest.approx(0.5025, abs=1e-4)


def test_ndcg_cuts_both_lists_and_takes_a_negative_grade_for_none() -> None:
    assert measured(["e", "a"], 1)[0] == pytest.approx(2 / 3)
    assert measured(["d", "a"], 2)[0] == pytest.approx((3 / math.log2(3)) / (3 + 2 / math.log2(3)))
    assert measured(["a", "e", "c", "b", "d"], 10)[0] == 1.0
    assert measured([], 10)[0] == 0.0


@pytest.mark.parametrize(
    ("ranked", "k", "expected"),
    [(["b", "x", "c", "a"], 10, 1 / 3), (["b", "x", "c"], 2, 0.0), (["a"], 1, 1.0), ([], 5, 0.0), (["d"], 5, 0.0)],
)
def test_reciprocal_rank(ranked: list[str], k: int, expected: float) -> None:
    assert measured(ranked, k)[1] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("ranked", "k", "expected"),
    [(["a", "b", "c", "e"], 10, 1.0), (["a", "b", "c", "e"], 3, 2 / 3), (["x"], 10, 0.0), (["a", "d"], 2, 1 / 3)],
)
def test_recall(ranked: list[str], k: int, expected: float) -> None:
    assert measured(ranked, k)[2] == pytest.approx(expected)


def test_names_say_the_cutoff() -> None:
    assert metric_names(10) == ["nDCG@10", "MRR@10", "Recall@10"]


def test_a_query_that_the_ranking_lacks_counts_as_zero() -> None:
    dataset = judged_set("two", {"1": "x", "2": "y"}, {"a": "A"}, {"1": {"a": 1}, "2": {"a": 1}})
    assert measure(dataset, {"1": ["a"]}, 10).tolist() == [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]


def random_set(seed: int) -> tuple[EvaluationSet, dict[str, list[str]]]:
    """Graded judgements, judged documents that nobody ranked, ranked ones that nobody judged."""
    rng = random.Random(seed)
    names = [f"d{i}" for i in range(40)]
    qrels = {f"q{i}": {name: rng.choice([-1, 0, 0, 1, 2, 3]) for name in rng.sample(names, 12)} for i in range(25)}
    queries = {query: query for query in qrels}
    dataset = judged_set("random", queries, {name: name for name in names}, qrels)
    ranking = {query: rng.sample(names, rng.randrange(1, 40)) for query in dataset.queries if rng.random() > 0.1}
    return dataset, ranking


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_recall_of_all_candidates(seed: int) -> None:
    dataset, ranking = random_set(seed)
    relevant = {query: {name for name, grade in dataset.qrels[query].items() if grade > 0} for query in dataset.queries}
    shares = [len(names & set(ranking.get(query, ()))) / len(names) for query, names in relevant.items()]
    assert recall_of_all(dataset, ranking) == pytest.approx(np.mean(shares))


def test_queries_without_a_relevant_document_are_named_and_left_out() -> None:
    dataset = judged_set("some", {"1": "x", "2": "y"}, {"a": "A"}, {"1": {"a": 1}, "2": {"a": 0}})
    assert list(dataset.queries) == ["1"]
    assert dataset.notes == ("1 queries without a relevant document are not counted",)
    with pytest.raises(ConfigError, match="no judgement above 0"):
        judged_set("none", {"2": "y"}, {"a": "A"}, {"2": {"a": 0}})


def test_a_sample_is_always_the_same_and_in_order() -> None:
    dataset, _ = random_set(0)
    sample = dataset.sample(5)
    assert sample == dataset.sample(5)
    assert list(sample.queries) == [name for name in dataset.queries if name in sample.queries]
    assert len(sample.queries) == len(sample.qrels) == 5
    assert dataset.sample(None) is dataset
    assert dataset.sample(1000) is dataset
