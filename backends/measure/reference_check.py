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
from engine.checkpoint.families import FAMILIES
from engine.devices import HOST
from engine.extras import pip_install
from engine.model_spec import HeadModule, ModelSpec
from engine.request import EncodedPair

_MEMORY_MARGIN = 1.3
"""Memory beside the weights, as a factor."""
_SCORE_BIAS = "score.bias"
"""Converted checkpoints may have it; transformers has no place for it."""


class Reference:
    """A checkpoint as transformers runs it."""

    def __init__(self, spec: ModelSpec) -> None:
        """Load the model in transformers. Raises ``ValueError`` with the reason where that would be another model."""
        import transformers

        if spec.head.kind in ("listwise", "late_interaction"):
            raise ValueError("its scores compare vectors of several tokens, which no class of the library does")
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        from_tokens, self._embeds = bool(spec.head.token_ids), spec.head.kind in ("embedding", "modules")
        self._modules = [_library_module(module) for module in spec.head.modules]
        of_tokens = (
            transformers.AutoModelForImageTextToText
            if "vision_config" in spec.config
            else transformers.AutoModelForCausalLM
        )
        classes = (transformers.AutoModelForSequenceClassification, of_tokens)
        auto: Any = transformers.AutoModel if self._embeds else classes[from_tokens]
        self._head = spec.head
        model, loading = auto.from_pretrained(
            spec.path,
            config=_library_config(spec),
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
        behind = " and the modules of sentence-transformers" if self._modules else ""
        self.description = f"transformers {transformers.__version__}, {auto.__name__}{behind}, float32 on CPU"

    @torch.inference_mode()
    def values(self, pairs: Sequence[EncodedPair]) -> np.ndarray:
        """(P, O) fp32 values of the head, before calibration and activation."""
        return np.stack([self._values_of(pair) for pair in pairs])

    def _values_of(self, pair: EncodedPair) -> np.ndarray:
        if self._head.kind == "embedding":
            sides = pair.token_ids[: pair.query_len], pair.token_ids[pair.query_len :]
            query, document = (self._vector(_inputs(ids, None)) for ids in sides)
            is_dot = self._head.activation == "dot"
            value = query @ document if is_dot else torch.cosine_similarity(query, document, dim=0)
            return np.asarray(value.reshape(1).numpy())
        inputs = _inputs(pair.token_ids, pair.token_type_ids)
        if self._head.kind == "modules":
            row = self._combined(self._vector(inputs))
        elif not self._head.token_ids:
            row = self._combined(self._model(**inputs).logits[0] + self._bias)
        else:
            logits = self._model(**inputs, logits_to_keep=1).logits[0, -1]
            picked = logits[list(self._head.token_ids)]
            row = picked[1:] - picked[:1] if self._head.kind == "from_2_way_softmax" else picked
        return np.asarray(row.float().numpy())

    def _vector(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """(D,): a text's hidden states, pooled as the checkpoint says, through its modules."""
        hidden = self._model(**inputs).last_hidden_state[0]
        vector = {"mean": hidden.mean(0), "cls": hidden[0], "last": hidden[-1]}[self._head.pooling]
        features = {"sentence_embedding": vector[None]}
        for module in self._modules:
            features = module(features)
        return features.get("scores", features["sentence_embedding"])[0]

    def _combined(self, row: torch.Tensor) -> torch.Tensor:
        """Two labels as one, as the engine reads them."""
        rows = self._head.label_rows
        if not rows:
            return row
        positive = row[rows[-1]]
        return (positive - row[rows[0]] if len(rows) == 2 else positive).reshape(1)

    def ids_of(self, text: str) -> list[int]:
        """The whole prompt tokenised at once, special tokens being what it spells."""
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def ids_of_pair(self, query: str, document: str) -> list[int]:
        if self._head.kind == "embedding":
            return [index for text in (query, document) for index in self._tokenizer(text)["input_ids"]]
        return list(self._tokenizer(query, document)["input_ids"])


def _library_config(spec: ModelSpec) -> Any:
    """The config as the library's own class has it: under the family's own names, a text network in its place."""
    import transformers

    config = dict(spec.config)
    if "vision_config" in config:
        vision = config.pop("vision_config")
        config = {"text_config": config, "vision_config": vision, "tie_word_embeddings": config["tie_word_embeddings"]}
    config |= {own: config[usual] for own, usual in FAMILIES[spec.model_type].own_keys.items() if usual in config}
    return type(transformers.AutoConfig.for_model(spec.model_type)).from_dict(config)


def find_reference(spec: ModelSpec) -> tuple[Reference | None, str]:
    """The reference and what it is, or None and why there is none."""
    if find_spec("transformers") is None:
        return None, f"transformers is not installed ({pip_install('reference')})"
    if not any(Path(spec.path).glob("*.safetensors")):
        return (
            None,
            "the weights are a GGUF file; engine convert MODEL -o FOLDER makes a checkpoint for transformers of it",
        )
    if obstacle := _too_large(spec):
        return None, obstacle
    try:
        reference = Reference(spec)
    except (ImportError, OSError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        problem = " ".join(str(error).split())
        return None, f"transformers cannot load this checkpoint: {type(error).__name__}: {problem[:300]}"
    return reference, reference.description


def _too_large(spec: ModelSpec) -> str | None:
    needed = 4 * sum(math.prod(info.shape) for info in find_tensors(Path(spec.path)).values()) * _MEMORY_MARGIN
    free = load_backend(HOST.name).memory(torch.device("cpu")).free_bytes
    if needed <= free:
        return None
    return f"in float32 the model needs about {needed / 1e9:.1f} GB of memory for it, and {free / 1e9:.1f} GB are free"


def _score_bias(spec: ModelSpec) -> torch.Tensor | float:
    """(O,) of a converted checkpoint; 0 where there is none."""
    info = find_tensors(Path(spec.path)).get(_SCORE_BIAS)
    if info is None:
        return 0.0
    with TensorReader() as reader:
        _, rows = next(reader.rows(info))
        return rows.float().clone()


def _inputs(token_ids: np.ndarray, token_type_ids: np.ndarray | None) -> dict[str, torch.Tensor]:
    """One unpadded text, as the networks of transformers take it."""
    arrays = {"input_ids": token_ids, "token_type_ids": token_type_ids}
    return {n: torch.tensor(ids[None].astype(np.int64)) for n, ids in arrays.items() if ids is not None}


def _library_module(module: HeadModule) -> Any:
    """The same module as sentence-transformers runs it; ``ImportError`` where that is not installed."""
    from sentence_transformers.base.modules import Dense
    from sentence_transformers.sentence_transformer.modules import LayerNorm, Normalize

    if module.kind == "normalize":
        return Normalize()
    kind: Any = {"dense": Dense, "layer_norm": LayerNorm}[module.kind]
    return kind.load(module.folder).eval()
