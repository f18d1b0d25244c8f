"""HQQ: w = (W_q - zero) scale with zero points that are no integers, in groups along either axis.

``X.W_q`` uint8 holds w reshaped to (-1, group) for axis 1, or to (group, -1) for axis 0; with 4 bits the first half of
these rows lies in the high nibbles and the second half in the low ones. Shape, bits and axis are small tensors beside
it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from engine.backends.loading.formats import scaled
from engine.backends.loading.formats.stored import Format, Stored
from engine.backends.loading.safetensors_file import TensorReader
from engine.backends.loading.source import Dequantize, Group, QuantizedTensor
from engine.kernels.weight_groups import INT8, UINT4, GroupedRows, GroupLayout

DETAILS = ("nbits", "group_size", "axis", "shape", "packing", "view_as_float", "unpack_view_dtype", "compute_dtype")
MORE_DETAILS = (
    "channel_wise",
    "optimize",
    "round_zero",
    "quant_scale",
    "quant_zero",
    "offload_meta",
    "encoded_state_dict",
)
NESTED = ("scale_q", "zero_q", "meta_scale", "meta_zero", "scale.W_q", "zero.W_q")


@dataclass(frozen=True, eq=False, kw_only=True)
class HqqTensor(QuantizedTensor):
    """Reads weights of HQQ. ``parts``: codes uint8, scale and zero, each one number a group."""

    bits: int
    group: int
    axis: int

    @property
    def layout(self) -> GroupLayout | None:
        if self.axis == 0:
            return None
        return GroupLayout(self.group, UINT4 if self.bits == 4 else INT8, has_offsets=True)

    def grouper(self, reader: TensorReader) -> Group:
        packed, in_row = self.read(reader, "codes"), self.shape[1] // self.group
        codes = (packed if self.bits == 8 else torch.cat([packed >> 4, packed & 15])).view(self.shape)
        middle = 128 if self.bits == 8 else 0  # the code that stands for 0
        scales = self.read_scales(reader, "scale").reshape(-1, in_row)
        zeros = self.check_finite("zero points", self.read(reader, "zero").float()).reshape(-1, in_row)
        return lambda first, last: GroupedRows(
            codes[first:last], scales[first:last], (middle - zeros[first:last]) * scales[first:last]
        )

    def dequantizer(self, reader: TensorReader) -> Dequantize:
        packed = self.read(reader, "codes")
        values = packed if self.bits == 8 else torch.cat([packed >> 4, packed & 15])
        flat = (-1, 1) if self.axis == 1 else (1, -1)
        scale = self.read_scales(reader, "scale").reshape(flat)
        zero = self.check_finite("zero points", self.read(reader, "zero").float()).reshape(flat)
        if self.axis == 0:
            whole = ((values - zero) * scale).view(self.shape)
            return lambda first, last: whole[first:last]
        in_row = self.shape[1] // self.group

        def dequantize(first: int, last: int) -> torch.Tensor:
            rows = slice(first * in_row, last * in_row)
            return ((values[rows] - zero[rows]) * scale[rows]).view(last - first, self.shape[1])

        return dequantize


def read(stored: Stored) -> Format:
    """Take the quantised modules."""
    config = stored.settings.get("quant_config") or {}
    params = config.get("weight_quant_params") or {} if isinstance(config, dict) else {}
    for module in stored.modules("W_q"):
        _take(stored, module, params if isinstance(params, dict) else {})
    return Format(f"HQQ, {params.get('nbits', 4)} bits in groups of {params.get('group_size', 64)}")


def _take(stored: Stored, module: str, params: dict[str, Any]) -> None:
    for name in NESTED:
        if f"{module}.{name}" in stored.left:
            raise stored.refuse(f"quantised with HQQ, with quantised scales ({module}.{name})")
    found = {}
    for name in DETAILS + MORE_DETAILS:
        info = stored.take(f"{module}.{name}")
        if info is not None and name in ("nbits", "group_size", "axis", "shape", "view_as_float"):
            found[name] = stored.values(f"{module}.{name}", info)
    bits, group, axis = (
        found.get(name, [params.get(name, default)])[0]
        for name, default in (("nbits", 4), ("group_size", 64), ("axis", 1))
    )
    if bits not in (4, 8) or axis not in (0, 1) or found.get("view_as_float", [0])[0]:
        raise stored.refuse(f"quantised with HQQ to {bits} bits along axis {axis} in {module}")
    shape = found.get("shape")
    if shape is None or len(shape) != 2 or min(shape) <= 0 or not isinstance(group, int) or group <= 0:
        raise stored.broken(f"{module} is quantised, but no {module}.shape and group size say how")
    if shape[1] % group or math.prod(shape) % (2 * group):
        raise stored.refuse(f"quantised with HQQ in groups of {group}, which do not fit {module} {tuple(shape)}")
    num_groups = math.prod(shape) // group
    rows, columns = (num_groups, group) if axis == 1 else (group, num_groups)
    codes = stored.need(module, "W_q", (rows * bits // 8, columns), torch.uint8)
    parts = {"codes": codes}
    for name in ("scale", "zero"):
        info = parts[name] = stored.need(module, name, None, *scaled.SCALES)
        if math.prod(info.shape) != num_groups:
            raise stored.broken(f"{module}.{name} has {math.prod(info.shape)} values; expected {num_groups}")
    stored.put(
        module,
        HqqTensor(
            label=stored.label(module), shape=(shape[0], shape[1]), parts=parts, bits=bits, group=group, axis=axis
        ),
    )
