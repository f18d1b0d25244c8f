"""What the model is given to rerank: BM25 over the texts, somebody's TREC run, or the candidates as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from engine.entrypoints.evaluation.dataset import EvaluationSet, Ranking
from engine.entrypoints.evaluation.trec import read_run
from engine.errors import ConfigError
from engine.extras import pip_install

BM25, NONE = "bm25", "none"


@dataclass(frozen=True)
class FirstStage:
    name: str
    ranking: Ranking
    measured: bool = True
    """False: its order means nothing, so nothing is compared with it."""
    notes: tuple[str, ...] = ()


def first_stage(source: str, dataset: EvaluationSet, top_k: int, *, skip_unknown: bool = False) -> FirstStage:
    """Ranks by ``source``: ``bm25``, ``none`` (only where each query has its own candidates), or the file of a run.

    Raises ``ConfigError`` for one that does not go with the dataset.
    """
    if source == NONE:
        if dataset.candidates is None:
            raise ConfigError("--first-stage none: a BEIR folder needs one, as every document would be scored.")
        return FirstStage(NONE, _chosen(dataset.candidates, dataset), measured=False)
    if source == BM25:
        return FirstStage("BM25", bm25_ranking(dataset, top_k))
    if dataset.candidates is not None:
        raise ConfigError("--first-stage FILE belongs to a BEIR folder; these queries have candidates of their own.")
    ranking, notes = read_run(Path(source), dataset, skip_unknown=skip_unknown)
    return FirstStage(
        Path(source).name, {query: documents[:top_k] for query, documents in ranking.items()}, notes=notes
    )


def _chosen(candidates: Ranking, dataset: EvaluationSet) -> Ranking:
    return {query: candidates[query] for query in dataset.queries}


def bm25_ranking(dataset: EvaluationSet, top_k: int) -> Ranking:
    """BM25 in Lucene's form with English stop words (``bm25s`` with its defaults); ties by the order of the corpus.

    Raises ``ConfigError`` without bm25s.
    """
    if find_spec("bm25s") is None:
        raise ConfigError(
            f"BM25 needs the package bm25s: {pip_install('eval')}. Or name a TREC run with --first-stage FILE."
        )
    names = list(dataset.documents)
    index = _Index([dataset.documents[name] for name in names])
    if dataset.candidates is not None:
        numbers = {name: number for number, name in enumerate(names)}
        return {
            query: _ordered(dataset.candidates[query], index.scores(dataset.queries[query]), numbers)
            for query in dataset.queries
        }
    found = index.best(list(dataset.queries.values()), min(top_k, len(names)))
    return {query: [names[i] for i in best] for query, best in zip(dataset.queries, found, strict=True)}


def _ordered(candidates: Sequence[str], scores: np.ndarray, numbers: dict[str, int]) -> list[str]:
    return sorted(candidates, key=lambda name: -float(scores[numbers[name]]))


class _Index:
    def __init__(self, texts: list[str]) -> None:
        import bm25s

        self._bm25s: Any = bm25s
        self._size = len(texts)
        self._index = bm25s.BM25()
        tokens = bm25s.tokenize(texts, stopwords="en", show_progress=False)
        self._has_words = any(len(ids) for ids in tokens.ids)
        if self._has_words:
            self._index.index(tokens, show_progress=False)

    def _tokens(self, queries: list[str]) -> list[list[str]]:
        found: list[list[str]] = self._bm25s.tokenize(queries, stopwords="en", return_ids=False, show_progress=False)
        return found

    def scores(self, query: str) -> np.ndarray:
        """The scores of every text; zero where no word is shared."""
        (tokens,) = self._tokens([query])
        if not tokens or not self._has_words:
            return np.zeros(self._size, np.float32)
        return np.asarray(self._index.get_scores(tokens))

    def best(self, queries: list[str], size: int) -> list[list[int]]:
        """The numbers of the best texts for each query, of those that share a word with it."""
        found: list[list[int]] = []
        for query in queries:
            scores = self.scores(query)
            best = np.argpartition(-scores, size - 1)[:size] if size < self._size else np.arange(self._size)
            # Texts that tie with the last one taken: the first of the corpus stay, whatever the partition took.
            threshold = scores[best].min()
            inside = np.flatnonzero(scores > threshold)
            tied = np.flatnonzero(scores == threshold)[: size - len(inside)]
            chosen = np.concatenate([inside, tied])
            order = chosen[np.lexsort((chosen, -scores[chosen]))]
            found.append([int(i) for i in order if scores[i] > 0])
        return found
