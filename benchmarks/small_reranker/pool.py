"""The pool that training lists are drawn from: documents, queries that each have one right document, and negatives.

What the model is shown as the right document may be a variant of it: without the sentence that the query is, or
without the sentences that repeat the query's words. The teacher embeds queries and whole documents once.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.small_reranker.candidates import Bm25Index
from benchmarks.small_reranker.queries import MIN_UNWORDED_WORDS, cut_sentence, query_of, unworded
from benchmarks.small_reranker.texts import Pair

FORMS = ("keywords", "title", "question")
MIN_CUT_WORDS = 40  # shorter texts lose too much with a sentence
UNWORDED_SHARE = 0.3
MAX_CHARS = 3000
HARD_NEGATIVES = 12  # of either kind: BM25's finds and the teacher's


@dataclass
class Pool:
    """``positive[i]`` is the document of query i, ``shown[i]`` the variant shown in its place; ``by_words`` and
    ``by_meaning`` are its hard negatives, found by BM25 and by the teacher."""

    texts: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    queries: list[str] = field(default_factory=list)
    positive: list[int] = field(default_factory=list)
    shown: list[str | None] = field(default_factory=list)
    by_words: list[list[int]] = field(default_factory=list)
    by_meaning: list[list[int]] = field(default_factory=list)

    def ask(self, query: str, document: int, shown: str | None = None) -> None:
        self.queries.append(query)
        self.positive.append(document)
        self.shown.append(shown and shown[:MAX_CHARS])

    def varied(self) -> list[int]:
        """The queries that have a variant, in the order in which ``variants`` gives the texts."""
        return [query for query, text in enumerate(self.shown) if text]

    def variants(self) -> list[str]:
        return [text for text in self.shown if text]

    def head(self, documents: int) -> "Pool":
        """The part of the pool whose documents are among the first ones, without negatives."""
        kept = [i for i, document in enumerate(self.positive) if document < documents]
        part = Pool(self.texts[:documents], self.groups[:documents])
        for i in kept:
            part.ask(self.queries[i], self.positive[i], self.shown[i])
        return part


def sample(pairs: Sequence[Pair], quota: dict[str, int], rng: random.Random) -> list[Pair]:
    """Up to ``quota[source]`` pairs of each source; small sources are repeated, with other query forms."""
    by_source: dict[str, list[Pair]] = {}
    for pair in pairs:
        by_source.setdefault(pair.source, []).append(pair)
    chosen: list[Pair] = []
    for source, wanted in quota.items():
        own = by_source.get(source, [])
        times, rest = divmod(wanted, len(own)) if own else (0, 0)
        chosen += own * min(times, 3) + rng.sample(own, rest if times < 3 else 0)
    return chosen


def build_pool(pairs: Sequence[Pair], quota: dict[str, int], *, seed: int = 0) -> Pool:
    """Two queries a pair: one from the title, one a sentence of a longer text or the title in another form."""
    rng = random.Random(seed)
    chosen = list({pair.body: pair for pair in sample(pairs, quota, rng)}.values())
    rng.shuffle(chosen)
    pool = Pool([pair.body[:MAX_CHARS] for pair in chosen], [pair.group for pair in chosen])
    for own, pair in enumerate(chosen):
        query, again = (query_of(pair, form, rng) for form in rng.sample(FORMS, 2))
        shown = None
        pool.ask(query, own)
        if len(pair.body.split()) >= MIN_CUT_WORDS and (cut := cut_sentence(pair, rng)):
            again, shown = cut
        elif rng.random() < UNWORDED_SHARE:
            rest = unworded(again, pair.body)
            shown = rest if len(rest.split()) >= MIN_UNWORDED_WORDS else None
        if again != query:
            pool.ask(again, own, shown)
    return pool


def find_negatives(pool: Pool, queries: np.ndarray, texts: np.ndarray, *, batch: int = 1024) -> None:
    """Fills in the hard negatives; ``queries`` and ``texts`` are the teacher's vectors."""
    index, columns = Bm25Index(pool.texts), texts.astype(np.float32).T
    size = min(2 * HARD_NEGATIVES, len(pool.texts))
    for start in range(0, len(pool.queries), batch):
        found, _ = index.top(pool.queries[start : start + batch], size)
        near = queries[start : start + batch].astype(np.float32) @ columns
        nearest = np.argpartition(-near, size - 1, axis=1)[:, :size]
        for row, own in enumerate(pool.positive[start : start + batch]):
            for kept, hits in ((pool.by_words, found[row]), (pool.by_meaning, nearest[row])):
                others = [int(hit) for hit in hits if pool.groups[int(hit)] != pool.groups[own]]
                kept.append(others[:HARD_NEGATIVES] if kept is pool.by_words else others)


def write_pool(path: Path, pool: Pool) -> None:
    path.write_text(json.dumps(asdict(pool), ensure_ascii=False), encoding="utf-8")


def read_pool(path: Path) -> Pool:
    return Pool(**json.loads(path.read_text(encoding="utf-8")))
