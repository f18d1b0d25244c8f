"""Weights of 4 or 8 bits in groups along K: w[n, k] = scale[n, k/g] * level[code[n, k]] + offset[n, k/g].

The one form in which devices keep such weights in memory. Formats differ in their levels (0 to 15, -8 to 7, a 4-bit
float's, nf4's; in 8 bits always -128 to 127), in the size of a group, and in whether there are offsets.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

import torch

INT4 = tuple(float(level) for level in range(-8, 8))
"""Levels of codes 0 to 15 in symmetric integer formats."""
UINT4 = tuple(float(level) for level in range(16))
INT8 = tuple(float(level) for level in range(-128, 128))
"""Levels of codes 0 to 255: all integers of more than 4 bits are kept as these."""
_WHOLE = frozenset(INT8)
SHRINKS = (1.0, 0.96, 0.92, 0.88, 0.84, 0.8)
"""Scales that are tried, as shares of the one that reaches the largest value of a group."""


@dataclass(frozen=True)
class GroupLayout:
    """The layout that all rows of a weight have in common."""

    group: int
    """Columns that share a scale; the number of columns, or more: the whole row."""
    levels: tuple[float, ...]
    """Of the 16 codes, or ``INT8``."""
    has_offsets: bool

    @property
    def bits(self) -> int:
        return 8 if len(self.levels) > 16 else 4

    def num_groups(self, num_columns: int) -> int:
        return -(-num_columns // self.group)

    def splits(self, columns: range, num_columns: int) -> bool:
        """Whether some of the columns of rows are whole groups."""
        whole = columns.start % self.group == 0 and len(columns) % self.group == 0
        return whole or self.num_groups(num_columns) == 1


def common_layout(layouts: Collection[GroupLayout], num_columns: int) -> GroupLayout | None:
    """The layout that all of these can be brought to without a change of values; None where there is none.

    Files that give each tensor a type of its own (GGUF) have several in one fused weight.
    """
    if len(layouts) == 1:
        return next(iter(layouts))
    if not all(level in _WHOLE for layout in layouts for level in layout.levels):
        return None
    sizes = {min(layout.group, num_columns) for layout in layouts}
    return GroupLayout(math.gcd(*sizes), INT8, any(layout.has_offsets for layout in layouts))


MADE = GroupLayout(64, INT4, has_offsets=False)
"""What ``--quantization int4`` makes of weights while they are loaded."""


class GroupedRows(NamedTuple):
    """n rows, on the CPU; those that ``quantize_rows`` makes, where their values were."""

    codes: torch.Tensor
    """(n, K) uint8, one code each."""
    scales: torch.Tensor
    """(n, G) fp32."""
    offsets: torch.Tensor | None
    """(n, G) fp32."""

    def part(self, rows: slice) -> GroupedRows:
        """Some of them."""
        return GroupedRows(self.codes[rows], self.scales[rows], None if self.offsets is None else self.offsets[rows])

    def picked(self, rows: torch.Tensor) -> GroupedRows:
        """Those with these numbers."""
        return GroupedRows(self.codes[rows], self.scales[rows], None if self.offsets is None else self.offsets[rows])

    def brought_to(self, common: GroupLayout, own: GroupLayout) -> GroupedRows:
        """The same numbers in a layout of ``common_layout``; ``own`` is theirs."""
        if common == own:
            return self
        code_of = (torch.tensor(own.levels) + 128).to(torch.uint8)
        num_columns = self.codes.shape[1]

        def finer(values: torch.Tensor) -> torch.Tensor:
            times = max(1, min(own.group, num_columns) // common.group)
            return values.repeat_interleave(times, 1)[:, : common.num_groups(num_columns)].contiguous()

        scales = finer(self.scales)
        offsets = None if self.offsets is None else finer(self.offsets)
        if common.has_offsets and offsets is None:
            offsets = torch.zeros_like(scales)
        return GroupedRows(code_of[self.codes.int()], scales, offsets)

    def dequantized(self, layout: GroupLayout) -> torch.Tensor:
        """(n, K) fp32."""
        num_columns = self.codes.shape[1]
        wide = torch.tensor(layout.levels)[self.codes.int()] * _spread(self.scales, layout.group, num_columns)
        return wide if self.offsets is None else wide + _spread(self.offsets, layout.group, num_columns)


def _spread(values: torch.Tensor, group: int, num_columns: int) -> torch.Tensor:
    return values.repeat_interleave(group, dim=1)[:, :num_columns] if values.shape[1] > 1 else values


def quantize_rows(rows: torch.Tensor, group: int) -> GroupedRows:
    """Rows (n, K) to symmetric 4 bits: of a few scales for each group the one with the least squared error."""
    n, num_columns = rows.shape
    grouped = torch.nn.functional.pad(rows.float(), (0, -num_columns % group)).view(n, -1, group)
    # The largest value is brought to -8, which only one sign can use.
    largest = grouped.abs().argmax(2, keepdim=True)
    full = grouped.gather(2, largest) / -8
    best = torch.full_like(full, torch.inf)
    scales, codes = torch.zeros_like(full), torch.full_like(grouped, 8, dtype=torch.uint8)
    for shrink in SHRINKS:
        scale = (full * shrink).to(torch.float16).float()
        found = (grouped / torch.where(scale == 0, 1, scale)).round_().clamp_(-8, 7)
        error = (found * scale - grouped).square_().sum(2, keepdim=True)
        better = error < best
        best, scales = torch.where(better, error, best), torch.where(better, scale, scales)
        codes = torch.where(better, (found + 8).to(torch.uint8), codes)
    return GroupedRows(codes.flatten(1)[:, :num_columns].contiguous(), scales.squeeze(2), None)
