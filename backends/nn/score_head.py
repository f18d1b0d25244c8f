"""Hidden states of the read tokens -> logits, always in fp32.

An original Qwen3-Reranker answers "yes" or "no" as its next token. softmax over the two logits gives
P(yes) = sigmoid(h . (lm_head[yes] - lm_head[no])), so two rows of the language model head, subtracted in fp32 as the
file has them, are all that is kept of it. With tied embeddings the rows are the embedding's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch

from engine.backends.loading.parameters import Parameters
from engine.backends.nn.adapters import AdaptableHead
from engine.backends.nn.decoder_shape import DecoderShape
from engine.backends.nn.saved_modules import SavedModules, combine_labels
from engine.errors import ModelLoadError
from engine.model_spec import ModelSpec

LM_HEAD = "lm_head.weight"
SCORE, SCORE_BIAS = "score.weight", "score.bias"


class Vectors(NamedTuple):
    vectors: torch.Tensor
    """(O, D) fp32."""
    bias: torch.Tensor | None


class ScoreHead(AdaptableHead):
    """(R, O) logits, or pooled vectors, through saved modules, for a model without a head of its own."""

    state: Vectors
    """Once ``finish`` was called."""

    def __init__(self, params: Parameters, spec: ModelSpec, shape: DecoderShape, *, embedding: str) -> None:
        hidden = shape.hidden
        self.kind, self.gives_vectors = spec.head.kind, spec.head.gives_vectors
        self.cap, self.divisor = shape.logit_cap, shape.logit_divisor
        self.device = params.device
        self.tensors: dict[str, torch.Tensor] = {}
        self._copy: torch.Tensor | None = None
        self.label_rows = spec.head.label_rows
        self.modules = SavedModules(params, spec.head, hidden, spec.path)
        self.num_outputs = self.modules.num_outputs
        if self.pools:
            params.skip("score.")
            return
        if self.kind == "classifier":
            self.num_outputs = spec.head.num_labels
            self._from_classifier(params, spec, hidden)
        else:
            self.rows = spec.head.token_ids
            self.num_outputs = 1 if self.kind == "from_2_way_softmax" else len(self.rows)
            self._from_token_rows(params, spec, (shape.vocab_size, hidden), embedding, shape.tied)

    @property
    def pools(self) -> bool:
        """Whether the head takes pooled vectors: they are compared, or go through saved modules."""
        return self.gives_vectors

    def _from_classifier(self, params: Parameters, spec: ModelSpec, hidden: int) -> None:
        num_labels = spec.head.stored_rows
        stored = params.shape_in_checkpoint(SCORE)
        if stored is not None and stored[0] != num_labels:
            raise ModelLoadError(
                f"{spec.path} says {num_labels} label(s) in config.json, but its {SCORE} has {stored[0]}; "
                "correct num_labels (or id2label) there"
            )
        self.tensors[SCORE] = params.exact(SCORE, (num_labels, hidden))
        if params.in_checkpoint(SCORE_BIAS):
            self.tensors[SCORE_BIAS] = params.exact(SCORE_BIAS, (num_labels,))

    def _from_token_rows(
        self, params: Parameters, spec: ModelSpec, shape: tuple[int, int], embedding: str, tied: bool
    ) -> None:
        token_ids = spec.head.token_ids
        if self.kind == "from_2_way_softmax" and len(token_ids) != 2:
            raise ModelLoadError(f"from_2_way_softmax needs two tokens (false, true), not {len(token_ids)}")
        if not tied:
            if params.lacks(LM_HEAD):
                raise ModelLoadError(
                    f"{spec.path} has no {LM_HEAD}, and tie_word_embeddings in its config.json is false, so there is "
                    "nothing to make the score from; download the whole checkpoint, or correct the flag if the "
                    "embedding is tied"
                )
            self.tensors[LM_HEAD] = params.exact_rows(LM_HEAD, shape, token_ids)
            return
        self.tensors[LM_HEAD] = params.exact_rows(embedding, shape, token_ids)
        if params.in_checkpoint(LM_HEAD):
            self._copy = params.exact_rows(LM_HEAD, shape, token_ids)

    def finish(self, folder: str) -> None:
        """Prepares the head after the last tensor was read.

        Raises ``ModelLoadError`` for tied embeddings that differ.
        """
        self.modules.finish()
        if self._copy is not None and not torch.equal(self._copy, self.tensors[LM_HEAD]):
            raise ModelLoadError(
                f"{folder} says tie_word_embeddings=true, but its {LM_HEAD} differs from the embedding; one of them is "
                "wrong: correct the flag in config.json or remove the tensor"
            )
        self._copy = None
        self.state = self.derive(self.tensors)

    def derive(self, tensors: Mapping[str, torch.Tensor]) -> Vectors:
        if self.pools:
            return Vectors(torch.empty(0), None)
        bias = tensors.get(SCORE_BIAS)
        vectors = tensors[SCORE] if self.kind == "classifier" else tensors[LM_HEAD]
        vectors = combine_labels(vectors, self.label_rows)
        bias = None if bias is None else combine_labels(bias, self.label_rows)
        if self.kind != "classifier":
            vectors = vectors / self.divisor
        if self.kind == "from_2_way_softmax" and self.cap is None:
            no, yes = vectors
            vectors = (yes - no).unsqueeze(0)
        return Vectors(vectors.to(self.device), None if bias is None else bias.to(self.device))

    def finished(self, logits: torch.Tensor) -> torch.Tensor:
        """(R, rows of ``state``) -> (R, O): logits of tokens are capped before they are subtracted."""
        if self.cap is None or self.kind == "classifier":
            return logits
        capped = self.cap * torch.tanh(logits / self.cap)
        return capped[:, 1:] - capped[:, :1] if self.kind == "from_2_way_softmax" else capped
