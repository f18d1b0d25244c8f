"""One model over the candidates of every query: the new order, and what it took."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from engine.entrypoints.evaluation.dataset import EvaluationSet, Ranking
from engine.entrypoints.progress import Progress
from engine.errors import EngineError
from engine.outputs import ScoringRequestOutput
from engine.scoring.activation import ranking as order_of

if TYPE_CHECKING:
    from engine import LLM


@dataclass(frozen=True)
class Reranked:
    ranking: Ranking
    logits: Mapping[str, Mapping[str, float]]
    num_pairs: int
    num_truncated: int
    seconds: float


def rerank_all(llm: LLM, dataset: EvaluationSet, first: Ranking) -> Reranked:
    """Every query with its candidates; equal logits keep the order of the first stage.

    Raises ``EngineError`` for a pair that has no score.
    """
    scored = [(query, document) for query in dataset.queries for document in first.get(query, ())]
    logits: dict[str, dict[str, float]] = {query: {} for query in dataset.queries}
    num_truncated = 0
    start = time.perf_counter()
    if llm.reads_lists:  # the candidates of a query are read together
        lists = (
            llm.score_iter(dataset.queries[query], [dataset.documents[document] for document in first[query]])
            for query in dataset.queries
            if first.get(query)
        )
        outputs: Iterator[ScoringRequestOutput] = chain.from_iterable(lists)
    else:
        outputs = llm.score_iter(
            [dataset.queries[query] for query, _ in scored],
            [dataset.documents[document] for _, document in scored],
        )
    with Progress(len(scored), "pair") as progress:
        for (query, document), output in zip(scored, outputs, strict=True):
            if output.error is not None:
                raise EngineError(f"Query {query!r} with document {document!r} has no score: {output.error}")
            logits[query][document] = output.outputs.logit
            num_truncated += output.truncated
            progress.tick()
    seconds = time.perf_counter() - start
    ranking = {query: _best_first(scored) for query, scored in logits.items() if scored}
    return Reranked(ranking, logits, len(scored), num_truncated, seconds)


def _best_first(logits: Mapping[str, float]) -> list[str]:
    documents = list(logits)
    order = order_of(np.fromiter(logits.values(), np.float32, len(documents)))
    return [documents[i] for i in order.tolist()]
