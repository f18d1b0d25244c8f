"""Layers of decoder models, written once for all families; what differs between families is a value of DecoderShape.

T tokens of the step, R read tokens, D hidden size, N query heads, M key/value heads, H head size. The residual stream
travels as a pair (delta, residual), see ``kernels/ops.py``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Self

import torch

from engine.backends.kv_pool import KVPool
from engine.backends.loading.parameters import Parameters, Rows
from engine.backends.nn.parallel import SummedLinear
from engine.backends.packed_batch import PackedBatch
from engine.checkpoint.families import body_sizes
from engine.kernels.ops import Activation, LinearWeight
from engine.model_spec import ModelSpec

Stream = tuple[torch.Tensor | None, torch.Tensor]
ACTIVATIONS = ("silu", "gelu", "gelu_pytorch_tanh", "gelu_new")


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
    activation: str = "silu"
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    head_norms: bool = False
    """RMSNorm on each head of q and k before the rotation."""
    tied: bool = False
    """The language model head is the embedding."""
    norm_offset: float = 0.0
    embedding_scale: float = 1.0
    window: int | None = None
    """Tokens that a token looks back at; None: all of them."""

    @classmethod
    def of(cls, spec: ModelSpec, **differences: Any) -> Self:
        """As most decoders write it in config.json; ``differences`` are what the family has of its own."""
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
            "activation": config.get("hidden_act", "silu"),
            "tied": config.get("tie_word_embeddings", False),
        }
        return cls(**(usual | differences))

    @property
    def scale(self) -> float:
        return self.head_dim**-0.5


@dataclass(frozen=True, eq=False)
class Rotary:
    """(positions, H/2) fp32 each."""

    cos: torch.Tensor
    sin: torch.Tensor


class _Layer(ABC):
    """What a whole layer and the last one have in common: norms, output projection, MLP.

    In a group of workers, each has a run of the heads and of the MLP's features (``parallel.py``).
    """

    def __init__(self, params: Parameters, shape: DecoderShape, index: int) -> None:
        self.ops, self.shape, self.index, self.name = params.ops, shape, index, f"layers.{index}"
        attention, mlp, features = f"{self.name}.self_attn", f"{self.name}.mlp", shape.intermediate
        self.num_heads = len(params.group.part(shape.num_heads))
        self.num_kv_heads = len(params.group.part(shape.num_kv_heads))
        self.input_norm = params.scale(f"{self.name}.input_layernorm.weight", shape.hidden, offset=shape.norm_offset)
        self.q_norm = params.scale(f"{attention}.q_norm.weight", shape.head_dim) if shape.head_norms else None
        self.k_norm = params.scale(f"{attention}.k_norm.weight", shape.head_dim) if shape.head_norms else None
        self.make_qkv(params, attention)
        width = shape.num_heads * shape.head_dim
        self.o_proj = SummedLinear(params, f"{attention}.o_proj", shape.hidden, width, bias=shape.o_bias)
        self.mlp_norm = params.scale(
            f"{self.name}.post_attention_layernorm.weight", shape.hidden, offset=shape.norm_offset
        )
        gate_up = [Rows(f"{mlp}.{name}", features).part(params.group, features) for name in ("gate_proj", "up_proj")]
        self.gate_up = params.linear(gate_up, shape.hidden, bias=shape.mlp_bias)
        self.down_proj = SummedLinear(params, f"{mlp}.down_proj", shape.hidden, features, bias=shape.mlp_bias)

    @abstractmethod
    def make_qkv(self, params: Parameters, attention: str) -> None: ...

    def head_rows(self, params: Parameters, name: str, num_heads: int) -> Rows:
        """The rows of this worker's heads."""
        return Rows(name, num_heads * self.shape.head_dim).part(params.group, num_heads)

    def rotate(
        self, qkv: torch.Tensor, num_heads: int, num_kv_heads: int, rotary: Rotary, positions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.ops.qk_norm_rope(
            qkv,
            self.q_norm,
            self.k_norm,
            self.shape.eps,
            rotary.cos,
            rotary.sin,
            positions,
            num_heads,
            num_kv_heads,
            self.shape.head_dim,
        )

    def finish(self, attended: Activation, residual: torch.Tensor) -> Stream:
        """Output projection and MLP."""
        delta, residual = self.o_proj(attended, residual)
        x, residual = self.ops.add_rms_norm(delta, residual, self.mlp_norm, self.shape.eps)
        if self.shape.activation == "silu":
            gated = self.ops.linear_swiglu(x, self.gate_up)
        else:
            gated = self.ops.linear_geglu(x, self.gate_up, tanh=self.shape.activation != "gelu")
        return self.down_proj(gated, residual)


class DecoderLayer(_Layer):
    """All tokens through attention and MLP, with one fused projection for queries, keys and values."""

    qkv: LinearWeight

    def make_qkv(self, params: Parameters, attention: str) -> None:
        heads, kv_heads = self.shape.num_heads, self.shape.num_kv_heads
        parts = [
            self.head_rows(params, f"{attention}.{name}_proj", count)
            for name, count in (("q", heads), ("k", kv_heads), ("v", kv_heads))
        ]
        self.qkv = params.linear(parts, self.shape.hidden, bias=self.shape.qkv_bias)

    def __call__(self, stream: Stream, batch: PackedBatch, pool: KVPool, rotary: Rotary) -> Stream:
        x, residual = self.ops.add_rms_norm(*stream, self.input_norm, self.shape.eps)
        qkv = self.ops.linear(x, self.qkv)
        q, k, v = self.rotate(qkv, self.num_heads, self.num_kv_heads, rotary, batch.positions)
        attended = self.ops.attention(q, k, v, pool.keys[self.index], pool.values[self.index], batch.attention)
        pool.keep(self.index, k, v, batch)
        return self.finish(attended, residual)


class LastDecoderLayer(_Layer):
    """Keys and values of all tokens, everything else for the read tokens only: nothing looks at the others any more."""

    q_proj: LinearWeight
    kv_proj: LinearWeight

    def make_qkv(self, params: Parameters, attention: str) -> None:
        hidden, bias = self.shape.hidden, self.shape.qkv_bias
        q_rows = self.head_rows(params, f"{attention}.q_proj", self.shape.num_heads)
        kv_rows = [self.head_rows(params, f"{attention}.{name}_proj", self.shape.num_kv_heads) for name in ("k", "v")]
        self.q_proj = params.linear([q_rows], hidden, bias=bias)
        self.kv_proj = params.linear(kv_rows, hidden, bias=bias)

    def __call__(self, stream: Stream, batch: PackedBatch, pool: KVPool, rotary: Rotary) -> Stream | None:
        """The stream of the read tokens, (R, D); None if the step reads none."""
        delta, residual = stream
        read: Stream = (
            None if delta is None else delta.index_select(0, batch.read_rows),
            residual.index_select(0, batch.read_rows),
        )
        x, _ = self.ops.add_rms_norm(delta, residual, self.input_norm, self.shape.eps)
        kv = self.ops.linear(x, self.kv_proj)
        _, k, v = self.rotate(kv, 0, self.num_kv_heads, rotary, batch.positions)
        if not batch.num_reads:
            pool.keep(self.index, k, v, batch)
            return None
        x_read, residual_read = self.ops.add_rms_norm(*read, self.input_norm, self.shape.eps)
        q = self.ops.linear(x_read, self.q_proj)
        q, _, _ = self.rotate(q, self.num_heads, 0, rotary, batch.read_positions)
        attended = self.ops.attention(q, k, v, pool.keys[self.index], pool.values[self.index], batch.read_attention)
        pool.keep(self.index, k, v, batch)
        return self.finish(attended, residual_read)
