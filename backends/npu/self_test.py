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

from engine.backends.crash_records import CrashRecords, cache_folder
from engine.backends.npu.faults import lost_code
from engine.backends.npu.int4_trials import Int4Trials
from engine.backends.npu.int8_trials import Int8Trials
from engine.backends.npu.trial_inputs import NUM_TOKENS, PRODUCT_ROWS, TrialInputs
from engine.backends.self_test import KEPT, Outcome, Trial, sample_meta, try_forms
from engine.kernels.npu import forms as npu_forms
from engine.kernels.npu.forms import (
    AT_ONCE,
    ONE_BY_ONE,
    PLAIN,
    PLAIN_WEIGHTS,
    TILED_WEIGHTS,
    Forms,
)
from engine.kernels.npu.linear import FRACTAL_NZ
from engine.kernels.npu.ops import NpuOps
from engine.kernels.ops import LayerShape
from engine.kernels.reference import rms_norm_fp32
from engine.kernels.reference_attention import attend as plain_attention


def try_ops(ops: NpuOps, shape: LayerShape) -> tuple[Forms, list[Outcome]]:
    """The forms to use, and what each trial found. Raises only if the device is lost."""
    chosen, outcomes = ops.forms, []
    crash_records = CrashRecords(cache_folder("self-test", f"{ops.soc.name} torch_npu {torch_npu.__version__}"))
    for trial, take in _Trials(ops, shape).all():
        outcome = try_forms(trial, lambda error: lost_code(error) is not None, crash_records)
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


class _Trials(TrialInputs):
    """The trials of one model."""

    def all(self) -> Iterator[tuple[Trial, Take]]:
        shape, int8 = self.shape, Int8Trials(self.ops, self.shape)
        if shape.rms_norm:
            yield self.rms_norm(), _field("rms_norm")
            yield self.add_rms_norm(), _field("add_rms_norm")
        if self.ops.int8:
            yield int8.quantize(), _field("quantize")
            if shape.rms_norm:
                yield int8.add_rms_norm_quant(), _field("add_rms_norm_quant")
            yield int8.product(), _field("product")
        elif self.ops.int4 and (product := Int4Trials(self.ops, shape).product()) is not None:
            yield product, _field("grouped")
        elif self.ops.forms.weights == TILED_WEIGHTS:
            yield self.weights(), _field("weights")
        yield self.rotation_of_one(), _field("rotation_of_one")
        if npu_forms.rotates_at_once(shape.num_heads, shape.num_kv_heads, shape.head_dim, self.dtype):
            yield self.rotation(), _field("rotation")
        yield self.attention(), _field("attention")
        if shape.gated and shape.hidden_act == "silu":
            yield self.swiglu(), _field("swiglu")
            if self.ops.int8 and 2 * shape.intermediate <= npu_forms.SWIGLU_QUANT_MAX_FEATURES:
                yield int8.swiglu_quant(), _field("swiglu_quant")
        else:
            yield self.gelu(), _field("gelu")

    def rms_norm(self) -> Trial:
        """Tries the norm in the dtype, in fp32 as the score head wants it, and on heads of a fused projection."""
        shape, eps, table = self.shape, self.shape.eps, npu_forms.RMS_NORM
        x, weight = self.random(NUM_TOKENS, shape.hidden), self.weight(shape.hidden)
        heads, head_weight = self.heads(shape.num_heads + 2)[:, 1:-1], self.weight(shape.head_dim)
        cases = [(x, weight), (x.float(), weight.float()), (heads, head_weight)]

        def run(name: str) -> torch.Tensor:
            return torch.cat([table[name](x, weight, eps).float().flatten() for x, weight in cases])

        return Trial(
            "rms_norm",
            f"({NUM_TOKENS}, {shape.hidden}) and ({NUM_TOKENS}, {shape.num_heads}, {shape.head_dim})",
            {name: partial(run, name) for name in self.allowed(table, self.ops.forms.rms_norm)},
            lambda: torch.cat([rms_norm_fp32(x, weight, eps).flatten() for x, weight in cases]),
            self.limit,
        )

    def add_rms_norm(self) -> Trial:
        delta, residual = (self.random(NUM_TOKENS, self.shape.hidden) for _ in range(2))
        weight, eps, table = self.weight(self.shape.hidden), self.shape.eps, npu_forms.ADD_RMS_NORM

        def run(name: str) -> torch.Tensor:
            return torch.cat(table[name](delta, residual, weight, eps))

        return Trial(
            "add_rms_norm",
            f"({NUM_TOKENS}, {self.shape.hidden})",
            {name: partial(run, name) for name in self.allowed(table, self.ops.forms.add_rms_norm)},
            lambda: torch.cat([rms_norm_fp32(residual + delta, weight, eps), (residual + delta).float()]),
            self.limit,
        )

    def rotation_of_one(self) -> Trial:
        q, cos, sin = self.heads(max(1, self.shape.num_heads)), *self.angles()
        table = npu_forms.ROTATION_OF_ONE
        return Trial(
            "rotation of one",
            f"({NUM_TOKENS}, {q.shape[1]}, {q.shape[2]})",
            {n: partial(table[n], q, cos, sin) for n in self.allowed(table, self.ops.forms.rotation_of_one)},
            lambda: table[PLAIN](q.float(), cos, sin),
            self.limit,
        )

    def rotation(self) -> Trial:
        shape, (cos, sin) = self.shape, self.angles()
        q, k, plain = self.heads(shape.num_heads), self.heads(shape.num_kv_heads), npu_forms.ROTATION_OF_ONE[PLAIN]

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
        q = self.heads(shape.num_heads, num_rows)
        k, v, k_cache, v_cache = (self.heads(shape.num_kv_heads, n) for n in (num_rows, num_rows, KEPT, KEPT))

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
            {name: partial(table[name], gated) for name in self.allowed(table, self.ops.forms.swiglu)},
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
            {name: partial(run, name) for name in self.allowed(table, self.ops.forms.gelu)},
            lambda: torch.cat([table[PLAIN](x.float(), False), table[PLAIN](x.float(), True)]),
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
