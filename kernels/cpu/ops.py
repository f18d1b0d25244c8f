"""``Ops`` on the compiled kernels. An ``Activation`` is a ``_C.Activation``: K blocks of rows, quantised where asked.

Everything is fp32 outside the linear layers; ``quantization`` says what happens inside them:

* None: fp32 arithmetic. Weights that come in 16 bits stay so, and converted to fp32 by blocks, which is exact.
* ``int16``: 14-bit activations and up to 16-bit weights, a scale for every 512 values of a row of either.
* ``int8``: 8 bits on either side, a scale for every 128 values, which are rotated first (``csrc/rotation.h``);
  without VNNI, where 16 bits cost no more, 16-bit activations. What is sensitive stays in ``int16``: the projections
  to queries, keys and values, whose errors go through an exponential, and the first two layers, whose errors are those
  of all later layers.
* ``int4``: weights of 4 bits in groups, made at load, in the arithmetic of ``int16``.

With None and ``dtype=torch.bfloat16`` both operands of a linear layer are rounded to bf16 (to the nearest, ties to
even) and their products, exact in fp32, are added in fp32: 256 values in one chain, then such sums in order. Weights
are 16 bits wide whatever they come in. AVX-512-BF16, AMX and Arm's BF16 have instructions for it; elsewhere both sides
are converted, for the same bits. Tiles of AMX add in an order of their own (``csrc/amx_products.h``).

Weights that come in 4 bits stay so in each of them but bf16: a block is dequantised in the cache, to fp32 exactly, to
integers by a fixed-point product.

A row's result has the same bits whatever other rows are in the product and however many threads there are.
"""

from __future__ import annotations

import math
import os
from copy import copy

import numpy as np
import torch

from engine.kernels.cpu import _C, INT16_LAYERS
from engine.kernels.cpu.linear import CpuGrouped, CpuLinear, CpuMadeInt4, rows_of, vector_of
from engine.kernels.cpu.threads import check_num_threads, default_num_threads
from engine.kernels.ops import Activation, AttentionMeta
from engine.kernels.reference import ReferenceOps
from engine.kernels.weight_groups import MADE, GroupLayout

CEILING_ITERATIONS, CEILING_TRIES = 300_000, 20
"""Milliseconds each: other processes on the machine leave some of them undisturbed."""
ISA_VARIABLE = "ENGINE_CPU_ISA"
CODES_IN_A_WORD = 8
_KINDS = {None: _C.Kind.F32, "int16": _C.Kind.I16, "int8": _C.Kind.I8R, "int4": _C.Kind.I16}
_ARITHMETICS = {"float32": _C.Kind.F32, "bfloat16": _C.Kind.BF16, "int16": _C.Kind.I16, "int8": _C.Kind.I8R}


def _heads(x: torch.Tensor) -> tuple[int, int, int]:
    """Address, row stride and head stride of (T, heads, H)."""
    assert x.dtype is torch.float32, f"keys and values are fp32 on the CPU, not {x.dtype}"
    assert x.stride(2) == 1
    return x.data_ptr(), x.stride(0), x.stride(1)


class CpuOps(ReferenceOps):
    """Implements ``kernels.ops.Ops``; what is not here is inherited from the reference.

    torch is left with one thread: what remains to it is small, and its threads and ours would take turns on the cores.
    """

    def __init__(
        self,
        num_threads: int | None = None,
        quantization: str | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        pin: bool = False,
        isa: str | None = None,
    ) -> None:
        super().__init__("cpu", torch.float32)
        if quantization not in _KINDS:
            raise ValueError(f"quantization {quantization!r} is not known on the CPU; use int16, int8 or int4")
        count = default_num_threads() if num_threads is None else check_num_threads(num_threads)
        if dtype not in (torch.float32, torch.bfloat16):
            raise ValueError(f"the compiled kernels compute in float32 and bfloat16, not {dtype}")
        in_bf16 = quantization is None and dtype is torch.bfloat16
        self.runtime = _C.Runtime(count, isa or os.environ.get(ISA_VARIABLE, ""), pin)
        self.weight_kind = _C.Kind.BF16 if in_bf16 else _KINDS[quantization]
        if quantization == "int8" and self.runtime.i8_bits < 8:
            self.weight_kind = _C.Kind.I16R
        self.kind = self.weight_kind
        """Of activations that ops write for a weight they do not see: with weights of 4 bits, as these read them."""
        self.quantization = quantization
        self._shapes: set[tuple[int, int]] = set()
        torch.set_num_threads(1)

    @property
    def widest(self) -> tuple[int, int]:
        """Rows and columns of the largest linear weight that was made, (0, 0) before the first."""
        return max(self._shapes, key=math.prod, default=(0, 0))

    @property
    def isa(self) -> str:
        return self.runtime.isa

    @property
    def description(self) -> str:
        """One line for the log."""
        plain = "bf16 in linear layers, fp32 between them" if self.kind == _C.Kind.BF16 else "fp32"
        arithmetic = {
            None: plain,
            "int16": "int16",
            "int8": "int8" if self.runtime.i8_bits == 8 else "int8 weights, 16-bit activations (no VNNI)",
            "int4": "int16 with weights of 4 bits",
        }[self.quantization]
        return f"compiled kernels, {self.isa}, {arithmetic}, {self.runtime.num_threads} threads"

    def ceiling(self, arithmetic: str | None = None) -> float:
        """G(FL)OP/s, two for each multiply-add, of a loop on all threads whose operands never leave the registers; the
        best of a few tries. ``arithmetic``: float32, bfloat16, int16 or int8; None: that of the linear layers."""
        kind = self.kind if arithmetic is None else _ARITHMETICS[arithmetic]
        return 2e-9 * max(self.runtime.ceiling(kind, CEILING_ITERATIONS) for _ in range(CEILING_TRIES))

    def _activation(self, x: Activation, weight: CpuLinear) -> _C.Activation:
        """As the weight reads it: a model may hold weights of 4 bits beside others, in int8 differently arranged."""
        if not isinstance(x, torch.Tensor):
            if x.kind == weight.kind:
                return x
            x = self.runtime.unpack(x)
        return self.runtime.pack(weight.kind, rows_of(x))

    def of_layer(self, index: int) -> CpuOps:
        return self._in_int16() if index < INT16_LAYERS else self

    def of_qkv(self) -> CpuOps:
        return self._in_int16()

    def _in_int16(self) -> CpuOps:
        """These ops in int16 where they are in int8: for what is sensitive."""
        if self.quantization != "int8":
            return self
        ops = copy(self)
        ops.kind = ops.weight_kind = _C.Kind.I16
        return ops

    def new_linear(self, out_features: int, in_features: int, *, bias: bool = False) -> CpuLinear:  # type: ignore[override]
        packed = self._new_packed(out_features, in_features, self.weight_kind)
        if self.quantization == "int4" and in_features % CODES_IN_A_WORD == 0:
            return CpuMadeInt4(packed, self.weight_kind, MADE)
        return CpuLinear(packed, self.weight_kind)

    def new_grouped_linear(  # type: ignore[override]
        self, out_features: int, in_features: int, layout: GroupLayout, *, bias: bool = False
    ) -> CpuGrouped | None:
        """Returns None for rows that are no whole words of eight codes, or groups that cross the blocks."""
        kind = _C.Kind.I8 if self.weight_kind in (_C.Kind.I8R, _C.Kind.I16R) else self.weight_kind
        try:
            grouped = CpuGrouped(self._new_packed(out_features, in_features, kind), kind, layout)
        except ValueError:
            return None
        self.kind = kind
        return grouped

    def _new_packed(self, out_features: int, in_features: int, kind: _C.Kind) -> _C.LinearWeight:
        self._shapes.add((out_features, in_features))
        return _C.LinearWeight(self.runtime, out_features, in_features, kind)

    def linear(self, x: Activation, weight: CpuLinear) -> torch.Tensor:  # type: ignore[override]
        return self.runtime.linear(self._activation(x, weight), weight.packed)

    def linear_residual(  # type: ignore[override]
        self, x: Activation, weight: CpuLinear, residual: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        a = self._activation(x, weight)
        address, stride, rows, cols = rows_of(residual)
        if (rows, cols) != (a.rows, weight.out_features):
            raise ValueError(f"the residual {tuple(residual.shape)} does not fit ({a.rows}, {weight.out_features})")
        self.runtime.linear_add(a, weight.packed, address, stride)
        return None, residual

    def linear_swiglu(self, x: Activation, gate_up: CpuLinear) -> Activation:  # type: ignore[override]
        return self._gated(x, gate_up, _C.Gate.SILU, True)

    def linear_geglu(self, x: Activation, gate_up: CpuLinear, *, tanh: bool) -> Activation:  # type: ignore[override]
        return self._gated(x, gate_up, _C.Gate.GELU_TANH if tanh else _C.Gate.GELU, True)

    def linear_gelu(self, x: Activation, weight: CpuLinear, *, tanh: bool = False) -> Activation:  # type: ignore[override]
        return self._gated(x, weight, _C.Gate.GELU_TANH if tanh else _C.Gate.GELU, False)

    def _gated(self, x: Activation, weight: CpuLinear, gate: _C.Gate, has_up: bool) -> _C.Activation:
        return self.runtime.linear_gate(self._activation(x, weight), weight.packed, gate, has_up, self.kind)

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> Activation:
        rows = rows_of(x)
        assert len(weight) == rows[3]
        return self.runtime.rms_norm(self.kind, rows, vector_of(weight), eps)

    def add_rms_norm(
        self, delta: torch.Tensor | None, residual: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> tuple[Activation, torch.Tensor]:
        summed = residual if delta is None else residual + delta
        return self.rms_norm(summed, weight, eps), summed

    def layer_norm(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, eps: float) -> torch.Tensor:
        return self.runtime.layer_norm(rows_of(x), vector_of(weight), vector_of(bias), eps)

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
        rows = rows_of(qkv)
        assert rows[3] == (num_heads + 2 * num_kv_heads) * head_dim
        assert positions.dtype is torch.int64
        assert positions.is_contiguous()
        return self.runtime.qk_norm_rope(
            rows, vector_of(q_weight), vector_of(k_weight), eps, vector_of(cos), vector_of(sin), positions.data_ptr(),
            num_heads, num_kv_heads, head_dim,
        )  # fmt: skip

    def attention(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
        meta: AttentionMeta,
    ) -> Activation:
        plan = meta.cache.get("cpu")
        if plan is None:
            plan = meta.cache["cpu"] = _plan(meta, len(q))
        limits = (meta.window or 0, meta.score_cap or 0.0) if meta.window or meta.score_cap else ()
        return self.runtime.attention(
            self.kind, _heads(q), _heads(k), _heads(v), _heads(k_cache), _heads(v_cache),
            q.shape[1], k.shape[1], q.shape[2], meta.scale, plan, *limits,
        )  # fmt: skip

    def unpack(self, x: Activation) -> torch.Tensor:
        """An activation as a plain fp32 tensor."""
        return x if isinstance(x, torch.Tensor) else self.runtime.unpack(x)


def _plan(meta: AttentionMeta, num_queries: int) -> _C.AttentionPlan:
    def array(x: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(x, dtype=np.int64).reshape(-1)

    return _C.attention_plan(
        array(meta.q_starts), array(meta.q_lens), array(meta.own_starts), array(meta.own_lens), array(meta.context_ids),
        array(meta.context_indptr), array(meta.context_ranges), meta.kv_capacity, num_queries, meta.causal,
    )  # fmt: skip
