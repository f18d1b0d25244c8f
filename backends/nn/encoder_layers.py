"""Layers of encoder models, written once for all families; what differs between families is a value of EncoderShape.

T tokens of the step, R read tokens, D hidden size, N heads, H head size, F intermediate size. Norms stand behind each
half of a layer (BERT) or before it (ModernBERT). The last layer computes the read tokens only, but their keys and
values come from all tokens; with mean pooling every token is read, and it is a layer like the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch

from engine.backends.loading.parameters import Parameters, Rows
from engine.backends.nn.decoder_layers import Rotary
from engine.backends.nn.parallel import SummedLinear
from engine.backends.packed_batch import PackedBatch
from engine.checkpoint.families import body_sizes
from engine.kernels.ops import Activation, AttentionMeta
from engine.kernels.padded_attention import attend_near
from engine.model_spec import ModelSpec

GELU_TANH = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_python_tanh")
ACTIVATIONS = ("gelu", *GELU_TANH)


@dataclass(frozen=True, kw_only=True)
class LayerNames:
    """The names of a layer's tensors, below ``EncoderShape.layer``."""

    qkv: tuple[str, ...]
    """Three names, or one of a fused projection."""
    out: str
    attention_norm: str
    up: str
    """The projection up to the MLP's features; with a gate, one fused tensor of both, unless ``gate`` names its own."""
    down: str
    mlp_norm: str
    gate: str | None = None

    def with_qkv(self, *names: str) -> LayerNames:
        return replace(self, qkv=names)


@dataclass(frozen=True, kw_only=True)
class EncoderShape:
    """A family and a size, in numbers."""

    num_layers: int
    hidden: int
    intermediate: int
    num_heads: int
    vocab_size: int
    num_token_types: int
    """Rows of the table of token types; 0: there is none."""
    eps: float
    hidden_act: str
    names: LayerNames
    layer: str = "encoder.layer.{}"
    pre_norm: bool = False
    norm_bias: bool = True
    attention_bias: bool = True
    up_bias: bool = True
    down_bias: bool = True
    gate: int | None = None
    """Which half of the fused ``up`` tensor goes through the activation and gates the other; None: there is no gate."""
    score_terms: int = 1
    """Products that an attention score is the sum of; scores are divided by the root of (terms * head size)."""

    @classmethod
    def of(cls, spec: ModelSpec, **differences: Any) -> Self:
        """The sizes of config.json; ``differences`` are what the family has of its own."""
        sizes = body_sizes(spec.model_type, spec.config)
        return cls(
            num_layers=sizes.num_layers,
            hidden=sizes.hidden,
            intermediate=sizes.intermediate,
            num_heads=sizes.num_heads,
            vocab_size=sizes.vocab_size,
            num_token_types=sizes.num_token_types,
            **differences,
        )

    @property
    def head_dim(self) -> int:
        return self.hidden // self.num_heads

    @property
    def is_gated(self) -> bool:
        return self.gate is not None or self.names.gate is not None

    @property
    def hidden_acts(self) -> tuple[str, ...]:
        """Those that the MLP can have."""
        return (*ACTIVATIONS, "silu") if self.is_gated else ACTIVATIONS


class Norm:
    """Layer norm with the checkpoint's weights."""

    def __init__(self, params: Parameters, name: str, size: int, eps: float, *, bias: bool = True) -> None:
        self.ops, self.eps = params.ops, eps
        self.weight = params.scale(f"{name}.weight", size)
        self.bias = params.bias(f"{name}.bias", size) if bias else None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.ops.layer_norm(x, self.weight, self.bias, self.eps)


class SelfAttention:
    """Projection to queries, keys and values, and bidirectional attention. ``rotary``: models with rotary positions.

    In a group of workers, each has a run of the heads (``parallel.py``).
    """

    def __init__(
        self, params: Parameters, shape: EncoderShape, index: int, *, reads_only: bool, rotary: Rotary | None = None
    ) -> None:
        self.ops, self.shape, self.reads_only, self.rotary = params.ops, shape, reads_only, rotary
        self.num_heads = len(params.tp_group.part(shape.num_heads))
        whole = self._rows(f"{shape.layer.format(index)}.", shape.names.qkv)
        rows = [part.part(params.tp_group, shape.num_heads) for part in whole]
        groups = [rows[:1], rows[1:]] if reads_only else [rows]
        with params.using(self.ops.of_qkv()):
            self.projections = [params.linear(group, shape.hidden, bias=shape.attention_bias) for group in groups]

    def _rows(self, prefix: str, names: Sequence[str]) -> list[Rows]:
        size = self.shape.hidden
        if len(names) == 1:
            return [Rows(prefix + names[0], size, part * size, 3 * size) for part in range(3)]
        return [Rows(prefix + name, size) for name in names]

    def __call__(self, x: torch.Tensor, batch: PackedBatch) -> Activation:
        """(T, D) -> (T, D), or (R, D) in a layer that computes the read tokens only; of D, this worker's heads."""
        num_heads = self.num_heads
        if not self.reads_only:
            q, k, v = self._heads(self.ops.linear(x, self.projections[0]), num_heads, num_heads, batch.positions)
            return self.attend(q, k, v, batch.attention, batch.positions)
        read = x.index_select(0, batch.read_rows)
        q, _, _ = self._heads(self.ops.linear(read, self.projections[0]), num_heads, 0, batch.read_positions)
        _, k, v = self._heads(self.ops.linear(x, self.projections[1]), 0, num_heads, batch.positions)
        return self.attend(q, k, v, batch.read_attention, batch.read_positions)

    def finish(self) -> None:
        """Prepares the layer once after the last tensor was read."""

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, meta: AttentionMeta, positions: torch.Tensor
    ) -> Activation:
        return self.ops.attention(q, k, v, k[:0], v[:0], meta)  # nothing outlives a step: the KV cache is empty

    def _heads(
        self, projected: torch.Tensor, num_heads: int, num_kv_heads: int, positions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        head_dim = self.shape.head_dim
        if self.rotary is None:
            heads = projected.view(len(projected), num_heads + 2 * num_kv_heads, head_dim)
            q, k, v = heads.split([num_heads, num_kv_heads, num_kv_heads], dim=1)
            return q, k, v
        cos, sin = self.rotary.cos, self.rotary.sin
        return self.ops.qk_norm_rope(projected, None, None, 0.0, cos, sin, positions, num_heads, num_kv_heads, head_dim)


class WindowedAttention(SelfAttention):
    """A token sees those at most ``window`` away."""

    def __init__(
        self, params: Parameters, shape: EncoderShape, index: int, *, reads_only: bool, rotary: Rotary, window: int
    ) -> None:
        super().__init__(params, shape, index, reads_only=reads_only, rotary=rotary)
        self.window = window

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, meta: AttentionMeta, positions: torch.Tensor
    ) -> Activation:
        return attend_near(q, k, v, meta, positions, window=self.window)


class EncoderLayer:
    """Attention and MLP. ``x`` is consumed: kernels may add to it in place."""

    def __init__(self, params: Parameters, shape: EncoderShape, index: int, attention: SelfAttention) -> None:
        self.ops, self.shape, self.attention = params.ops, shape, attention
        names, prefix = shape.names, f"{shape.layer.format(index)}."
        has_norm = not (shape.pre_norm and index == 0)  # the embedding's norm has just been applied
        self.attention_norm = self._norm(params, prefix + names.attention_norm) if has_norm else None
        self.out = SummedLinear(params, prefix + names.out, shape.hidden, shape.hidden, bias=shape.attention_bias)
        self.mlp_norm = self._norm(params, prefix + names.mlp_norm)
        up_rows = [rows.part(params.tp_group, shape.intermediate) for rows in self._up_rows(prefix)]
        self.up = params.linear(up_rows, shape.hidden, bias=shape.up_bias)
        self.down = SummedLinear(params, prefix + names.down, shape.hidden, shape.intermediate, bias=shape.down_bias)

    def _norm(self, params: Parameters, name: str) -> Norm:
        return Norm(params, name, self.shape.hidden, self.shape.eps, bias=self.shape.norm_bias)

    def _up_rows(self, prefix: str) -> list[Rows]:
        size, gate, names = self.shape.intermediate, self.shape.gate, self.shape.names
        name = prefix + names.up
        if names.gate is not None:
            return [Rows(prefix + names.gate, size), Rows(name, size)]
        if gate is None:
            return [Rows(name, size)]
        return [Rows(name, size, half * size, 2 * size) for half in (gate, 1 - gate)]

    def __call__(self, x: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        """(T, D) -> (T, D), or (R, D) in a layer that computes the read tokens only."""
        before, behind = (self.attention_norm, None) if self.shape.pre_norm else (None, self.attention_norm)
        attended = self.attention(before(x) if before else x, batch)
        if self.attention.reads_only:
            x = x.index_select(0, batch.read_rows)
        x = stream_sum(self.out(attended, x))
        x = behind(x) if behind else x
        x = stream_sum(self.down(self._mlp(self.mlp_norm(x) if self.shape.pre_norm else x), x))
        return x if self.shape.pre_norm else self.mlp_norm(x)

    def _mlp(self, x: torch.Tensor) -> Activation:
        tanh = self.shape.hidden_act in GELU_TANH
        if not self.shape.is_gated:
            return self.ops.linear_gelu(x, self.up, tanh=tanh)
        if self.shape.hidden_act == "silu":
            return self.ops.linear_swiglu(x, self.up)
        return self.ops.linear_geglu(x, self.up, tanh=tanh)


def stream_sum(stream: tuple[torch.Tensor | None, torch.Tensor]) -> torch.Tensor:
    """The residual stream of ``Ops.linear_residual`` as one tensor."""
    delta, residual = stream
    return residual if delta is None else residual + delta
