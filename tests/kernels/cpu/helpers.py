"""Weights in both layouts, and how far two results are apart."""

from __future__ import annotations

import torch

from engine.kernels.cpu.linear import CpuLinear
from engine.kernels.cpu.ops import CpuOps
from engine.kernels.reference import ReferenceLinear, ReferenceOps

TOLERANCE = {None: 1e-6, "int16": 6e-4, "int8": 5e-2}
"""Relative error of a product, in the Frobenius norm, for normally distributed operands. int8 includes 7-bit paths."""

PRODUCTS_ONLY = ("amx", "avx512_bf16")
"""Instruction sets whose other kernels are those of the next one; what they add is tested in test_bfloat16.py."""


def both(ops: CpuOps, rows: torch.Tensor, bias: torch.Tensor | None = None) -> tuple[CpuLinear, ReferenceLinear]:
    """The same weight for the kernels and for the oracle."""
    weights = []
    for owner in (ops, ReferenceOps()):
        weight = owner.new_linear(rows.shape[0], rows.shape[1], bias=bias is not None)
        weight.load_rows(0, rows)
        if bias is not None:
            weight.load_bias(0, bias)
        weights.append(weight)
    return weights[0], weights[1]


def distance(actual: torch.Tensor, expected: torch.Tensor) -> float:
    assert actual.shape == expected.shape
    return float((actual.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-30))
