"""4-bit floats (e2m1) with a scale for each group along K: NVFP4 and MXFP4, two values a byte, the even column low.

NVFP4: groups of 16, scales in e4m3, and one fp32 number for the tensor, which divides (compressed-tensors) or
multiplies (modelopt). MXFP4: groups of 32, and scales that are powers of two.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from engine.backends.loading.formats import scaled
from engine.backends.loading.formats.stored import Stored
from engine.backends.loading.safetensors_file import TensorReader
from engine.backends.loading.source import Dequantize, Group, QuantizedTensor, spread
from engine.kernels.weight_groups import GroupedRows, GroupLayout

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)


@dataclass(frozen=True, eq=False, kw_only=True)
class Fp4Tensor(QuantizedTensor):
    """Reads fp4 weights. ``parts``: codes uint8 (N, K/2), scale (N, K/group), and perhaps global (one number)."""

    group: int
    divides: bool = False
    """The global number divides the scales, rather than multiplying them."""

    def scales(self, reader: TensorReader, first: int, last: int) -> torch.Tensor:
        """(n, K/group) fp32, the global number included."""
        scales = scaled.as_numbers(self.read(reader, "scale", first, last))
        if "global" in self.parts:
            number = self.read(reader, "global").float()
            scales = scales / number if self.divides else scales * number
        return self.check_finite("scales", scales)

    def codes(self, reader: TensorReader, first: int, last: int) -> torch.Tensor:
        """(n, K), one a byte."""
        packed = self.read(reader, "codes", first, last)
        return torch.stack([packed & 15, packed >> 4], dim=2).view(len(packed), -1)

    @property
    def layout(self) -> GroupLayout | None:
        return GroupLayout(self.group, E2M1, has_offsets=False)

    def grouper(self, reader: TensorReader) -> Group:
        return lambda first, last: GroupedRows(self.codes(reader, first, last), self.scales(reader, first, last), None)

    def dequantizer(self, reader: TensorReader) -> Dequantize:
        levels = torch.tensor(E2M1)

        def dequantize(first: int, last: int) -> torch.Tensor:
            scales = self.scales(reader, first, last)
            return levels[self.codes(reader, first, last).int()] * spread(scales, self.group, self.shape[1])

        return dequantize


def take(
    stored: Stored, module: str, codes_name: str, *, group: int, global_name: str | None = None, divides: bool = False
) -> None:
    codes = stored.matrix(module, codes_name, torch.uint8)
    shape = codes.shape[0], 2 * codes.shape[1]
    if shape[1] % group:
        raise stored.broken(f"{module}.{codes_name} has rows of {shape[1]} values, which are no groups of {group}")
    kinds = (scaled.FP8,) if group == 16 else (torch.uint8, scaled.E8M0)
    parts = {"codes": codes, "scale": stored.need(module, "weight_scale", (shape[0], shape[1] // group), *kinds)}
    if global_name is not None:
        number = parts["global"] = stored.need(module, global_name, None, *scaled.SCALES)
        if number.shape not in ((), (1,)):
            raise stored.broken(f"{module}.{global_name} has the shape {number.shape}; expected one number")
    stored.put(module, Fp4Tensor(label=stored.label(module), shape=shape, parts=parts, group=group, divides=divides))
