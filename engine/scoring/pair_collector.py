"""The outputs of the core, step by step, as logits of pairs.

Where the core computes something else than pairs (a bi-encoder's texts, a listwise model's blocks), a ``Comparison``
says what, and makes scores of pairs of its vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from engine.errors import PARAM, EngineError, NonFiniteScoreError
from engine.messages import CallStats, EngineCoreOutput
from engine.model_spec import HeadSpec
from engine.request import CorePrompt, EncodedPair
from engine.scoring.activation import logits_of
from engine.scoring.bi_encoder import Similarities
from engine.scoring.document_store import ScopedStore
from engine.scoring.late_interaction import LateScores
from engine.scoring.listwise import ListScores


class Comparison(Protocol):
    """Makes scores of pairs from vectors of prompts."""

    @property
    def prompts(self) -> Sequence[CorePrompt | EncodedPair]:
        """The prompts that the core is to compute."""
        ...

    def pairs_of(self, prompt: int) -> list[int]:
        """The pairs that have no score without a prompt's vectors."""
        ...

    def add(self, prompts: Sequence[int], rows: Sequence[np.ndarray]) -> tuple[list[int], np.ndarray]:
        """Numbers of prompts and the (reads, E) vectors of each -> the completed pairs and their (m,) fp32 scores."""
        ...


def comparison_of(head: HeadSpec, pairs: Sequence[EncodedPair], store: ScopedStore | None = None) -> Comparison | None:
    """The comparison that this head needs; None where the core scores the pairs themselves."""
    if head.kind == "listwise":
        return ListScores(pairs)
    if head.kind == "late_interaction":
        return LateScores(pairs, mean=head.activation == "mean_max_sim", store=store)
    if pairs and pairs[0].bi_encoder:
        return Similarities(pairs, dot=head.activation == "dot")
    return None


class PairCollector:
    """Gathers the outputs of one call. Every pair ends with a logit or with an error, in whatever order."""

    def __init__(self, head: HeadSpec, pairs: Sequence[EncodedPair], store: ScopedStore | None = None) -> None:
        """``store``: of document vectors, for a late-interaction model."""
        self._head = head
        self._comparison = comparison_of(head, pairs, store)
        self.prompts: Sequence[CorePrompt | EncodedPair] = self._comparison.prompts if self._comparison else pairs
        """What the core is to compute, in the order in which its answers number it."""
        self.logits = np.full(len(pairs), np.nan, np.float32)
        """(P,) fp32; NaN until the pair is scored."""
        self.errors: dict[int, EngineError] = {}
        """Errors by number of the pair."""
        self.stats: CallStats | None = None
        """There once the call is complete."""

    @property
    def complete(self) -> bool:
        """Whether the core has answered every pair."""
        return self.stats is not None

    def add(self, output: EngineCoreOutput) -> list[int]:
        """The pairs that this output scored. Raises ``InvalidRequestError`` for a model with several labels."""
        self.stats = output.stats or self.stats
        for index, error in output.errors.items():
            for pair in [index] if self._comparison is None else self._comparison.pairs_of(index):
                self.errors[pair] = error.rebuilt()
        if not len(output.indices):
            return []
        if self._comparison is None:
            indices, logits = output.indices.tolist(), logits_of(output.values, self._head)
        else:
            indices, logits = self._comparison.add(output.indices.tolist(), output.rows())
        self.logits[indices] = logits
        finite = np.isfinite(logits)
        for i in np.flatnonzero(~finite).tolist():
            self.errors[indices[i]] = NonFiniteScoreError(f"The model produced {logits[i]} for {PARAM}.")
        return [indices[i] for i in np.flatnonzero(finite).tolist()]
