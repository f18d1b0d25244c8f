"""Weights of linear layers on a GPU: as they are, or quantised to fp8 row by row while they are loaded."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

from engine.errors import ConfigError
from engine.kernels.triton.launch import FP8
from engine.kernels.triton.quantize_fp8 import quantize_fp8, quantize_fp8_torch

FP8_MULTIPLE = 16
"""``_scaled_mm`` takes matrices whose sides are multiples of this."""


class Fp8Activation(NamedTuple):
    """The input of an fp8 product, from a norm or a gated activation: e4m3 values (T, D) and fp32 scales (T, 1)."""

    values: torch.Tensor
    scales: torch.Tensor


class CudaLinear:
    """(out_features, in_features) in the run dtype, row-major: the second operand of cuBLAS, transposed."""

    def __init__(
        self, out_features: int, in_features: int, *, bias: bool, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.out_features = out_features
        self.in_features = in_features
        self.weight = torch.empty(out_features, in_features, dtype=dtype, device=device)
        self.bias = torch.zeros(out_features, dtype=dtype, device=device) if bias else None

    def load_rows(self, start: int, rows: torch.Tensor) -> None:
        self.weight[start : start + len(rows)].copy_(rows)

    def load_bias(self, start: int, bias: torch.Tensor) -> None:
        assert self.bias is not None, "this weight was made without a bias"
        self.bias[start : start + len(bias)].copy_(bias)

    @property
    def num_bytes(self) -> int:
        return self.weight.nbytes + (0 if self.bias is None else self.bias.nbytes)

    def product(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight, self.bias)

    def product_onto(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor | None:
        """Adds the product to ``residual`` in the epilogue of the matrix product, or returns it where it cannot."""
        if self.bias is not None:
            return self.product(x)
        residual.addmm_(x, self.weight.t())
        return None


class Fp8Linear:
    """e4m3 rows with one fp32 scale each; activations get one scale a token (``torch._scaled_mm``, row-wise)."""

    def __init__(
        self, out_features: int, in_features: int, *, bias: bool, device: torch.device, dtype: torch.dtype
    ) -> None:
        """Raises ``ConfigError`` for sides that fp8 products do not take."""
        if out_features % FP8_MULTIPLE or in_features % FP8_MULTIPLE:
            raise ConfigError(
                f"fp8 products need sides that are multiples of {FP8_MULTIPLE}, this model has a weight of "
                f"{out_features} x {in_features}; run it without --quantization fp8"
            )
        self.out_features = out_features
        self.in_features = in_features
        self.dtype = dtype
        self.weight = torch.empty(out_features, in_features, dtype=FP8, device=device)
        self.scales = torch.empty(1, out_features, dtype=torch.float32, device=device)
        self.bias = torch.zeros(out_features, dtype=dtype, device=device) if bias else None

    def load_rows(self, start: int, rows: torch.Tensor) -> None:
        values, scales = quantize_fp8_torch(rows.to(self.weight.device))
        self.weight[start : start + len(rows)].copy_(values)
        self.scales[0, start : start + len(rows)].copy_(scales[:, 0])

    def load_bias(self, start: int, bias: torch.Tensor) -> None:
        assert self.bias is not None, "this weight was made without a bias"
        self.bias[start : start + len(bias)].copy_(bias)

    @property
    def num_bytes(self) -> int:
        return self.weight.nbytes + self.scales.nbytes + (0 if self.bias is None else self.bias.nbytes)

    def product(self, x: torch.Tensor | Fp8Activation) -> torch.Tensor:
        values, scales = x if isinstance(x, Fp8Activation) else quantize_fp8(x)
        return torch._scaled_mm(
            values,
            self.weight.t(),
            scale_a=scales,
            scale_b=self.scales,
            bias=self.bias,
            out_dtype=self.dtype,
            use_fast_accum=True,
        )

    def product_onto(self, x: torch.Tensor | Fp8Activation, residual: torch.Tensor) -> torch.Tensor | None:
        return self.product(x)  # the fp8 product has no residual epilogue: the following norm adds
