"""What the offline API returns: the names of vLLM's classes, so that scripts written for it run unchanged."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.errors import EngineError


@dataclass(frozen=True, slots=True)
class ScoringOutput:
    """One pair's result. ``output.outputs.score`` and the older ``output.outputs[0].score`` both work."""

    score: float
    """The score after the head's activation."""
    logit: float
    """The score before the activation; results are ordered by it."""

    def __getitem__(self, index: int) -> ScoringOutput:
        if index not in (0, -1):
            raise IndexError("a pair has exactly one score: use outputs.score or outputs[0].score")
        return self

    def __len__(self) -> int:
        return 1


@dataclass(frozen=True, slots=True)
class ScoredSpan:
    """A chunk of a document: its characters from ``start`` to ``end``, and its score."""

    start: int
    end: int
    score: float


@dataclass(frozen=True, slots=True)
class ScoringRequestOutput:
    """The answer for one pair, in input order."""

    request_id: str
    outputs: ScoringOutput
    token_ids: np.ndarray = field(repr=False, compare=False)
    """(n,) int32: the whole prompt, compact, because there may be a million of these."""
    truncated: bool = False
    finished: bool = True
    error: str | None = None
    """Why there is no score: then ``outputs`` holds NaN."""
    cause: EngineError | None = field(default=None, repr=False, compare=False)
    """``error`` as the exception that it is: ``cause.path`` says which field it is about."""
    num_cached_tokens: int = 0
    spans: tuple[ScoredSpan, ...] = ()
    """Of a document that was read in chunks: all of them, best first. ``token_ids`` are the best chunk's."""
    unfamiliar: bool = False
    """The tokenizer hardly knows the query or the document, so the score says little."""

    @property
    def prompt_token_ids(self) -> list[int]:
        """The whole prompt as a list, the way vLLM has it."""
        ids: list[int] = self.token_ids.tolist()
        return ids


@dataclass(frozen=True, slots=True)
class RerankResult:
    """One document of a ranking by ``LLM.rerank``."""

    index: int
    """Its number in the list of documents."""
    score: float
    logit: float
    document: Any
    """The document itself, as it was given."""
    truncated: bool = False
    spans: tuple[ScoredSpan, ...] = ()
    """Of a document that was read in chunks: all of them, best first."""
    unfamiliar: bool = False
    """The tokenizer hardly knows the query or the document, so the score says little."""


@dataclass(frozen=True, slots=True)
class EmbeddingOutput:
    """A text's vector."""

    embedding: list[float]
    """As the model's modules make it: of unit length where they say so. Empty where there is an error."""


@dataclass(frozen=True, slots=True)
class EmbeddingRequestOutput:
    """The answer for one text of ``LLM.embed``, in input order."""

    request_id: str
    outputs: EmbeddingOutput
    prompt_token_ids: list[int] = field(repr=False, compare=False)
    truncated: bool = False
    finished: bool = True
    error: str | None = None
    """Why there is no vector."""
