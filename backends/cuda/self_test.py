"""The self-test of an NVIDIA GPU: each kernel of our own at the model's shapes against plain torch on the same GPU.

A kernel that does not compile, does not run or is wrong gives its op to plain torch, with a line that says so; products
are checked too, since fp8 has no form beside cuBLAS's. It takes a fraction of a second once the kernels are compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from engine.backends.crash_records import CrashRecords
from engine.backends.cuda.attention import AttentionForm, GatherForm, RangeForm
from engine.backends.cuda.forms import EXPAND, FUSED, GATE, LIMIT, NORM, PLAIN, ROTATION, SCORE
from engine.backends.cuda.linear import Fp8Linear
from engine.backends.cuda.ops import CudaOps
from engine.backends.self_test import KEPT, Outcome, Trial, sample_meta, try_forms
from engine.kernels.ops import LayerShape
from engine.kernels.reference_attention import attend as plain_attention
from engine.kernels.triton.attention import default_config
from engine.kernels.triton.grouped import PackedGroups, expand_groups_torch
from engine.kernels.triton.quantize_fp8 import dequantize_fp8, quantize_fp8

NUM_TOKENS = 96
"""Rows of each trial."""
FP8_LIMIT = 8e-2
"""Half the distance of neighbouring e4m3 values is 2^-4 of a value; a scale a row."""

Take = Callable[[str], None]


def try_ops(
    ops: CudaOps, shape: LayerShape, is_lost: Callable[[BaseException], bool], crash_records: CrashRecords
) -> list[Outcome]:
    """Tries every op; ``ops`` then uses the forms that are right. Raises only if the device is lost."""
    outcomes = []
    for trial, take in _Trials(ops, shape).all():
        outcome = try_forms(trial, is_lost, crash_records)
        outcomes.append(outcome)
        if outcome.form is not None:
            take(outcome.form)
    return outcomes


class _Trials:
    """The trials of one model, with inputs that are the same each time."""

    def __init__(self, ops: CudaOps, shape: LayerShape) -> None:
        self.ops, self.shape, self.dtype, self.device = ops, shape, ops.dtype, ops.device
        self._generator = torch.Generator().manual_seed(0)
        self.limit = LIMIT[ops.dtype]

    def all(self) -> Iterator[tuple[Trial, Take]]:
        if self.shape.rms_norm:
            yield self.norm(), self._take("norm")
            yield self.rotation(), self._take("rotation")
            yield self.score(), self._take("score")
        if self.shape.gated:
            yield self.gate(), self._take("gate")
        attention, forms = self.attention()
        yield attention, lambda name: self.ops.attend_by(forms[name])
        if self.ops.fp8:
            yield self.product(), lambda name: None
        if self.ops.grouped.examples:
            yield self.expansion(), self._take("expand")
            yield self.fused(), self._take("fused")

    def _take(self, op: str) -> Take:
        def take(form: str) -> None:
            changes: dict[str, Any] = {op: form}
            self.ops.forms = replace(self.ops.forms, **changes)

        return take

    def random(self, *size: int, scale: float = 1.0, offset: float = 0.0) -> torch.Tensor:
        values = torch.randn(*size, generator=self._generator) * scale + offset
        return values.to(self.dtype).to(self.device)

    def _row_limit(self) -> float:
        return max(self.limit, FP8_LIMIT) if self.ops.fp8 else self.limit

    def norm(self) -> Trial:
        delta, residual = (self.random(NUM_TOKENS, self.shape.hidden) for _ in range(2))
        weight, eps, fp8 = self.random(self.shape.hidden, scale=0.1, offset=1.0), self.shape.eps, self.ops.fp8

        def run(name: str) -> torch.Tensor:
            summed = residual.clone()
            y, scales = NORM[name](delta, summed, weight, eps, quantize=fp8)
            alone, alone_scales = NORM[name](None, residual.clone(), weight, eps, quantize=fp8)
            return torch.cat([_wide(y, scales), summed.float(), _wide(alone, alone_scales)])

        def expected() -> torch.Tensor:
            total = (residual + delta).float()
            return torch.cat([_norm(total, weight, eps), total, _norm(residual.float(), weight, eps)])

        return self._trial("norm", f"({NUM_TOKENS}, {self.shape.hidden})", NORM, run, expected, self._row_limit())

    def gate(self) -> Trial:
        gate_up, gate = self.random(NUM_TOKENS, 2 * self.shape.intermediate), self._gate_name()

        def run(name: str) -> torch.Tensor:
            return _wide(*GATE[name](gate_up, gate, quantize=self.ops.fp8))

        def expected() -> torch.Tensor:
            g, u = gate_up.float().chunk(2, dim=-1)
            tanh = "tanh" if gate == "gelu_tanh" else "none"
            return (
                torch.nn.functional.silu(g) if gate == "silu" else torch.nn.functional.gelu(g, approximate=tanh)
            ) * u

        return self._trial("gate", f"({NUM_TOKENS}, {gate_up.shape[1]})", GATE, run, expected, self._row_limit())

    def _gate_name(self) -> str:
        if self.shape.hidden_act == "silu":
            return "silu"
        return "gelu" if self.shape.hidden_act == "gelu" else "gelu_tanh"

    def rotation(self) -> Trial:
        heads, kv_heads, size = self.shape.num_heads, self.shape.num_kv_heads, self.shape.head_dim
        qkv = self.random(NUM_TOKENS, (heads + 2 * kv_heads) * size)
        weights = [self.random(size, scale=0.1, offset=1.0) for _ in range(2)]
        angles = torch.rand(NUM_TOKENS, size // 2, generator=self._generator) * 6.3
        cos, sin = angles.cos().to(self.device), angles.sin().to(self.device)
        positions = torch.arange(NUM_TOKENS, device=self.device)

        def run(name: str, wide: bool = False) -> torch.Tensor:
            parts = []
            for q_weight, k_weight in (weights, (None, None)):
                source = qkv.float() if wide else qkv.clone()
                found = ROTATION[name](
                    source, q_weight, k_weight, self.shape.eps, cos, sin, positions, heads, kv_heads, size
                )
                parts += [part.float().flatten(1) for part in found]
            return torch.cat(parts, dim=1)

        words = f"{heads} + {kv_heads} heads of {size}"
        return self._trial("rotation", words, ROTATION, run, partial(run, "plain torch", wide=True), self.limit)

    def score(self) -> Trial:
        delta, residual = (self.random(NUM_TOKENS, self.shape.hidden) for _ in range(2))
        weight, eps = self.random(self.shape.hidden, scale=0.1, offset=1.0), self.shape.eps
        head = torch.randn(1, self.shape.hidden, generator=self._generator).to(self.device)

        def run(name: str) -> torch.Tensor:
            return torch.cat([SCORE[name](given, residual, weight, eps, head, None) for given in (delta, None)])

        def expected() -> torch.Tensor:
            wide = residual.float()
            return torch.cat([_norm(wide + d, weight, eps) @ head.t() for d in (delta.float(), torch.zeros_like(wide))])

        return self._trial("score", f"({NUM_TOKENS}, {self.shape.hidden})", SCORE, run, expected, self.limit)

    def attention(self) -> tuple[Trial, dict[str, AttentionForm]]:
        shape, meta = self.shape, sample_meta(self.shape, self.device)
        rows = int(meta.own_lens.sum())
        q = self.random(rows, shape.num_heads, shape.head_dim)
        k, v, k_cache, v_cache = (self.random(n, shape.num_kv_heads, shape.head_dim) for n in (rows, rows, KEPT, KEPT))
        range_form, gather = RangeForm(default_config(self.dtype, shape.head_dim)), GatherForm()
        forms: dict[str, AttentionForm] = {range_form.name: range_form}
        if self.dtype != torch.float32:
            forms[gather.name] = gather

        def run(name: str) -> torch.Tensor:
            tables = forms[name].tables(meta, shape.num_heads // shape.num_kv_heads)
            on_device = [torch.from_numpy(table).to(self.device) for table in tables]
            return forms[name].attend(q, k, v, k_cache, v_cache, meta, on_device)

        def expected() -> torch.Tensor:
            wide = [tensor.float() for tensor in (q, k, v, k_cache, v_cache)]
            return plain_attention(wide[0], wide[1], wide[2], wide[3], wide[4], replace(meta, cache={}))

        words = f"{shape.num_heads} on {shape.num_kv_heads} heads of {shape.head_dim}"
        return Trial("attention", words, {name: partial(run, name) for name in forms}, expected, self.limit), forms

    def product(self) -> Trial:
        """Tries products of one row, of a few, and of many: cuBLAS takes other kernels for each."""
        rows, columns = self.shape.intermediate, self.shape.hidden
        weight = Fp8Linear(rows, columns, bias=False, device=self.device, dtype=self.dtype)
        weight.load_rows(0, self.random(rows, columns, scale=columns**-0.5))
        inputs = [quantize_fp8(self.random(count, columns)) for count in (1, 17, NUM_TOKENS)]
        wide = dequantize_fp8(weight.weight, weight.scales.t())

        def run() -> torch.Tensor:
            return torch.cat([weight.product(x) for x in map(_activation, inputs)])

        def expected() -> torch.Tensor:
            return torch.cat([dequantize_fp8(*x) @ wide.t() for x in inputs])

        return Trial("fp8 product", f"{columns} x {rows}", {"cuBLAS": run}, expected, self.limit)

    def expansion(self) -> Trial:
        """Tries the expansion of a weight of each kind that the model has."""
        weights = [weight.packed for weight in self.ops.grouped.examples.values()]

        def run(name: str, dtype: torch.dtype = self.dtype) -> torch.Tensor:
            parts = []
            for weight in weights:
                found = torch.empty(weight.shape, dtype=dtype, device=self.device)
                EXPAND[name](weight, found)
                parts.append(found[:NUM_TOKENS].float().flatten() / _largest(weight))
            return torch.cat(parts)

        words = ", ".join(f"{n} x {k}" for n, k in (weight.shape for weight in weights))
        return self._trial("expand", words, EXPAND, run, partial(run, PLAIN, torch.float32), self.limit)

    def fused(self) -> Trial:
        """Tries the fused product of few rows and of many, in the tiles that run until others were measured."""
        grouped = self.ops.grouped
        weights, counts = list(grouped.examples.values()), [most for most, _ in grouped.choices]
        inputs = {k: self.random(max(counts), k) for k in {weight.in_features for weight in weights}}

        def run(name: str, wide: bool = False) -> torch.Tensor:
            parts = []
            for weight in weights:
                x, unit = inputs[weight.in_features], _largest(weight.packed) * weight.in_features**0.5
                for count, config in grouped.choices:
                    forms = replace(self.ops.forms, expand=PLAIN, fused=name)
                    y = (
                        _wide_product(x[:count], weight.packed)
                        if wide
                        else grouped.by(config, x[:count], weight, forms)
                    )
                    parts.append(y.float().flatten() / unit)
            return torch.cat(parts)

        words = f"up to {max(counts)} rows"
        return self._trial("fused", words, FUSED, run, partial(run, PLAIN, wide=True), self.limit)

    @staticmethod
    def _trial(
        op: str,
        shape: str,
        table: dict[str, Any],
        run: Callable[[str], torch.Tensor],
        expected: Callable[[], torch.Tensor],
        limit: float,
    ) -> Trial:
        return Trial(op, shape, {name: partial(run, name) for name in table}, expected, limit)


def _activation(x: tuple[torch.Tensor, torch.Tensor]) -> Any:
    from engine.backends.cuda.linear import Fp8Activation

    return Fp8Activation(*x)


def _largest(weight: PackedGroups) -> float:
    """No value of the weight is larger than a few of this."""
    largest = weight.scales.abs().max() * weight.levels.abs().max()
    return max(1e-10, float(largest + (0.0 if weight.offsets is None else weight.offsets.abs().max())))


def _wide_product(x: torch.Tensor, weight: PackedGroups) -> torch.Tensor:
    wide = torch.empty(weight.shape, device=x.device)
    expand_groups_torch(weight, wide)
    return x.float() @ wide.t()


def _wide(y: torch.Tensor, scales: torch.Tensor | None) -> torch.Tensor:
    return y.float() if scales is None else dequantize_fp8(y, scales)


def _norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight.float()
