"""Weights whose 8-bit values stand each for themselves times a scale: one for all, a row, a group or a block.

w[n, k] = (q[n, k] - z) s[n / rows, k / columns]. Half a dozen formats end here: they differ in names and shapes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from engine.backends.loading.formats.stored import Stored
from engine.backends.loading.safetensors_file import TensorInfo, TensorReader
from engine.backends.loading.source import Dequantize, Group, QuantizedTensor
from engine.errors import ModelLoadError
from engine.kernels.weight_groups import INT8, GroupedRows, GroupLayout

FP8 = torch.float8_e4m3fn
E8M0 = torch.float8_e8m0fnu
SCALES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, eq=False, kw_only=True)
class ScaledTensor(QuantizedTensor):
    """Reads scaled weights. ``parts``: weight, scale and perhaps zero points, of the scale's shape."""

    block: tuple[int, int]
    """Rows and columns that share a scale."""
    divisor: float = 1.0
    """Of the products: bitsandbytes stores the largest value of a row as its scale."""

    @property
    def layout(self) -> GroupLayout | None:
        if self.parts["weight"].dtype != torch.int8:
            return None
        return GroupLayout(self.block[1], INT8, has_offsets="zero" in self.parts)

    def grouper(self, reader: TensorReader) -> Group:
        scales, zeros = self.scales(reader)
        scales = scales / self.divisor

        def grouped(first: int, last: int) -> GroupedRows:
            codes = (self.read(reader, "weight", first, last).int() + 128).to(torch.uint8)
            places = torch.arange(first, last) // self.block[0]
            offsets = None if zeros is None else -zeros[places] * scales[places]
            return GroupedRows(codes, scales[places], offsets)

        return grouped

    def scales(self, reader: TensorReader) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(blocks of rows, blocks of columns) fp32, and the zero points in the same shape.

        Raises ``ModelLoadError`` for scales that are not positive numbers.
        """
        scales = as_numbers(self.read(reader, "scale")).reshape(self._num_blocks)
        if not (torch.isfinite(scales) & (scales > 0)).all():
            raise ModelLoadError(f"{self.label}: its scales hold values that are not positive numbers")
        zeros = self.read(reader, "zero").float().reshape(self._num_blocks) if "zero" in self.parts else None
        return scales, zeros

    def dequantizer(self, reader: TensorReader) -> Dequantize:
        scales, zeros = self.scales(reader)

        def dequantize(first: int, last: int) -> torch.Tensor:
            wide = self.read(reader, "weight", first, last).float()
            places = torch.arange(first, last) // self.block[0]
            if zeros is not None:
                wide -= self._over_columns(zeros[places])
            wide *= self._over_columns(scales[places])
            if self.divisor != 1:
                wide *= 1 / self.divisor
            if self.parts["weight"].dtype.is_floating_point:
                self.check_finite("weights", wide)
            return wide

        return dequantize

    @property
    def _num_blocks(self) -> tuple[int, int]:
        return -(-self.shape[0] // self.block[0]), -(-self.shape[1] // self.block[1])

    def _over_columns(self, values: torch.Tensor) -> torch.Tensor:
        """(n, blocks) -> (n, K), or (n, 1) where a row has one."""
        if values.shape[1] == 1:
            return values
        return values.repeat_interleave(self.block[1], dim=1)[:, : self.shape[1]]


def as_numbers(scales: torch.Tensor) -> torch.Tensor:
    """fp32; exponents in a byte (E8M0) stand for 2^(byte - 127), 255 for NaN."""
    if scales.dtype == torch.uint8:
        scales = scales.view(E8M0)
    return scales.float()


def take(
    stored: Stored,
    module: str,
    weight: TensorInfo,
    scale_name: str,
    *,
    block: tuple[int, int] | None = None,
    zero_name: str | None = None,
    divisor: float = 1.0,
) -> ScaledTensor:
    """``block`` None: one scale, or one a row, as the shape says."""
    num_rows, num_columns = weight.shape
    exponents = (E8M0, torch.uint8, FP8) if block is not None else ()
    scale = stored.need(module, scale_name, None, *SCALES, *exponents)
    if block is None:
        if scale.shape not in ((), (1,), (1, 1), (num_rows,), (num_rows, 1)):
            raise stored.broken(f"{module}.{scale_name} has the shape {scale.shape}; expected one number, or one a row")
        block = (1 if scale.shape and scale.shape[0] == num_rows else num_rows, num_columns)
    else:
        block = block[0], num_columns if block[1] == -1 else block[1]
        if min(block) <= 0:
            raise stored.broken(f"blocks of {block[0]} x {block[1]} are impossible for {module}")
        block = min(block[0], num_rows), min(block[1], num_columns)
        expected = (-(-num_rows // block[0]), -(-num_columns // block[1]))
        if scale.shape != expected:
            raise stored.broken(f"{module}.{scale_name} has the shape {scale.shape}; expected {expected}")
    parts = {"weight": weight, "scale": scale}
    if zero_name is not None:
        parts["zero"] = stored.need(module, zero_name, scale.shape)
    tensor = ScaledTensor(
        label=stored.label(module), shape=(num_rows, num_columns), parts=parts, block=block, divisor=divisor
    )
    stored.put(module, tensor)
    return tensor
