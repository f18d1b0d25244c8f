"""The outputs of the core, step by step, as logits of pairs; for a bi-encoder, once both texts of a pair are there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.errors import PARAM, EngineError, NonFiniteScoreError
from engine.messages import CallStats, EngineCoreOutput
from engine.model_spec import HeadSpec
from engine.request import EncodedPair
from engine.scoring.activation import logits_of
from engine.scoring.bi_encoder import Similarities


class PairCollector:
    """Gathers the outputs of one call. Every pair ends with a logit or with an error, in whatever order."""

    def __init__(self, head: HeadSpec, pairs: Sequence[EncodedPair]) -> None:
        self._head = head
        self._similarities = (
            Similarities(pairs, dot=head.activation == "dot") if pairs and pairs[0].bi_encoder else None
        )
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
            for pair in [index] if self._similarities is None else self._similarities.pairs_of(index):
                self.errors[pair] = error.rebuilt()
        if not len(output.indices):
            return []
        if self._similarities is None:
            indices, logits = output.indices.tolist(), logits_of(output.values, self._head)
        else:
            indices, logits = self._similarities.add(output.indices.tolist(), output.values)
        self.logits[indices] = logits
        finite = np.isfinite(logits)
        for i in np.flatnonzero(~finite).tolist():
            self.errors[indices[i]] = NonFiniteScoreError(f"The model produced {logits[i]} for {PARAM}.")
        return [indices[i] for i in np.flatnonzero(finite).tolist()]
