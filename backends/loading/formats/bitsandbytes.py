"""bitsandbytes: nf4 and fp4 with a table in the file, and int8 with a scale a row.

4 bits: ``X.weight`` is the flattened matrix, the first of two values in the high nibble; ``X.weight.absmax`` has a
number for each block of 64, itself perhaps quantised ("double quant"); ``X.weight.quant_state.bitsandbytes__nf4`` is
JSON in bytes. w = quant_map[code] absmax, with absmax = nested_quant_map[byte] nested_absmax + nested_offset. 8 bits: w
= q SCB / 127.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import Any

import torch

from engine.backends.loading.formats import scaled
from engine.backends.loading.formats.stored import Format, Stored
from engine.backends.loading.safetensors_file import TensorInfo, TensorReader
from engine.backends.loading.source import Dequantize, Group, QuantizedTensor
from engine.kernels.weight_groups import GroupedRows, GroupLayout

KINDS = ("nf4", "fp4")
MAX_STATE_BYTES = 4096


@dataclass(frozen=True, eq=False, kw_only=True)
class FourBitTensor(QuantizedTensor):
    """Reads 4-bit weights. ``parts``: codes uint8 (N, K/2), absmax (N, K/block), and with double quant those of the
    absmax.
    """

    block: int
    levels: tuple[float, ...]
    """The file's table, by code."""
    nested_block: int
    nested_offset: float

    def absmax(self, reader: TensorReader) -> torch.Tensor:
        """(N, K/block) fp32."""
        found = self.read(reader, "absmax")
        if "nested_absmax" in self.parts:
            table, outer = self.read(reader, "nested_quant_map").float(), self.read(reader, "nested_absmax").float()
            flat = table[found.reshape(-1).int()]
            flat = flat * outer.repeat_interleave(self.nested_block)[: len(flat)] + self.nested_offset
            found = flat.view(found.shape)
        return self.check_finite("absmax", found.float())

    def codes(self, reader: TensorReader, first: int, last: int) -> torch.Tensor:
        """(n, K), one a byte."""
        packed = self.read(reader, "codes", first, last)
        return torch.stack([packed >> 4, packed & 15], dim=2).view(len(packed), -1)

    @property
    def layout(self) -> GroupLayout | None:
        return GroupLayout(self.block, self.levels, has_offsets=False)

    def grouper(self, reader: TensorReader) -> Group:
        absmax = self.absmax(reader)
        return lambda first, last: GroupedRows(self.codes(reader, first, last), absmax[first:last], None)

    def dequantizer(self, reader: TensorReader) -> Dequantize:
        absmax, table = self.absmax(reader), torch.tensor(self.levels)

        def dequantize(first: int, last: int) -> torch.Tensor:
            return table[self.codes(reader, first, last).int()] * absmax[first:last].repeat_interleave(
                self.block, dim=1
            )

        return dequantize


def read(stored: Stored) -> Format:
    """Take the quantised modules."""
    settings = stored.settings
    four, eight = (settings.get(f"load_in_{n}bit") or settings.get(f"_load_in_{n}bit") for n in (4, 8))
    if not (four or eight):
        raise stored.refuse("quantised with bitsandbytes to neither 4 nor 8 bits")
    if four:
        for module in stored.modules("weight.absmax"):
            _take_four(stored, module)
        return Format(f"bitsandbytes {settings.get('bnb_4bit_quant_type', 'fp4')}, 4 bits")
    for module in stored.modules("SCB"):
        weight = stored.matrix(module, "weight", torch.int8)
        scaled.take(stored, module, weight, "SCB", divisor=127.0)
        layout = stored.take(f"{module}.weight_format")
        if layout is not None and stored.values(f"{module}.weight_format", layout) != [0]:
            raise stored.refuse(f"quantised with bitsandbytes, with the weights of {module} in a layout of one GPU")
    return Format("bitsandbytes int8, a scale a row", "w8a8")


def _take_four(stored: Stored, module: str) -> None:
    kind = next((k for k in KINDS if f"{module}.weight.quant_state.bitsandbytes__{k}" in stored.left), None)
    if kind is None:
        raise stored.broken(f"it holds {module} in 4 bits, but no {module}.weight.quant_state to read it with")
    name = f"weight.quant_state.bitsandbytes__{kind}"
    state = _state(stored, f"{module}.{name}", stored.need(module, name, None, torch.uint8))
    shape: Any = state.get("shape")
    block: Any = state.get("blocksize")
    if not (isinstance(shape, list) and len(shape) == 2 and all(_is_count(side) for side in (*shape, block))):
        raise stored.broken(f"{module}.{name} gives no shape and block size: {shape!r}, {block!r}")
    num_rows, num_columns = shape
    if num_columns % block or num_columns % 2:
        raise stored.refuse(f"quantised with bitsandbytes in blocks of {block}, across the rows of {module}")
    codes = _viewed(stored, f"{module}.weight", stored.need(module, "weight"), (num_rows, num_columns // 2))
    absmax = stored.need(module, "weight.absmax", None, torch.uint8, torch.float32)
    num_blocks = num_rows * num_columns // block
    if math.prod(absmax.shape) != num_blocks:
        raise stored.broken(f"{module}.weight.absmax has {math.prod(absmax.shape)} values; expected {num_blocks}")
    parts = {"codes": codes, "absmax": replace(absmax, shape=(num_rows, num_columns // block))}
    with TensorReader() as reader:
        table = stored.need(module, "weight.quant_map", (16,), torch.float32)
        levels = tuple(level for _, run in table.rows(reader) for level in run.tolist())
    nested, offset = 1, 0.0
    if absmax.dtype == torch.uint8:
        nested, offset = _nested(stored, f"{module}.{name}", state)
        nested = min(nested, num_blocks)
        parts["nested_absmax"] = stored.need(module, "weight.nested_absmax", (-(-num_blocks // nested),), torch.float32)
        parts["nested_quant_map"] = stored.need(module, "weight.nested_quant_map", (256,), torch.float32)
    stored.put(
        module,
        FourBitTensor(
            label=stored.label(module),
            shape=(num_rows, num_columns),
            parts=parts,
            block=block,
            levels=levels,
            nested_block=nested,
            nested_offset=offset,
        ),
    )


def _nested(stored: Stored, name: str, state: dict[str, Any]) -> tuple[int, float]:
    """Scales that share a scale of their own, and what is added to all of them."""
    size: Any = state.get("nested_blocksize")
    offset: Any = state.get("nested_offset", 0.0)
    if not _is_count(size) or not isinstance(offset, int | float):
        raise stored.broken(f"{name} gives no nested_blocksize and nested_offset")
    return size, float(offset)


def _state(stored: Stored, name: str, info: TensorInfo) -> dict[str, Any]:
    try:
        state = json.loads(bytes(stored.values(name, info, MAX_STATE_BYTES)))
    except (ValueError, RecursionError) as error:
        raise stored.broken(f"{name} is not valid JSON ({error})") from error
    if not isinstance(state, dict):
        raise stored.broken(f"{name} is no JSON object")
    return state


def _viewed(stored: Stored, name: str, info: TensorInfo, shape: tuple[int, int]) -> TensorInfo:
    """The same bytes as uint8 of another shape, whatever type they were stored in."""
    if info.num_bytes != math.prod(shape):
        raise stored.broken(f"{name} has {info.num_bytes} bytes; expected {math.prod(shape)}")
    return replace(info, dtype=torch.uint8, shape=shape)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
