"""A quantised tensor of GGUF: blocks of codes with their scales, as they lie in the file."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from engine.backends.loading.formats.gguf_blocks import DECODERS, E2M1_DOUBLED, IQ4, Groups
from engine.backends.loading.safetensors_file import TensorReader
from engine.backends.loading.source import Dequantize, Group, QuantizedTensor
from engine.kernels.weight_groups import INT4, INT8, UINT4, GroupedRows, GroupLayout

LAYOUTS = {
    "Q2_K": GroupLayout(16, UINT4, has_offsets=True),
    "Q3_K": GroupLayout(16, INT4, has_offsets=False),
    "Q4_0": GroupLayout(32, INT4, has_offsets=False),
    "Q4_1": GroupLayout(32, UINT4, has_offsets=True),
    "Q4_K": GroupLayout(32, UINT4, has_offsets=True),
    "IQ4_NL": GroupLayout(32, tuple(map(float, IQ4)), has_offsets=False),
    "IQ4_XS": GroupLayout(32, tuple(map(float, IQ4)), has_offsets=False),
    "MXFP4": GroupLayout(32, tuple(map(float, E2M1_DOUBLED)), has_offsets=False),
    "Q5_0": GroupLayout(32, INT8, has_offsets=False),
    "Q5_1": GroupLayout(32, INT8, has_offsets=True),
    "Q5_K": GroupLayout(32, INT8, has_offsets=True),
    "Q6_K": GroupLayout(16, INT8, has_offsets=False),
    "Q8_0": GroupLayout(32, INT8, has_offsets=False),
}
"""In 4 bits types of at most 16 levels, in 8 the others."""


@dataclass(frozen=True, eq=False, kw_only=True)
class BlockTensor(QuantizedTensor):
    """Reads blocks of GGUF. ``parts``: blocks uint8 (N, bytes of a row)."""

    type: str
    values: int
    """Of a block."""

    def groups(self, reader: TensorReader, first: int, last: int) -> Groups:
        raw = self.read(reader, "blocks", first, last)
        found = DECODERS[self.type](raw.view(len(raw), self.shape[1] // self.values, -1))
        self.check_finite("scales", found.scales)
        return found

    @property
    def layout(self) -> GroupLayout | None:
        return LAYOUTS[self.type]

    def grouper(self, reader: TensorReader) -> Group:
        found = LAYOUTS[self.type]
        code_of = torch.zeros(256, dtype=torch.uint8)
        code_of[torch.tensor(found.levels).long()] = torch.arange(len(found.levels)).to(
            torch.uint8
        )  # negative ones from the end

        def grouped(first: int, last: int) -> GroupedRows:
            groups = self.groups(reader, first, last)
            return GroupedRows(code_of[groups.levels.long()], groups.scales, groups.offsets)

        return grouped

    def dequantizer(self, reader: TensorReader) -> Dequantize:
        return lambda first, last: self.groups(reader, first, last).numbers()
