"""What Hugging Face transformers says about the same tokens: fp32 on the CPU, one unpadded pair at a time.

Only ``engine check`` and ``engine verify`` ask, and only where transformers is installed; nothing that serves depends
on it. Where it cannot answer, the reason comes back, so that a missing reference is never mistaken for agreement.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.backends.loading.safetensors_file import TensorReader, find_tensors
from engine.backends.registry import load_backend
from engine.devices import HOST
from engine.model_spec import ModelSpec
from engine.request import EncodedPair

_ROOM = 1.3
"""Memory beside the weights, as a factor."""
_SCORE_BIAS = "score.bias"
"""Converted checkpoints may have it; transformers has no place for it."""


class Reference:
    """A checkpoint as transformers runs it."""

    def __init__(self, spec: ModelSpec) -> None:
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        config_class = type(transformers.AutoConfig.for_model(spec.model_type))
        from_tokens, self._embeds = bool(spec.head.token_ids), spec.head.kind == "embedding"
        classes = (transformers.AutoModelForSequenceClassification, transformers.AutoModelForCausalLM)
        auto: Any = transformers.AutoModel if self._embeds else classes[from_tokens]
        self._head = spec.head
        model, loading = auto.from_pretrained(
            spec.path,
            config=config_class.from_dict(spec.config),
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
        unread = ("pooler.",) if self._embeds else ()  # BERT's own, which nothing that embeds asks
        if missing := sorted(key for key in loading["missing_keys"] if not key.startswith(unread)):
            raise ValueError(f"it would make up {', '.join(missing[:3])}, which the files do not hold")
        self._model: Any = model.eval()
        self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(spec.tokenizer_path, local_files_only=True)
        self._bias = 0.0 if from_tokens or self._embeds else _score_bias(spec)
        self.description = f"transformers {transformers.__version__}, {auto.__name__}, float32 on CPU"

    @torch.inference_mode()
    def values(self, pairs: Sequence[EncodedPair]) -> np.ndarray:
        """(P, O) fp32 values of the head, before calibration and activation."""
        return np.stack([self._values_of(pair) for pair in pairs])

    def _values_of(self, pair: EncodedPair) -> np.ndarray:
        if self._embeds:
            sides = pair.token_ids[: pair.query_len], pair.token_ids[pair.query_len :]
            query, document = (self._vector(ids) for ids in sides)
            return np.asarray(torch.cosine_similarity(query, document, dim=0).reshape(1).numpy())
        inputs = {"input_ids": torch.tensor(pair.token_ids[None].astype(np.int64))}
        if pair.token_type_ids is not None:
            inputs["token_type_ids"] = torch.tensor(pair.token_type_ids[None].astype(np.int64))
        if not self._head.token_ids:
            row = self._combined(self._model(**inputs).logits[0] + self._bias)
        else:
            logits = self._model(**inputs, logits_to_keep=1).logits[0, -1]
            picked = logits[list(self._head.token_ids)]
            row = picked[1:] - picked[:1] if self._head.kind == "from_2_way_softmax" else picked
        return np.asarray(row.float().numpy())

    def _vector(self, ids: np.ndarray) -> torch.Tensor:
        """(D,): a text's hidden states, pooled as the checkpoint says."""
        hidden = self._model(input_ids=torch.tensor(ids[None].astype(np.int64))).last_hidden_state[0]
        return {"mean": hidden.mean(0), "cls": hidden[0], "last": hidden[-1]}[self._head.pooling]

    def _combined(self, row: torch.Tensor) -> torch.Tensor:
        """Two labels as one, as the engine reads them."""
        rows = self._head.label_rows
        if not rows:
            return row
        return row[rows[-1:]] - row[rows[0]] if len(rows) == 2 else row[list(rows)]

    def ids_of(self, text: str) -> list[int]:
        """The whole prompt tokenised at once, special tokens being what it spells."""
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def ids_of_pair(self, query: str, document: str) -> list[int]:
        if self._embeds:
            return [index for text in (query, document) for index in self._tokenizer(text)["input_ids"]]
        return list(self._tokenizer(query, document)["input_ids"])


def find_reference(spec: ModelSpec) -> tuple[Reference | None, str]:
    """The reference and what it is, or None and why there is none."""
    if find_spec("transformers") is None:
        return None, "transformers is not installed (pip install 'rerank-engine[reference]')"
    if obstacle := _too_large(spec):
        return None, obstacle
    try:
        reference = Reference(spec)
    except (ImportError, OSError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        problem = " ".join(str(error).split())
        return None, f"transformers cannot load this checkpoint: {type(error).__name__}: {problem[:300]}"
    return reference, reference.description


def _too_large(spec: ModelSpec) -> str | None:
    needed = 4 * sum(math.prod(info.shape) for info in find_tensors(Path(spec.path)).values()) * _ROOM
    free = load_backend(HOST.name).memory(torch.device("cpu")).free_bytes
    if needed <= free:
        return None
    return f"in float32 the model needs about {needed / 1e9:.1f} GB of memory for it, and {free / 1e9:.1f} GB are free"


def _score_bias(spec: ModelSpec) -> float:
    info = find_tensors(Path(spec.path)).get(_SCORE_BIAS)
    if info is None:
        return 0.0
    with TensorReader() as reader:
        _, rows = next(reader.rows(info))
        return float(rows.float()[0])
