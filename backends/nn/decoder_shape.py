"""What differs between families of decoders, in numbers: the layers are written once (``decoder_layers.py``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from engine.checkpoint.families import body_sizes
from engine.model_spec import ModelSpec

ACTIVATIONS = ("silu", "gelu", "gelu_pytorch_tanh", "gelu_new")
FULL, SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True, kw_only=True)
class ExpertShape:
    """The MLP of a layer is a few of many: a router picks them for each token (Fedus et al. 2021, arXiv 2101.03961)."""

    num_experts: int
    num_per_token: int
    intermediate: int
    """Features of one expert."""
    normed: bool
    """The weights of a token's experts are brought to the sum 1."""
    dense_layers: frozenset[int] = frozenset()
    """Layers with a plain MLP."""


@dataclass(frozen=True, kw_only=True)
class DecoderShape:
    """A family and a size, in numbers."""

    num_layers: int
    hidden: int
    intermediate: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    eps: float
    hidden_act: str = "silu"
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    head_norms: bool = False
    """RMSNorm on each head of q and k before the rotation."""
    fused: bool = False
    """Queries, keys and values are one tensor of the file (``qkv_proj``), gate and up another (``gate_up_proj``)."""
    branch_norms: bool = False
    """What attention and MLP give goes through a norm of its own before it is added (Gemma 2)."""
    tied: bool = False
    """The language model head is the embedding."""
    norm_offset: float = 0.0
    """Added to the stored weights of norms."""
    embedding_scale: float = 1.0
    branch_scale: float = 1.0
    """Of what attention and MLP give before it is added (Granite)."""
    score_scale: float | None = None
    """Of the attention scores; None: the inverse root of the head size."""
    score_cap: float | None = None
    """Attention scores s become cap * tanh(s / cap) (Gemma 2)."""
    logit_cap: float | None = None
    """The same for logits of the language model head."""
    logit_divisor: float = 1.0
    """Of logits of the language model head (Granite)."""
    rotated: int | None = None
    """The first so many numbers of a head rotate; None: all."""
    window: int | None = None
    """Tokens that a token sees in a sliding layer, itself included; None: all before it."""
    kinds: tuple[str, ...] = ()
    """Of each layer, ``FULL`` or ``SLIDING``; empty: all slide, if there is a window."""
    experts: ExpertShape | None = None

    @classmethod
    def of(cls, spec: ModelSpec, **differences: Any) -> Self:
        """Reads the shape as most decoders write it in config.json; ``differences`` are the family's own values."""
        config, sizes = spec.config, body_sizes(spec.model_type, spec.config)
        usual = {
            "num_layers": sizes.num_layers,
            "hidden": sizes.hidden,
            "intermediate": sizes.intermediate,
            "num_heads": sizes.num_heads,
            "num_kv_heads": sizes.num_kv_heads,
            "head_dim": sizes.head_dim,
            "vocab_size": sizes.vocab_size,
            "eps": config.get("rms_norm_eps", 1e-6),
            "hidden_act": config.get("hidden_act", "silu"),
            "tied": config.get("tie_word_embeddings", False),
        }
        return cls(**(usual | differences))

    @property
    def scale(self) -> float:
        return self.head_dim**-0.5 if self.score_scale is None else self.score_scale

    def kind(self, layer: int) -> str:
        """``FULL`` or ``SLIDING``."""
        return self.kinds[layer] if self.kinds else SLIDING

    def window_of(self, layer: int, max_len: int) -> int | None:
        """The window of a layer; None where every token of an input of ``max_len`` sees all before it."""
        slides = self.window is not None and self.kind(layer) == SLIDING and self.window < max_len
        return self.window if slides else None

    def has_experts(self, layer: int) -> bool:
        return self.experts is not None and layer not in self.experts.dense_layers


def layer_kinds(config: Mapping[str, Any], usual: Sequence[str]) -> tuple[str, ...]:
    """``layer_types`` of config.json, or the family's own order where an older file does not state it."""
    return tuple(config.get("layer_types") or usual)


def qwen_kinds(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The first ``max_window_layers`` layers of Qwen 2 and 3 have no window, unless ``layer_types`` says otherwise."""
    first = config.get("max_window_layers", 28)
    return layer_kinds(config, [SLIDING if layer >= first else FULL for layer in range(config["num_hidden_layers"])])
