"""The self-test of an NPU: every fused operator that the model needs, at its shapes, and what is used instead.

This settles on the user's own card what no document settles: which layouts this CANN takes, whether attention by block
tables agrees with plain torch, on which half SwiGLU falls, what a row of zeros is quantised to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch_npu

from engine.backends.npu.faults import lost_code
from engine.backends.self_test import KEPT, Outcome, Trial, sample_meta, try_forms
from engine.backends.suspects import Suspects, cache_folder
from engine.kernels.npu import forms as npu_forms
from engine.kernels.npu.forms import (
    AT_ONCE,
    IN_STEPS,
    ONE_BY_ONE,
    PLAIN,
    PLAIN_WEIGHTS,
    TILED,
    TILED_WEIGHTS,
    Forms,
)
from engine.kernels.npu.linear import FRACTAL_NZ, QuantizedActivation
from engine.kernels.npu.ops import NpuOps
from engine.kernels.ops import LayerShape
from engine.kernels.reference import rms_norm_fp32
from engine.kernels.reference_attention import attend as plain_attention

NUM_TOKENS = 96
"""Rows of each trial; not a multiple of any tile."""
LIMIT = {torch.float32: 1e-4, torch.float16: 8e-3, torch.bfloat16: 4e-2}
"""A few roundings in the dtype, relative to the largest value."""
INT8_LIMIT = 2.5e-2
"""Of a product's or a row's largest value: an eighth of a bit more than the rounding to 127 steps."""
PRODUCT_ROWS = 32


def try_ops(ops: NpuOps, shape: LayerShape) -> tuple[Forms, list[Outcome]]:
    """The forms to use, and what each trial found. Raises only if the device is lost."""
    chosen, outcomes = ops.forms, []
    suspects = Suspects(cache_folder("self-test", f"{ops.soc.name} torch_npu {torch_npu.__version__}"))
    for trial, take in _Trials(ops, shape).all():
        outcome = try_forms(trial, lambda error: lost_code(error) is not None, suspects)
        outcomes.append(outcome)
        if outcome.form is not None:
            chosen = take(chosen, outcome.form)
            ops.use(chosen)  # later trials may build on it
    return chosen, outcomes


Take = Callable[[Forms, str], Forms]


def _field(name: str) -> Take:
    def take(forms: Forms, form: str) -> Forms:
        changes: dict[str, Any] = {name: form}
        return replace(forms, **changes)

    return take


class _Trials:
    """The trials of one model, with inputs that are the same each time."""

    def __init__(self, ops: NpuOps, shape: LayerShape) -> None:
        self.ops, self.shape, self.dtype, self.device = ops, shape, ops.dtype, ops.device
        self._generator = torch.Generator().manual_seed(0)
        self.limit = LIMIT[ops.dtype]

    def random(self, *size: int, scale: float = 1.0, offset: float = 0.0) -> torch.Tensor:
        values = torch.randn(*size, generator=self._generator) * scale + offset
        return values.to(self.dtype).to(self.device)

    def all(self) -> Iterator[tuple[Trial, Take]]:
        shape = self.shape
        if shape.rms_norm:
            yield self.rms_norm(), _field("rms_norm")
            yield self.add_rms_norm(), _field("add_rms_norm")
        if self.ops.int8:
            yield self.quantize(), _field("quantize")
            if shape.rms_norm:
                yield self.add_rms_norm_quant(), _field("add_rms_norm_quant")
            yield self.product(), _field("product")
        elif self.ops.forms.weights == TILED_WEIGHTS:
            yield self.weights(), _field("weights")
        yield self.rotation_of_one(), _field("rotation_of_one")
        if npu_forms.rotates_at_once(shape.num_heads, shape.num_kv_heads, shape.head_dim, self.dtype):
            yield self.rotation(), _field("rotation")
        yield self.attention(), _field("attention")
        if shape.gated and shape.hidden_act == "silu":
            yield self.swiglu(), _field("swiglu")
            if self.ops.int8 and 2 * shape.intermediate <= npu_forms.SWIGLU_QUANT_MAX_FEATURES:
                yield self.swiglu_quant(), _field("swiglu_quant")
        else:
            yield self.gelu(), _field("gelu")

    def _allowed(self, table: dict[str, Any], first: str) -> list[str]:
        """The forms of an op from ``first``, which the support tables allow, to the last."""
        names = list(table)
        return names[names.index(first) :]

    def rms_norm(self) -> Trial:
        """In the dtype, in fp32 as the score head wants it, and on heads that are a view of a fused projection."""
        shape, eps, table = self.shape, self.shape.eps, npu_forms.RMS_NORM
        x, weight = self.random(NUM_TOKENS, shape.hidden), self._weight(shape.hidden)
        heads, head_weight = self._heads(shape.num_heads + 2)[:, 1:-1], self._weight(shape.head_dim)
        cases = [(x, weight), (x.float(), weight.float()), (heads, head_weight)]

        def run(name: str) -> torch.Tensor:
            return torch.cat([table[name](x, weight, eps).float().flatten() for x, weight in cases])

        return Trial(
            "rms_norm",
            f"({NUM_TOKENS}, {shape.hidden}) and ({NUM_TOKENS}, {shape.num_heads}, {shape.head_dim})",
            {name: partial(run, name) for name in self._allowed(table, self.ops.forms.rms_norm)},
            lambda: torch.cat([rms_norm_fp32(x, weight, eps).flatten() for x, weight in cases]),
            self.limit,
        )

    def add_rms_norm(self) -> Trial:
        delta, residual = (self.random(NUM_TOKENS, self.shape.hidden) for _ in range(2))
        weight, eps, table = self._weight(self.shape.hidden), self.shape.eps, npu_forms.ADD_RMS_NORM

        def run(name: str) -> torch.Tensor:
            return torch.cat(table[name](delta, residual, weight, eps))

        return Trial(
            "add_rms_norm",
            f"({NUM_TOKENS}, {self.shape.hidden})",
            {name: partial(run, name) for name in self._allowed(table, self.ops.forms.add_rms_norm)},
            lambda: torch.cat([rms_norm_fp32(residual + delta, weight, eps), (residual + delta).float()]),
            self.limit,
        )

    def rotation_of_one(self) -> Trial:
        q, cos, sin = self._heads(max(1, self.shape.num_heads)), *self._angles()
        table = npu_forms.ROTATION_OF_ONE
        return Trial(
            "rotation of one",
            f"({NUM_TOKENS}, {q.shape[1]}, {q.shape[2]})",
            {n: partial(table[n], q, cos, sin) for n in self._allowed(table, self.ops.forms.rotation_of_one)},
            lambda: table[PLAIN](q.float(), cos, sin),
            self.limit,
        )

    def rotation(self) -> Trial:
        shape, (cos, sin) = self.shape, self._angles()
        q, k, plain = self._heads(shape.num_heads), self._heads(shape.num_kv_heads), npu_forms.ROTATION_OF_ONE[PLAIN]

        def at_once() -> torch.Tensor:
            return torch.cat(npu_forms.rotate_at_once(q.clone(), k.clone(), cos, sin), dim=1)

        def one_by_one() -> torch.Tensor:
            one = npu_forms.ROTATION_OF_ONE[self.ops.forms.rotation_of_one]
            return torch.cat([one(q, cos, sin), one(k, cos, sin)], dim=1)

        return Trial(
            "rotation",
            f"{shape.num_heads} + {shape.num_kv_heads} heads of {shape.head_dim}",
            {AT_ONCE: at_once, ONE_BY_ONE: one_by_one},
            lambda: plain(torch.cat([q, k], dim=1).float(), cos, sin),
            self.limit,
        )

    def attention(self) -> Trial:
        shape, meta = self.shape, sample_meta(self.shape, self.device)
        num_rows = int(meta.own_lens.sum())
        q = self._heads(shape.num_heads, num_rows)
        k, v, k_cache, v_cache = (self._heads(shape.num_kv_heads, n) for n in (num_rows, num_rows, KEPT, KEPT))

        def run(form: Any) -> torch.Tensor:
            return self.ops.attend(form, q, k, v, k_cache, v_cache, replace(meta, cache={}))

        def expected() -> torch.Tensor:
            wide = [tensor.float() for tensor in (q, k, v, k_cache, v_cache)]
            return plain_attention(wide[0], wide[1], wide[2], wide[3], wide[4], replace(meta, cache={}))

        names = self.ops.attention_forms(shape.num_heads, shape.num_kv_heads, shape.head_dim, causal=shape.causal)
        return Trial(
            "attention",
            f"{shape.num_heads} on {shape.num_kv_heads} heads of {shape.head_dim}",
            {name: partial(run, name) for name in names},
            expected,
            self.limit,
        )

    def swiglu(self) -> Trial:
        gated, table = self.random(NUM_TOKENS, 2 * self.shape.intermediate), npu_forms.SWIGLU
        return Trial(
            "swiglu",
            f"({NUM_TOKENS}, {gated.shape[1]})",
            {name: partial(table[name], gated) for name in self._allowed(table, self.ops.forms.swiglu)},
            lambda: table[PLAIN](gated.float()),
            self.limit,
        )

    def gelu(self) -> Trial:
        x, table = self.random(NUM_TOKENS, self.shape.intermediate, scale=3.0), npu_forms.GELU

        def run(name: str) -> torch.Tensor:
            return torch.cat([table[name](x, False), table[name](x, True)])

        return Trial(
            "gelu",
            f"({NUM_TOKENS}, {self.shape.intermediate}), exact and tanh",
            {name: partial(run, name) for name in self._allowed(table, self.ops.forms.gelu)},
            lambda: torch.cat([table[PLAIN](x.float(), False), table[PLAIN](x.float(), True)]),
            self.limit,
        )

    def quantize(self) -> Trial:
        x, table = self._with_zeros(self.shape.hidden), npu_forms.QUANTIZE

        def run(name: str) -> torch.Tensor:
            return _widened(table[name](x))

        return Trial(
            "quantize",
            f"({NUM_TOKENS}, {self.shape.hidden}), one row of zeros",
            {name: partial(run, name) for name in self._allowed(table, self.ops.forms.quantize)},
            lambda: x.float(),
            INT8_LIMIT,
        )

    def add_rms_norm_quant(self) -> Trial:
        residual, delta = self._with_zeros(self.shape.hidden), self._with_zeros(self.shape.hidden)
        weight, eps = self._weight(self.shape.hidden), self.shape.eps

        def fused() -> torch.Tensor:
            normed, total = npu_forms.add_rms_norm_quant(delta, residual, weight, eps)
            return torch.cat([_widened(normed), total.float()])

        def in_steps() -> torch.Tensor:
            normed, total = npu_forms.ADD_RMS_NORM[self.ops.forms.add_rms_norm](delta, residual, weight, eps)
            return torch.cat([_widened(npu_forms.QUANTIZE[self.ops.forms.quantize](normed)), total.float()])

        return Trial(
            "add_rms_norm to int8",
            f"({NUM_TOKENS}, {self.shape.hidden})",
            {"npu_add_rms_norm_dynamic_quant": fused, IN_STEPS: in_steps},
            lambda: torch.cat([rms_norm_fp32(residual + delta, weight, eps), (residual + delta).float()]),
            max(INT8_LIMIT, self.limit),
        )

    def swiglu_quant(self) -> Trial:
        gated = self._with_zeros(2 * self.shape.intermediate)

        def in_steps() -> torch.Tensor:
            wide = npu_forms.SWIGLU[self.ops.forms.swiglu](gated)
            return _widened(npu_forms.QUANTIZE[self.ops.forms.quantize](wide))

        return Trial(
            "swiglu to int8",
            f"({NUM_TOKENS}, {gated.shape[1]})",
            {"npu_swiglu_quant": lambda: _widened(npu_forms.swiglu_quant(gated)), IN_STEPS: in_steps},
            lambda: npu_forms.SWIGLU[PLAIN](gated.float()),
            INT8_LIMIT,
        )

    def product(self) -> Trial:
        """The four products of a layer, with integers, so that only the operator itself can differ."""
        cases = [self._product_case(num_in, num_out) for num_in, num_out in self._products()]

        def run(name: str) -> torch.Tensor:
            product, parts = npu_forms.PRODUCT[name], []
            for x, weight, scales, bias in cases:
                laid = torch_npu.npu_format_cast(weight, FRACTAL_NZ) if name == TILED else weight
                parts.append(product(x, laid, scales, bias, self.dtype).flatten())
            return torch.cat(parts)

        def expected() -> torch.Tensor:
            return torch.cat([(_widened(x) @ (w.float() * scales) + b).flatten() for x, w, scales, b in cases])

        return Trial(
            "int8 product",
            ", ".join(f"{num_in} x {num_out}" for num_in, num_out in self._products()),
            {name: partial(run, name) for name in self._allowed(npu_forms.PRODUCT, self.ops.forms.product)},
            expected,
            self.limit,
        )

    def weights(self) -> Trial:
        """Plain products with a weight that lies in tiles."""
        x, weight = (
            self.random(PRODUCT_ROWS, self.shape.hidden),
            self.random(self.shape.intermediate, self.shape.hidden),
        )

        def run(name: str) -> torch.Tensor:
            laid = torch_npu.npu_format_cast(weight, FRACTAL_NZ) if name == TILED_WEIGHTS else weight
            return torch.nn.functional.linear(x, laid)

        return Trial(
            "product",
            f"{self.shape.hidden} x {self.shape.intermediate}",
            {name: partial(run, name) for name in (TILED_WEIGHTS, PLAIN_WEIGHTS)},
            lambda: torch.nn.functional.linear(x.float(), weight.float()),
            self.limit,
        )

    def _products(self) -> list[tuple[int, int]]:
        """(in, out) of each of the layer's products."""
        shape = self.shape
        width, kv_width = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
        up = 2 * shape.intermediate if shape.gated else shape.intermediate
        pairs = [(shape.hidden, width + 2 * kv_width), (width, shape.hidden), (shape.hidden, up)]
        return [*pairs, (shape.intermediate, shape.hidden)]

    def _product_case(
        self, num_in: int, num_out: int
    ) -> tuple[QuantizedActivation, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rows, a weight (in, out) that repeats a few columns, its scales and its bias."""
        few = torch.randint(-127, 128, (num_in, min(num_out, 64)), generator=self._generator, dtype=torch.int8)
        weight = few.to(self.device).repeat(1, -(-num_out // 64))[:, :num_out].contiguous()
        scales = (torch.rand(num_out, generator=self._generator) + 0.5) / (127 * num_in**0.5)
        bias = torch.randn(num_out, generator=self._generator)
        x = npu_forms.QUANTIZE[PLAIN](self.random(PRODUCT_ROWS, num_in))
        return x, weight, scales.to(self.device), bias.to(self.device)

    def _weight(self, size: int) -> torch.Tensor:
        return self.random(size, scale=0.1, offset=1.0)

    def _heads(self, count: int, num_tokens: int = NUM_TOKENS) -> torch.Tensor:
        return self.random(num_tokens, count, self.shape.head_dim)

    def _angles(self) -> tuple[torch.Tensor, torch.Tensor]:
        angles = torch.rand(NUM_TOKENS, 1, self.shape.head_dim // 2, generator=self._generator) * 6.3
        both = torch.cat([angles, angles], dim=-1)
        return both.cos().to(self.dtype).to(self.device), both.sin().to(self.dtype).to(self.device)

    def _with_zeros(self, width: int) -> torch.Tensor:
        x = self.random(NUM_TOKENS, width)
        x[3] = 0
        return x


def _widened(x: QuantizedActivation) -> torch.Tensor:
    return x.values.float() * x.scales.float().unsqueeze(-1)
