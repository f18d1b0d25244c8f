"""Weights of linear layers in the form of the compiled kernels, and the addresses of what the kernels are given."""

from __future__ import annotations

import torch

from engine.kernels.cpu import _C
from engine.kernels.weight_groups import GroupedRows, GroupLayout, quantize_rows

MADE_AT_ONCE = 1 << 22
_DTYPES = {torch.float32: _C.Dtype.F32, torch.bfloat16: _C.Dtype.BF16, torch.float16: _C.Dtype.F16}

_Rows = tuple[int, int, int, int]


def rows_of(x: torch.Tensor) -> _Rows:
    """Address, row stride, rows and columns of a matrix whose rows may lie apart but not their elements."""
    if x.dtype is not torch.float32 or x.dim() != 2 or x.device.type != "cpu":
        raise ValueError(f"the CPU kernels take fp32 matrices on the CPU, not {x.dtype} {tuple(x.shape)} on {x.device}")
    if x.stride(1) != 1 and x.shape[1] > 1:
        raise ValueError(f"the CPU kernels take matrices with contiguous rows, not strides {x.stride()}")
    return x.data_ptr(), x.stride(0), x.shape[0], x.shape[1]


def vector_of(x: torch.Tensor | None) -> int:
    if x is None:
        return 0
    if x.dtype is not torch.float32 or not x.is_contiguous():
        raise ValueError(f"the CPU kernels take contiguous fp32 vectors, not {x.dtype}")
    return x.data_ptr()


class CpuLinear:
    """A packed weight; see ``kernels.ops.LinearWeight``."""

    def __init__(self, packed: _C.LinearWeight, kind: _C.Kind) -> None:
        self.packed, self.kind = packed, kind
        self.out_features = packed.out_features
        self.in_features = packed.in_features

    def load_rows(self, start: int, rows: torch.Tensor) -> None:
        if rows.dtype not in _DTYPES:
            rows = rows.float()
        if rows.shape[1] != self.in_features:
            raise ValueError(f"rows of {rows.shape[1]} values do not fit a weight of {self.in_features} columns")
        if rows.stride(1) != 1:
            rows = rows.contiguous()
        self.packed.load_rows(start, len(rows), rows.data_ptr(), rows.stride(0), _DTYPES[rows.dtype])

    def load_bias(self, start: int, bias: torch.Tensor) -> None:
        values = bias.float().contiguous()
        self.packed.load_bias(start, len(values), values.data_ptr())

    @property
    def num_bytes(self) -> int:
        return self.packed.num_bytes


class CpuGrouped(CpuLinear):
    """A packed weight that stays in 4 bits; see ``kernels.ops.GroupedWeight``."""

    def __init__(self, packed: _C.LinearWeight, kind: _C.Kind, layout: GroupLayout) -> None:
        super().__init__(packed, kind)
        self.layout = layout
        packed.keep_groups(layout.group, list(layout.levels), layout.has_offsets)

    def load_groups(self, start: int, rows: GroupedRows) -> None:
        codes, scales = rows.codes.contiguous(), rows.scales.float().contiguous()
        offsets = None if rows.offsets is None else rows.offsets.float().contiguous()
        expected = (len(codes), self.layout.num_groups(self.in_features))
        if codes.dtype != torch.uint8 or codes.shape[1] != self.in_features or scales.shape != expected:
            raise ValueError(f"groups of {tuple(scales.shape)} scales do not fit {expected}")
        self.packed.load_groups(
            start, len(codes), codes.data_ptr(), codes.stride(0), scales.data_ptr(), vector_of(offsets),
            scales.stride(0), self.layout.group,
        )  # fmt: skip


class CpuMadeInt4(CpuGrouped):
    """A weight that is brought to 4 bits row by row while it is loaded."""

    def load_rows(self, start: int, rows: torch.Tensor) -> None:
        at_once = max(1, MADE_AT_ONCE // self.in_features)
        for first in range(0, len(rows), at_once):
            part = rows[first : first + at_once]
            self.load_groups(start + first, quantize_rows(part, self.layout.group))
