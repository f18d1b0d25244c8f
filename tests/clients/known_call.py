"""A call whose right answer is known, and what every client must make of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

KEY = "a-key-of-the-tests"
QUERY = "What is the capital of China?"
DOCUMENTS = [
    "Gravity is a force that attracts two bodies towards each other.",
    "Berlin is the capital of Germany.",
    "The capital of China is Beijing.",
    "Bamboo grows fast.",
]
BEST = 2


@dataclass(frozen=True)
class Engine:
    """A running server, and what it answers to the known call when it is asked directly."""

    url: str
    model: str
    scores: list[float]
    """In the order of the documents."""
    logits: list[float]

    @property
    def order(self) -> list[int]:
        return sorted(range(len(DOCUMENTS)), key=lambda i: -self.scores[i])

    def check(self, ranked: Sequence[tuple[int, float]], *, top_n: int | None = None) -> None:
        """``ranked``: index and score of each result, best first, as the client gives them."""
        assert [index for index, _ in ranked] == self.order[:top_n]
        assert ranked[0][0] == BEST
        for index, score in ranked:
            assert abs(score - self.scores[index]) < 1e-5, (index, score, self.scores[index])

    def check_texts(self, ranked: Sequence[tuple[str, float]], *, top_n: int | None = None) -> None:
        self.check([(DOCUMENTS.index(text), score) for text, score in ranked], top_n=top_n)
