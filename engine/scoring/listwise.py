"""Scores of a listwise model: cosines of the documents' vectors with the query's, fused over the blocks of a list.

A list that does not fit into one prompt is several blocks, and each has its own reading q_b of the query. As in
jina-reranker-v3's ``rerank``: w_b = max_i (1 + cos(q_b, d_i)) / 2 over the block's documents,
q = sum w_b q_b / sum w_b, and every document's score is cos(q, d_i), with d_i from its own block. So no score of a list
is known before all of its blocks are computed, and one that fails leaves the whole list without scores.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from engine.request import CorePrompt, EncodedPair

_TINY = 1e-12


class ListScores:
    """Takes vectors of blocks in any order, and gives the scores of the lists that they complete."""

    def __init__(self, pairs: Sequence[EncodedPair]) -> None:
        blocks: dict[int, int] = {}
        self.prompts: list[CorePrompt] = []
        self._pairs_of: list[list[int]] = []
        for index, pair in enumerate(pairs):
            (block,) = pair.prompts
            number = blocks.setdefault(id(block), len(blocks))
            if number == len(self.prompts):
                self.prompts.append(block)
                self._pairs_of.append([])
            self._pairs_of[number].append(index)
        self._blocks_of: dict[object, list[int]] = defaultdict(list)
        for number, block in enumerate(self.prompts):
            self._blocks_of[block.list_key].append(number)
        self._vectors: list[np.ndarray | None] = [None] * len(self.prompts)

    def pairs_of(self, block: int) -> list[int]:
        """The pairs that have no score without a block: those of its list."""
        blocks = self._blocks_of[self.prompts[block].list_key]
        return [pair for number in blocks for pair in self._pairs_of[number]]

    def add(self, blocks: Sequence[int], rows: Sequence[np.ndarray]) -> tuple[list[int], np.ndarray]:
        """Numbers of blocks and their (k + 1, E) vectors, documents first -> the completed pairs and their (m,) fp32
        scores."""
        for block, vectors in zip(blocks, rows, strict=True):
            self._vectors[block] = vectors.astype(np.float64)
        done: list[int] = []
        scores: list[np.ndarray] = []
        for key in dict.fromkeys(self.prompts[block].list_key for block in blocks):
            members = self._blocks_of[key]
            stored = [self._vectors[block] for block in members]
            found = [one for one in stored if one is not None]
            if len(found) == len(members):
                done += [pair for block in members for pair in self._pairs_of[block]]
                scores.append(fused_scores(found))
        return done, np.concatenate(scores).astype(np.float32) if scores else np.zeros(0, np.float32)


def fused_scores(blocks: Sequence[np.ndarray]) -> np.ndarray:
    """(k + 1, E) vectors of each block of a list, the query's last -> the scores of all documents, in order."""
    documents = np.concatenate([block[:-1] for block in blocks])
    queries = np.stack([block[-1] for block in blocks])
    weights = np.array([(1 + _cosines(block[:-1], block[-1]).max()) / 2 for block in blocks])
    total = weights.sum()
    query = queries[0] if len(blocks) == 1 or not total > 0 else weights @ queries / total
    return _cosines(documents, query)


def _cosines(vectors: np.ndarray, other: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(other)
    found: np.ndarray = vectors @ other / np.maximum(lengths, _TINY)
    return found
