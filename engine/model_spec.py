"""What a checkpoint is, decided once from its files and the overrides, without torch.

``ModelSpec`` is the only thing that prompt building, the loader and the server need to know about a model; the
decisions behind it are made by ``resolve_model`` of ``engine/checkpoint/resolve.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

HeadKind = Literal["from_2_way_softmax", "no_post_processing", "classifier", "embedding"]
Pooling = Literal["last", "cls", "mean"]
Activation = Literal["sigmoid", "identity", "softmax", "cosine"]


@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """How hidden states become a score.

    ``from_2_way_softmax``: w = lm_head[true] - lm_head[false] in fp32, token ids are (false, true).
    ``no_post_processing``: w = lm_head[ids]. ``classifier``: the checkpoint's own head (``score.weight`` or
    ``classifier.*``). ``embedding``: no head, pooled vectors are compared.
    """

    kind: HeadKind
    token_ids: tuple[int, ...] = ()
    tokens: tuple[str, ...] = ()
    num_labels: int = 1
    pooling: Pooling = "last"
    activation: Activation = "sigmoid"
    logit_mean: float = 0.0
    logit_sigma: float = 1.0


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A checkpoint, understood."""

    name: str
    """As the user named it."""
    path: str
    """Local folder with the files."""
    tokenizer_path: str
    model_type: str
    """Of config.json; the file name in ``backends/models/``."""
    config: dict[str, Any] = field(default_factory=dict)
    """config.json after overrides, ``auto_map`` removed."""
    head: HeadSpec
    causal: bool
    """Left context only: prefixes can be shared and documents chunked."""
    template: str | None = None
    """Name of the built-in prompt template, ``file:PATH``, or None for plain pair encoding."""
    text_prompts: tuple[str, str] = ("", "")
    """Put before the query's text and before the document's by a bi-encoder."""
    use_sep_token: bool = False
    """Without a template: encode with the tokenizer's own pair form (True) or as query + document (False)."""
    max_model_len: int
    vocab_size: int
    decision: str = ""
    """One line for the log: what was recognised and how it is converted."""
