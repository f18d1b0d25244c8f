"""Split by source document, and candidate lists that are frozen with a checksum.

A list holds the right text and the texts that BM25 finds first for the query in the whole held-out collection: what a
reranker is given in use. The order of BM25 is kept as scores, so it is measured on exactly the same lists.
"""

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import bm25s
import numpy as np

from benchmarks.small_reranker.queries import query_of
from benchmarks.small_reranker.texts import Pair

LIST_SIZE = 20
QUERY_FORMS = ("keywords", "title", "question")


@dataclass(frozen=True)
class CandidateList:
    """A query, its candidate texts, which of them is right, and the scores of BM25 for them."""

    query: str
    form: str
    source: str
    positive: int
    documents: list[str]
    bm25: list[float]


def held_out(group: str, share: float) -> bool:
    """Decided by the source document alone, so that all its texts fall on the same side."""
    digest = hashlib.sha256(group.encode()).digest()
    return int.from_bytes(digest[:4], "big") < share * 2**32


def split(pairs: Sequence[Pair], share: float = 0.05) -> tuple[list[Pair], list[Pair]]:
    """(training pairs, held-out pairs)"""
    train = [pair for pair in pairs if not held_out(pair.group, share)]
    return train, [pair for pair in pairs if held_out(pair.group, share)]


class Bm25Index:
    """bm25s with its defaults (Lucene's formula) and English stop words."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.size = len(texts)
        self._index = bm25s.BM25()
        self._index.index(bm25s.tokenize(list(texts), stopwords="en", show_progress=False), show_progress=False)

    def top(self, queries: Sequence[str], size: int) -> tuple[np.ndarray, np.ndarray]:
        """(indices, scores), best first, each of shape (queries, size)."""
        tokens = bm25s.tokenize(list(queries), stopwords="en", return_ids=False, show_progress=False)
        found = self._index.retrieve(tokens, k=min(size, self.size), show_progress=False)
        return found.documents, found.scores

    def score(self, query: str) -> np.ndarray:
        tokens = bm25s.tokenize([query], stopwords="en", return_ids=False, show_progress=False)[0]
        return self._index.get_scores(tokens) if tokens else np.zeros(self.size, dtype=np.float32)


def build_lists(pairs: Sequence[Pair], num_queries: int, *, seed: int = 0) -> list[CandidateList]:
    """One query from each of ``num_queries`` pairs, against the collection of all their texts."""
    rng = random.Random(seed)
    index = Bm25Index([pair.body for pair in pairs])
    chosen = rng.sample(range(len(pairs)), min(num_queries, len(pairs)))
    lists = []
    for count, own in enumerate(chosen):
        form = QUERY_FORMS[count % len(QUERY_FORMS)]
        query = query_of(pairs[own], form, rng)
        scores = index.score(query)
        order = np.argsort(-scores, kind="stable")[: 4 * LIST_SIZE]
        # Texts of the same source document may be right as well; they are no negatives.
        others = [int(i) for i in order if i != own and pairs[i].group != pairs[own].group]
        members = sorted([own, *others[: LIST_SIZE - 1]])
        lists.append(
            CandidateList(
                query=query,
                form=form,
                source=pairs[own].source,
                positive=members.index(own),
                documents=[pairs[i].body for i in members],
                bm25=[round(float(scores[i]), 4) for i in members],
            )
        )
    return lists


def handwritten_lists(path: Path) -> list[CandidateList]:
    """The hand-written sets. BM25 takes its word statistics from all their passages."""
    sets = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    passages = [[entry["positive"], *entry["negatives"]] for entry in sets]
    index = Bm25Index([text for texts in passages for text in texts])
    lists, start = [], 0
    for entry, texts in zip(sets, passages, strict=True):
        scores = index.score(entry["query"])[start : start + len(texts)]
        start += len(texts)
        bm25 = [round(float(score), 4) for score in scores]
        lists.append(CandidateList(entry["query"], "handwritten", entry["topic"], 0, texts, bm25))
    return lists


def freeze(lists: Sequence[CandidateList], path: Path) -> str:
    """Writes the lists and returns their SHA-256."""
    text = "".join(json.dumps(asdict(entry), ensure_ascii=False, sort_keys=True) + "\n" for entry in lists)
    path.write_text(text, encoding="utf-8")
    return hashlib.sha256(text.encode()).hexdigest()


def read_frozen(path: Path, checksum: str | None = None) -> list[CandidateList]:
    """Reads frozen lists; raises ``ValueError`` when they are not the ones the checksum was taken of."""
    text = path.read_text(encoding="utf-8")
    found = hashlib.sha256(text.encode()).hexdigest()
    if checksum is not None and found != checksum:
        raise ValueError(f"{path} has SHA-256 {found}, expected {checksum}")
    return [CandidateList(**json.loads(line)) for line in text.splitlines()]
