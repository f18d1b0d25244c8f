"""The op set: every operation a model performs on a device, with shapes. One class per backend implements ``Ops``.

Letters: T tokens of a step, R read tokens, D hidden size, F intermediate size, N query heads, M key/value heads,
H head size, O outputs of the score head, S segments, C contexts, G context ranges.

Two things are opaque, so that a backend may keep them in the layout its kernels like:

* an ``Activation`` is what a norm, an attention or a SwiGLU hands to a linear layer: a plain (T, D) tensor, a packed
  panel, or a quantised tensor with scales. Only ops look inside.
* a ``LinearWeight`` is a weight in its final layout. Rows are loaded as they are read from the file, so no second copy
  of the weights ever exists.

The **residual stream** is always a plain tensor. ``linear_residual`` returns ``(delta, residual)``: the new stream is
``residual + delta``, or just ``residual`` when ``delta`` is None because the kernel added in its epilogue. The
following ``add_rms_norm`` takes the pair as it comes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch

from engine.kernels.weight_groups import GroupedRows, GroupLayout


@dataclass(frozen=True, kw_only=True)
class LayerShape:
    """A layer of the model in numbers, as one worker computes it: what a backend needs to try its ops beforehand."""

    hidden: int
    intermediate: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    """Of the attention scores."""
    causal: bool
    gated: bool
    """The MLP has a gate; its first product then has ``2 * intermediate`` rows."""
    hidden_act: str
    """As config.json names it: silu, gelu, gelu_new, ..."""
    rms_norm: bool
    """Else layer norm."""
    eps: float


Activation = Any
"""Opaque input of a linear layer; see the module docstring."""


@dataclass(eq=False)
class AttentionMeta:
    """The keys that each segment of a step attends to, built once for all layers (last layer: ``for_reads``).

    Query rows of segment s are ``q_starts[s] : q_starts[s] + q_lens[s]`` of ``q``. They are the *last* ``q_lens[s]``
    tokens of the segment, whose own keys are rows ``own_starts[s] : own_starts[s] + own_lens[s]`` of the step's ``k``
    (causal, aligned at the end; all of them when ``causal`` is False, and then ``q_lens`` may exceed ``own_lens``: the
    tokens behind the keys see them, and nobody sees those tokens). Before its own keys a segment sees, unmasked,
    the ranges ``context_indptr[c] : context_indptr[c + 1]`` of ``context_ranges`` with ``c = context_ids[s]`` (none
    when -1): ``start < kv_capacity`` is a slot of the KV cache, else row ``start - kv_capacity`` of this step.
    """

    q_starts: np.ndarray
    q_lens: np.ndarray
    own_starts: np.ndarray
    own_lens: np.ndarray
    context_ids: np.ndarray
    context_indptr: np.ndarray
    context_ranges: np.ndarray
    kv_capacity: int
    scale: float
    causal: bool
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    window: int | None = None
    """Causal only: a query sees the last so many keys of all that it would see, its own among them; None: all."""
    score_cap: float | None = None
    """Scaled scores s become cap * tanh(s / cap); None: they stay."""
    cache: dict[str, Any] = field(default_factory=dict)
    """For backends: device tensors derived from the above, made on first use in a step."""

    @cached_property
    def context_lens(self) -> np.ndarray:
        """(C,) tokens of each context."""
        sums = np.zeros(len(self.context_ranges) + 1, np.int64)
        self.context_ranges[:, 1].cumsum(out=sums[1:])
        ends: np.ndarray = sums[self.context_indptr]
        return ends[1:] - ends[:-1]

    @cached_property
    def seen_before(self) -> np.ndarray:
        """(S,) tokens of each segment's context."""
        lens = np.zeros(len(self.context_indptr), np.int64)  # the id -1 finds the zero at the end
        lens[:-1] = self.context_lens
        found: np.ndarray = lens[self.context_ids]
        return found

    def of_layer(self, window: int | None, score_cap: float | None) -> AttentionMeta:
        """The same step for a layer with a window or a cap. Both share ``cache``: no plan depends on either."""
        if window is None and score_cap is None:
            return self
        layer = replace(self, window=window, score_cap=score_cap)
        layer.__dict__.update({name: self.__dict__[name] for name in _DERIVED if name in self.__dict__})
        return layer

    def for_reads(self, segments: np.ndarray) -> AttentionMeta:
        """The same step with one query for each of ``segments``: its last token, or all there is of it."""
        reads = AttentionMeta(
            np.arange(len(segments)),
            np.ones(len(segments), np.int64),
            self.own_starts[segments],
            self.own_lens[segments],
            self.context_ids[segments],
            self.context_indptr,
            self.context_ranges,
            self.kv_capacity,
            self.scale,
            self.causal,
            self.device,
        )
        reads.__dict__["seen_before"] = self.seen_before[segments]
        return reads

    @property
    def num_queries(self) -> int:
        return int(self.q_lens.sum())


_DERIVED = ("context_lens", "seen_before")


class LinearWeight(Protocol):
    """A (out_features, in_features) weight with optional bias, in a backend's own layout."""

    out_features: int
    in_features: int

    def load_rows(self, start: int, rows: torch.Tensor) -> None:
        """Take rows ``start : start + len(rows)``, (n, in_features), in any floating dtype, from the CPU."""
        ...

    def load_bias(self, start: int, bias: torch.Tensor) -> None: ...

    @property
    def num_bytes(self) -> int: ...


class GroupedWeight(LinearWeight, Protocol):
    """A weight that stays in 4 bits with a scale for each group (``kernels/weight_groups.py``), dequantised in use."""

    def load_groups(self, start: int, rows: GroupedRows) -> None:
        """Take rows ``start : start + n`` in the layout that the weight was made for."""
        ...


class Ops(Protocol):
    """The operations that a device must have. ``kernels/reference.py`` is the reference of every method."""

    def unpack(self, x: Activation) -> torch.Tensor:
        """The plain (T, D) tensor that an activation stands for."""
        ...

    def of_layer(self, index: int) -> Ops:
        """The ops that a layer of the model makes its weights and computes with: these, unless a quantization leaves
        some layers in a higher precision."""
        ...

    def of_qkv(self) -> Ops:
        """The ops of a layer's projection to queries, keys and values, and of the norm before it: these, unless a
        quantization leaves them in a higher precision."""
        ...

    def new_linear(self, out_features: int, in_features: int, *, bias: bool = False) -> LinearWeight:
        """An empty linear layer, (out_features, in_features).

        Raises ``ConfigError`` for sizes that the kernels do not take.
        """
        ...

    def new_grouped_linear(
        self, out_features: int, in_features: int, layout: GroupLayout, *, bias: bool = False
    ) -> GroupedWeight | None:
        """A weight that stays in 4 bits; None where this device keeps none of this layout, so it is dequantised."""
        ...

    def linear(self, x: Activation, weight: LinearWeight) -> torch.Tensor:
        """(T, in) -> (T, out): x W^T + b."""
        ...

    def linear_residual(
        self, x: Activation, weight: LinearWeight, residual: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """(delta, residual) with residual + delta = residual_in + x W^T + b. May write into ``residual``."""
        ...

    def linear_swiglu(self, x: Activation, gate_up: LinearWeight) -> Activation:
        """(T, in) -> (T, F): silu(g) * u, where the weight's first F rows give g and the last F rows give u."""
        ...

    def linear_geglu(self, x: Activation, gate_up: LinearWeight, *, tanh: bool) -> Activation:
        """(T, in) -> (T, F): gelu(g) * u, rows as in ``linear_swiglu``."""
        ...

    def linear_gelu(self, x: Activation, weight: LinearWeight, *, tanh: bool = False) -> Activation:
        """(T, in) -> (T, out): gelu(x W^T + b), exact (erf) unless ``tanh``."""
        ...

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> Activation:
        """x / sqrt(mean(x^2) + eps) * weight, reduced in fp32 (Zhang and Sennrich 2019, arXiv 1910.07467)."""
        ...

    def add_rms_norm(
        self, delta: torch.Tensor | None, residual: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> tuple[Activation, torch.Tensor]:
        """(rms_norm(residual + delta), residual + delta); ``delta`` None counts as zero. May add into ``residual``."""
        ...

    def layer_norm(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, eps: float) -> torch.Tensor:
        """(x - mean) / sqrt(var + eps) * weight + bias; a plain tensor, as it is also the residual stream."""
        ...

    def qk_norm_rope(
        self,
        qkv: torch.Tensor,
        q_weight: torch.Tensor | None,
        k_weight: torch.Tensor | None,
        eps: float,
        cos: torch.Tensor,
        sin: torch.Tensor,
        positions: torch.Tensor,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Split the fused projection, norm each head of q and k, rotate both.

        ``qkv`` (T, (N + 2M)H), or (T, 2MH) with ``num_heads`` 0 (keys and values only), or (T, NH) with
        ``num_kv_heads`` 0 (queries only). Weights (H,) or None for models without head norms. ``cos``, ``sin``
        (max_position, H/2) fp32; ``positions`` (T,) int64. Rotation in halves: (x1, x2) -> (x1 cos - x2 sin,
        x2 cos + x1 sin). Returns q (T, N, H), k (T, M, H), v (T, M, H), which may be views of ``qkv``, overwritten.
        """
        ...

    def attention(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
        meta: AttentionMeta,
    ) -> Activation:
        """Softmax attention per segment over its context and its own keys.

        q (Tq, N, H), k and v (T, M, H) of this step, k_cache and v_cache (kv_capacity, M, H) of this layer; N % M == 0.
        Returns (Tq, N * H), rows in the order of ``q``.
        """
        ...

    def score(
        self,
        delta: torch.Tensor | None,
        residual: torch.Tensor,
        norm_weight: torch.Tensor,
        eps: float,
        head: torch.Tensor,
        bias: torch.Tensor | None,
    ) -> torch.Tensor:
        """Final RMSNorm and head in fp32: (R, D) -> (R, O) with ``head`` (O, D) fp32."""
        ...
