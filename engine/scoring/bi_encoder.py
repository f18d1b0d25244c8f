"""Pairs of a bi-encoder: the core computes the vector of each distinct text once, and a score compares two.

Both ends of a call's trip number the texts the same way, from the pairs alone, so nothing but the texts travels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from engine.request import EncodedPair

_TINY = 1e-12


def distinct_texts(pairs: Sequence[EncodedPair]) -> tuple[list[np.ndarray], list[tuple[int, int]]]:
    """The distinct texts of the pairs, and for each pair the numbers of its query's and its document's."""
    numbers: dict[bytes, int] = {}
    texts: list[np.ndarray] = []

    def number(ids: np.ndarray) -> int:
        found = numbers.setdefault(ids.tobytes(), len(texts))
        if found == len(texts):
            texts.append(ids)
        return found

    sides = [(number(pair.token_ids[: pair.query_len]), number(pair.token_ids[pair.query_len :])) for pair in pairs]
    return texts, sides


class Similarities:
    """Takes vectors of texts in any order, and gives the cosines of the pairs that they complete, or dot products."""

    def __init__(self, pairs: Sequence[EncodedPair], *, dot: bool = False) -> None:
        self._dot = dot
        texts, self._sides = distinct_texts(pairs)
        self.prompts = pairs
        """``core_request`` takes their distinct texts."""
        self._vectors: list[np.ndarray | None] = [None] * len(texts)
        self._pairs_of: dict[int, list[int]] = defaultdict(list)
        for index, sides in enumerate(self._sides):
            for text in set(sides):
                self._pairs_of[text].append(index)

    def pairs_of(self, text: int) -> list[int]:
        """The pairs that a text is in."""
        return self._pairs_of[text]

    def add(self, texts: Sequence[int], rows: Sequence[np.ndarray]) -> tuple[list[int], np.ndarray]:
        """Numbers of texts and the (1, H) vector of each -> the completed pairs and their (m,) fp32 similarities."""
        touched: dict[int, None] = {}
        for text, row in zip(texts, rows, strict=True):
            vector = row[0].astype(np.float64)
            self._vectors[text] = vector if self._dot else vector / max(float(np.linalg.norm(vector)), _TINY)
            touched |= dict.fromkeys(self._pairs_of[text])
        done, similarities = [], []
        for index in touched:
            query, document = (self._vectors[text] for text in self._sides[index])
            if query is not None and document is not None:
                done.append(index)
                similarities.append(float(query @ document))
        return done, np.array(similarities, np.float32)
