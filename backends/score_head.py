"""Hidden states of the read tokens -> logits, always in fp32.

An original Qwen3-Reranker answers "yes" or "no" as its next token. softmax over the two logits gives
P(yes) = sigmoid(h . (lm_head[yes] - lm_head[no])), so two rows of the language model head, subtracted in fp32 as the
file has them, are all that is kept of it. With tied embeddings the rows are the embedding's.
"""

from __future__ import annotations

import torch

from engine.backends.parameters import Parameters
from engine.errors import ModelLoadError
from engine.model_spec import ModelSpec

LM_HEAD = "lm_head.weight"


class ScoreHead:
    """(R, O) logits, or pooled vectors for a model without a head."""

    def __init__(
        self, params: Parameters, spec: ModelSpec, *, hidden: int, vocab_size: int, embedding: str, tied: bool
    ) -> None:
        self.kind = spec.head.kind
        self.device = params.device
        self.vectors = torch.empty(0, hidden)
        """(O, D) fp32, once ``finish`` was called."""
        self.bias: torch.Tensor | None = None
        self._copy: torch.Tensor | None = None
        self.num_outputs = hidden
        if self.kind == "embedding":
            return
        if self.kind == "classifier":
            self._from_classifier(params, spec, hidden)
        else:
            self._from_token_rows(params, spec, (vocab_size, hidden), embedding, tied)
        self.num_outputs = 1 if self.kind == "from_2_way_softmax" else len(self.vectors)

    def _from_classifier(self, params: Parameters, spec: ModelSpec, hidden: int) -> None:
        num_labels = spec.head.num_labels
        stored = params.shape_in_checkpoint("score.weight")
        if stored is not None and stored[0] != num_labels:
            raise ModelLoadError(
                f"{spec.path} says {num_labels} label(s) in config.json, but its score.weight has {stored[0]}; "
                "correct num_labels (or id2label) there"
            )
        self.vectors = params.exact("score.weight", (num_labels, hidden))
        if params.in_checkpoint("score.bias"):
            self.bias = params.exact("score.bias", (num_labels,))

    def _from_token_rows(
        self, params: Parameters, spec: ModelSpec, shape: tuple[int, int], embedding: str, tied: bool
    ) -> None:
        if self.kind == "from_2_way_softmax" and len(spec.head.token_ids) != 2:
            raise ModelLoadError(f"from_2_way_softmax needs two tokens (false, true), not {len(spec.head.token_ids)}")
        if not tied:
            if params.lacks(LM_HEAD):
                raise ModelLoadError(
                    f"{spec.path} has no {LM_HEAD}, and tie_word_embeddings in its config.json is false, so there is "
                    "nothing to make the score from; download the whole checkpoint, or correct the flag if the "
                    "embedding is tied"
                )
            self.vectors = params.exact_rows(LM_HEAD, shape, spec.head.token_ids)
            return
        self.vectors = params.exact_rows(embedding, shape, spec.head.token_ids)
        if params.in_checkpoint(LM_HEAD):
            self._copy = params.exact_rows(LM_HEAD, shape, spec.head.token_ids)

    def finish(self, folder: str) -> None:
        """After the last tensor was read."""
        if self._copy is not None and not torch.equal(self._copy, self.vectors):
            raise ModelLoadError(
                f"{folder} says tie_word_embeddings=true, but its {LM_HEAD} differs from the embedding; one of them is "
                "wrong: correct the flag in config.json or remove the tensor"
            )
        self._copy = None
        if self.kind == "from_2_way_softmax":
            no, yes = self.vectors
            self.vectors = (yes - no).unsqueeze(0)
        self.vectors = self.vectors.to(self.device)
        self.bias = None if self.bias is None else self.bias.to(self.device)
