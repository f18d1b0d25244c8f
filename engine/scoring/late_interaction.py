"""Scores of a late-interaction model: the core computes vectors of the tokens of each distinct text once, and MaxSim
compares them here (Khattab and Zaharia 2020, arXiv 2004.12832).

MaxSim of a pair is the sum, over the tokens of the query, of the largest product with a token of the document. It is a
product of two small matrices a document, so NumPy computes it where the vectors arrive.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from engine.request import CorePrompt, EncodedPair
from engine.scoring.document_store import ScopedStore


class LateScores:
    """Takes vectors of texts in any order, and gives the scores of the pairs that they complete.

    A document whose vectors are in ``store`` is not computed; those of others go there.
    """

    def __init__(self, pairs: Sequence[EncodedPair], *, mean: bool, store: ScopedStore | None = None) -> None:
        self._mean, self._store = mean, store
        numbers: dict[tuple[int, bytes], int] = {}
        texts: list[CorePrompt] = []
        self._sides: list[tuple[int, int]] = []
        for pair in pairs:
            found = []
            for side, prompt in enumerate(pair.prompts):  # the same text has other tokens as query and as document
                number = numbers.setdefault((side, prompt.token_ids.tobytes()), len(texts))
                if number == len(texts):
                    texts.append(prompt)
                found.append(number)
            self._sides.append((found[0], found[1]))
        self._vectors: list[np.ndarray | None] = [None] * len(texts)
        self._pairs_of: dict[int, list[int]] = defaultdict(list)
        for index, sides in enumerate(self._sides):
            for text in set(sides):
                self._pairs_of[text].append(index)
        self._look_up(texts)
        self._missing = [text for text, vectors in enumerate(self._vectors) if vectors is None]
        """Texts that the core computes, in its order."""
        self.prompts = [texts[text] for text in self._missing]

    def _look_up(self, texts: Sequence[CorePrompt]) -> None:
        documents = {document for _, document in self._sides}
        for text in sorted(documents) if self._store is not None else ():
            assert self._store is not None
            self._vectors[text] = self._store.get(texts[text].token_ids)
        self._is_document = documents

    def pairs_of(self, prompt: int) -> list[int]:
        """The pairs that a text that is computed is in."""
        return self._pairs_of[self._missing[prompt]]

    def add(self, prompts: Sequence[int], rows: Sequence[np.ndarray]) -> tuple[list[int], np.ndarray]:
        """Numbers of texts and the (tokens, E) vectors of each -> the completed pairs and their (m,) fp32 scores."""
        touched: dict[int, None] = {}
        for prompt, vectors in zip(prompts, rows, strict=True):
            text = self._missing[prompt]
            self._vectors[text] = vectors
            touched |= dict.fromkeys(self._pairs_of[text])
            if self._store is not None and text in self._is_document:
                self._store.put(self.prompts[prompt].token_ids, vectors)
        ready: dict[int, list[int]] = defaultdict(list)
        for index in touched:
            query, document = self._sides[index]
            if self._vectors[query] is not None and self._vectors[document] is not None:
                ready[query].append(index)
        done = [index for indices in ready.values() for index in indices]
        scores = [self._scores_of(query, indices) for query, indices in ready.items()]
        return done, np.concatenate(scores) if scores else np.zeros(0, np.float32)

    def _scores_of(self, query: int, indices: Sequence[int]) -> np.ndarray:
        vectors = self._vectors[query]
        documents = [found for index in indices if (found := self._vectors[self._sides[index][1]]) is not None]
        assert vectors is not None
        scores = max_sim(vectors, documents)
        return scores / np.float32(len(vectors)) if self._mean else scores


def max_sim(query: np.ndarray, documents: Sequence[np.ndarray]) -> np.ndarray:
    """(n, E) vectors of a query's tokens, (m, E) of each document's -> (documents,) fp32 sums of largest products."""
    lens = np.array([len(document) for document in documents])
    products = query.astype(np.float32) @ np.concatenate(documents).astype(np.float32).T
    largest = np.maximum.reduceat(products, lens.cumsum() - lens, axis=1)
    found: np.ndarray = largest.sum(axis=0, dtype=np.float32)
    return found
