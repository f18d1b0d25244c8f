"""Layers of decoder models, written once for all families; what differs between families is a value of DecoderShape.

T tokens of the step, R read tokens, D hidden size, N query heads, M key/value heads, H head size. The residual stream
travels as a pair (delta, residual), see ``kernels/ops.py``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from engine.backends.kv_cache import KVCache
from engine.backends.loading.parameters import Parameters, Rows
from engine.backends.nn.decoder_shape import DecoderShape
from engine.backends.nn.mlp import MLP, Experts, GatedMLP, Stream
from engine.backends.nn.parallel import SummedLinear
from engine.backends.packed_batch import PackedBatch
from engine.kernels.ops import Activation, AttentionMeta, LinearWeight
from engine.kernels.reference import rms_norm_fp32


@dataclass(frozen=True, eq=False)
class Rotary:
    """(positions, H/2) fp32 each."""

    cos: torch.Tensor
    sin: torch.Tensor


class _Layer(ABC):
    """What a whole layer and the last one have in common: norms, output projection, MLP.

    In a group of workers, each has a run of the heads and of the MLP's features (``parallel.py``).
    """

    def __init__(self, params: Parameters, shape: DecoderShape, index: int, window: int | None) -> None:
        """``window``: see ``AttentionMeta.window``."""
        self.ops, self.shape, self.index, self.name = params.ops, shape, index, f"layers.{index}"
        self.window = window
        attention = f"{self.name}.self_attn"
        self.num_heads = len(params.tp_group.part(shape.num_heads))
        self.num_kv_heads = len(params.tp_group.part(shape.num_kv_heads))
        self.input_norm = self._norm(params, "input_layernorm")
        self.q_norm = self._head_norm(params, f"{attention}.q_norm.weight")
        self.k_norm = self._head_norm(params, f"{attention}.k_norm.weight")
        self.qkv_ops = self.ops.of_qkv()
        with params.using(self.qkv_ops):
            self.make_qkv(params, attention)
        width = shape.num_heads * shape.head_dim
        self.o_proj = SummedLinear(params, f"{attention}.o_proj", shape.hidden, width, bias=shape.o_bias)
        after, before = ("post_attention_layernorm", "pre_feedforward_layernorm")
        self.mlp_norm = self._norm(params, before if shape.branch_norms else after)
        self.attention_norm = self._norm(params, after) if shape.branch_norms else None
        self.output_norm = self._norm(params, "post_feedforward_layernorm") if shape.branch_norms else None
        kind = Experts if shape.has_experts(index) else GatedMLP
        self.mlp: MLP = kind(params, shape, f"{self.name}.mlp")

    def _norm(self, params: Parameters, name: str) -> torch.Tensor:
        return params.scale(f"{self.name}.{name}.weight", self.shape.hidden, offset=self.shape.norm_offset)

    def _head_norm(self, params: Parameters, name: str) -> torch.Tensor | None:
        if not self.shape.head_norms:
            return None
        return params.scale(name, self.shape.head_dim, offset=self.shape.norm_offset)

    @abstractmethod
    def make_qkv(self, params: Parameters, attention: str) -> None: ...

    def head_rows(self, params: Parameters, attention: str, which: str) -> list[Rows]:
        """The rows of this worker's heads of ``q``, ``k`` or ``v``."""
        shape = self.shape
        counts = {"q": shape.num_heads, "k": shape.num_kv_heads, "v": shape.num_kv_heads}
        size, heads = shape.head_dim, counts[which]
        if shape.fused:
            before = {"q": 0, "k": shape.num_heads, "v": shape.num_heads + shape.num_kv_heads}[which]
            rows = Rows(f"{attention}.qkv_proj", heads * size, before * size, sum(counts.values()) * size)
        else:
            rows = Rows(f"{attention}.{which}_proj", heads * size)
        rows = rows.part(params.tp_group, heads)
        if which == "v" or shape.rotated in (None, size):
            return [rows]
        return [run for head in range(rows.count // size) for run in self._halves(rows, rows.first + head * size)]

    def _halves(self, rows: Rows, first: int) -> list[Rows]:
        """A head of which only the first numbers rotate, so ordered that it rotates in halves as a whole: what pairs up
        stays apart by half a head. Scores are products of q and k, which are both ordered so."""
        rotated, still = (self.shape.rotated or 0) // 2, (self.shape.head_dim - (self.shape.rotated or 0)) // 2
        starts = (0, 2 * rotated, rotated, 2 * rotated + still)
        sizes = (rotated, still, rotated, still)
        total = rows.total or self.shape.head_dim
        return [Rows(rows.name, size, first + at, total) for at, size in zip(starts, sizes, strict=True)]

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

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, kv_cache: KVCache, meta: AttentionMeta
    ) -> Activation:
        keys, values = kv_cache.layer(self.index, k, v)
        return self.ops.attention(q, k, v, keys, values, meta.of_layer(self.window, self.shape.score_cap))

    def finish(self, attended: Activation, residual: torch.Tensor) -> Stream:
        """Output projection and MLP."""
        shape = self.shape
        plain = not shape.branch_norms and shape.branch_scale == 1.0
        if plain:
            delta, residual = self.o_proj(attended, residual)
        else:
            delta = self._branch(self.o_proj.product(attended), self.attention_norm)
        x, residual = self.ops.add_rms_norm(delta, residual, self.mlp_norm, shape.eps)
        return self.mlp.onto(x, residual) if plain else (self._branch(self.mlp.product(x), self.output_norm), residual)

    def _branch(self, x: torch.Tensor, norm: torch.Tensor | None) -> torch.Tensor:
        """What is added to the residual stream."""
        x = x if norm is None else rms_norm_fp32(x, norm, self.shape.eps).to(x.dtype)
        return x * self.shape.branch_scale if self.shape.branch_scale != 1.0 else x


class DecoderLayer(_Layer):
    """All tokens through attention and MLP, with one fused projection for queries, keys and values."""

    qkv: LinearWeight

    def make_qkv(self, params: Parameters, attention: str) -> None:
        parts = _all(self.head_rows(params, attention, which) for which in ("q", "k", "v"))
        self.qkv = params.linear(parts, self.shape.hidden, bias=self.shape.qkv_bias)

    def __call__(self, stream: Stream, batch: PackedBatch, kv_cache: KVCache, rotary: Rotary) -> Stream:
        x, residual = self.qkv_ops.add_rms_norm(*stream, self.input_norm, self.shape.eps)
        qkv = self.qkv_ops.linear(x, self.qkv)
        q, k, v = self.rotate(qkv, self.num_heads, self.num_kv_heads, rotary, batch.positions)
        attended = self.attend(q, k, v, kv_cache, batch.attention)
        kv_cache.keep(self.index, k, v, batch)
        return self.finish(attended, residual)


class LastDecoderLayer(_Layer):
    """Keys and values of all tokens, everything else for the read tokens only: nothing looks at the others any more."""

    q_proj: LinearWeight
    kv_proj: LinearWeight

    def make_qkv(self, params: Parameters, attention: str) -> None:
        hidden, bias = self.shape.hidden, self.shape.qkv_bias
        q_rows = self.head_rows(params, attention, "q")
        kv_rows = _all(self.head_rows(params, attention, which) for which in ("k", "v"))
        self.q_proj = params.linear(q_rows, hidden, bias=bias)
        self.kv_proj = params.linear(kv_rows, hidden, bias=bias)

    def __call__(self, stream: Stream, batch: PackedBatch, kv_cache: KVCache, rotary: Rotary) -> Stream | None:
        """The stream of the read tokens, (R, D); None if the step reads none."""
        delta, residual = stream
        read: Stream = (
            None if delta is None else delta.index_select(0, batch.read_rows),
            residual.index_select(0, batch.read_rows),
        )
        x, _ = self.qkv_ops.add_rms_norm(delta, residual, self.input_norm, self.shape.eps)
        kv = self.qkv_ops.linear(x, self.kv_proj)
        _, k, v = self.rotate(kv, 0, self.num_kv_heads, rotary, batch.positions)
        if not batch.num_reads:
            kv_cache.keep(self.index, k, v, batch)
            return None
        x_read, residual_read = self.qkv_ops.add_rms_norm(*read, self.input_norm, self.shape.eps)
        q = self.qkv_ops.linear(x_read, self.q_proj)
        q, _, _ = self.rotate(q, self.num_heads, 0, rotary, batch.read_positions)
        attended = self.attend(q, k, v, kv_cache, batch.read_attention)
        kv_cache.keep(self.index, k, v, batch)
        return self.finish(attended, residual_read)


def _all(groups: Iterable[list[Rows]]) -> list[Rows]:
    return [rows for group in groups for rows in group]
