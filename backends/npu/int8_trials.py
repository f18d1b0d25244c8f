"""The self-test of an NPU where a model's products are made with 8-bit integers."""

from __future__ import annotations

from functools import partial

import torch
import torch_npu

from engine.backends.npu.trial_inputs import INT8_LIMIT, NUM_TOKENS, TrialInputs, dequantized
from engine.backends.self_test import Trial
from engine.kernels.npu import forms as npu_forms
from engine.kernels.npu.forms import IN_STEPS, PLAIN, TILED
from engine.kernels.npu.linear import FRACTAL_NZ
from engine.kernels.reference import rms_norm_fp32


class Int8Trials(TrialInputs):
    """Rounding to integers, alone and inside a norm or an activation, and the products of a layer."""

    def quantize(self) -> Trial:
        x, table = self.with_zeros(self.shape.hidden), npu_forms.QUANTIZE

        def run(name: str) -> torch.Tensor:
            return dequantized(table[name](x))

        return Trial(
            "quantize",
            f"({NUM_TOKENS}, {self.shape.hidden}), one row of zeros",
            {name: partial(run, name) for name in self.allowed(table, self.ops.forms.quantize)},
            lambda: x.float(),
            INT8_LIMIT,
        )

    def add_rms_norm_quant(self) -> Trial:
        residual, delta = self.with_zeros(self.shape.hidden), self.with_zeros(self.shape.hidden)
        weight, eps = self.weight(self.shape.hidden), self.shape.eps

        def fused() -> torch.Tensor:
            normed, total = npu_forms.add_rms_norm_quant(delta, residual, weight, eps)
            return torch.cat([dequantized(normed), total.float()])

        def in_steps() -> torch.Tensor:
            normed, total = npu_forms.ADD_RMS_NORM[self.ops.forms.add_rms_norm](delta, residual, weight, eps)
            return torch.cat([dequantized(npu_forms.QUANTIZE[self.ops.forms.quantize](normed)), total.float()])

        return Trial(
            "add_rms_norm to int8",
            f"({NUM_TOKENS}, {self.shape.hidden})",
            {"npu_add_rms_norm_dynamic_quant": fused, IN_STEPS: in_steps},
            lambda: torch.cat([rms_norm_fp32(residual + delta, weight, eps), (residual + delta).float()]),
            max(INT8_LIMIT, self.limit),
        )

    def swiglu_quant(self) -> Trial:
        gated = self.with_zeros(2 * self.shape.intermediate)

        def in_steps() -> torch.Tensor:
            wide = npu_forms.SWIGLU[self.ops.forms.swiglu](gated)
            return dequantized(npu_forms.QUANTIZE[self.ops.forms.quantize](wide))

        return Trial(
            "swiglu to int8",
            f"({NUM_TOKENS}, {gated.shape[1]})",
            {"npu_swiglu_quant": lambda: dequantized(npu_forms.swiglu_quant(gated)), IN_STEPS: in_steps},
            lambda: npu_forms.SWIGLU[PLAIN](gated.float()),
            INT8_LIMIT,
        )

    def product(self) -> Trial:
        """The four products of a layer, with integers, so that only the operator itself can differ."""
        cases = [self.product_case(num_in, num_out) for num_in, num_out in self.products()]

        def run(name: str) -> torch.Tensor:
            product, parts = npu_forms.PRODUCT[name], []
            for x, weight, scales, bias in cases:
                laid = torch_npu.npu_format_cast(weight, FRACTAL_NZ) if name == TILED else weight
                parts.append(product(x, laid, scales, bias, self.dtype).flatten())
            return torch.cat(parts)

        def expected() -> torch.Tensor:
            return torch.cat([(dequantized(x) @ (w.float() * scales) + b).flatten() for x, w, scales, b in cases])

        return Trial(
            "int8 product",
            ", ".join(f"{num_in} x {num_out}" for num_in, num_out in self.products()),
            {name: partial(run, name) for name in self.allowed(npu_forms.PRODUCT, self.ops.forms.product)},
            expected,
            self.limit,
        )
