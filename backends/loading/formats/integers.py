"""Weights of small integers in groups along K, each group with a scale and often a zero point: w = (q - z) s.

What the formats AWQ, GPTQ, pack-quantized, AutoRound and HQQ have in common; they differ in how the integers are
packed.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from engine.backends.loading.safetensors_file import TensorReader
from engine.backends.loading.source import Dequantize, Group, QuantizedTensor, spread
from engine.errors import ModelLoadError
from engine.kernels.weight_groups import INT8, UINT4, GroupedRows, GroupLayout


class Integers(NamedTuple):
    """n rows."""

    codes: torch.Tensor
    """(n, K) unsigned."""
    scales: torch.Tensor
    """(n, G) fp32."""
    zeros: torch.Tensor
    """(n, G) fp32."""


ReadIntegers = Callable[[int, int], Integers]


@dataclass(frozen=True, eq=False, kw_only=True)
class IntegerGroups(QuantizedTensor):
    bits: int
    group: int
    """Columns that share a scale."""
    symmetric: bool = False
    """Every zero point is the middle of the codes."""
    in_order: bool = True
    """Groups are runs of columns, one after the other."""

    @abstractmethod
    def integers(self, reader: TensorReader) -> ReadIntegers:
        """Begin a reading of rows."""

    def group_of_columns(self, reader: TensorReader) -> torch.Tensor | None:
        """(K,) numbers of groups where they do not lie one after the other (act order)."""
        return None

    @property
    def layout(self) -> GroupLayout | None:
        if not self.in_order:
            return None
        if self.bits > 4:
            return GroupLayout(self.group, INT8, has_offsets=not self.symmetric)
        if not self.symmetric:
            return GroupLayout(self.group, UINT4, has_offsets=True)
        middle = 1 << (self.bits - 1)
        return GroupLayout(self.group, tuple(float(code - middle) for code in range(16)), has_offsets=False)

    def grouper(self, reader: TensorReader) -> Group:
        read, middle = self.integers(reader), 1 << (self.bits - 1)
        if self.group_of_columns(reader) is not None:
            raise ModelLoadError(f"{self.label}: its groups are not in the order that the quantization_config states")

        def grouped(first: int, last: int) -> GroupedRows:
            codes, scales, zeros = read(first, last)
            if not self.symmetric:
                middle_of_codes = 128 if self.bits > 4 else 0  # the code that stands for 0
                return GroupedRows(codes.to(torch.uint8), scales, (middle_of_codes - zeros) * scales)
            if not (zeros == middle).all():
                raise ModelLoadError(f"{self.label}: it is called symmetric, but has zero points other than {middle}")
            return GroupedRows((codes + (128 - middle) * (self.bits > 4)).to(torch.uint8), scales, None)

        return grouped

    def dequantizer(self, reader: TensorReader) -> Dequantize:
        read, places = self.integers(reader), self.group_of_columns(reader)

        def dequantize(first: int, last: int) -> torch.Tensor:
            codes, scales, zeros = read(first, last)
            if places is not None:
                return (codes - zeros[:, places]) * scales[:, places]
            num_columns = self.shape[1]
            return (codes - spread(zeros, self.group, num_columns)) * spread(scales, self.group, num_columns)

        return dequantize


def unpack(words: torch.Tensor, bits: int, num_values: int) -> torch.Tensor:
    """(n, ceil(num_values * bits / 32)) int32 -> (n, num_values) unsigned, low bits first.

    Widths that do not divide 32 run on from one word into the next.
    """
    mask = (1 << bits) - 1
    if 32 % bits == 0:
        shifts = torch.arange(0, 32, bits, dtype=torch.int32)
        values = (words.unsqueeze(2) >> shifts) & mask
        return values.view(len(words), words.shape[1] * (32 // bits))[:, :num_values]
    starts = torch.arange(num_values) * bits
    at, shift = starts // 32, starts % 32
    wide = words.long() & 0xFFFFFFFF
    following = wide[:, (at + 1).clamp_max(words.shape[1] - 1)]
    return ((wide[:, at] | (following << 32)) >> shift & mask).int()
