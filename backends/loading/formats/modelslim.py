"""Ascend's msModelSlim, as vllm-ascend's users have it: int8 weights with a scale a row.

``quant_model_description.json`` names the type of each tensor. ``W8A8_DYNAMIC`` and ``W8A16``: ``X.weight`` int8
(N, K), ``X.weight_scale`` (N, 1), ``X.weight_offset`` (N, 1) of zeros: w = q scale. ``W8A8`` (static) has
``X.deq_scale`` (N,) = input_scale weight_scale in its place, for float16 models as int64 whose low half is the float32,
and ``X.quant_bias`` = round(bias / deq_scale - input_offset sum(q)). Scales of activations in the file are not used:
every token gets its own at run time, which is finer, and the weights stay what they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from engine.backends.loading.formats.scaled import SCALES
from engine.backends.loading.formats.stored import Format, Stored
from engine.backends.loading.safetensors_file import TensorInfo, TensorReader
from engine.backends.loading.source import Dequantize, Group, QuantizedTensor
from engine.errors import ModelLoadError
from engine.kernels.weight_groups import INT8, GroupedRows, GroupLayout

FLOAT, STATIC = "FLOAT", "W8A8"
SCALE_A_ROW = ("W8A8_DYNAMIC", "W8A8_MIX", "W8A16")
FACTS = ("model_quant_type", "version", "group_size", "metadata", "optional", "kv_quant_type", "kv_cache_type")
"""Keys of the description that are no names of tensors."""
ADDED = ("metadata", "optional")
"""Say that rotations or biases of norms were added, which the network would have to undo."""
OF_ACTIVATIONS = ("input_scale", "input_offset", "quant_bias", "deq_scale", "kv_cache_scale", "kv_cache_offset")
ROUNDING = 0.51
"""Of ``quant_bias``, which is a whole number."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Int8Rows(QuantizedTensor):
    """Reads int8 rows. ``parts``: weight int8 (N, K), scale and offset, a number a row."""

    @property
    def layout(self) -> GroupLayout | None:
        return GroupLayout(self.shape[1], INT8, has_offsets=False)

    def grouper(self, reader: TensorReader) -> Group:
        scales = self._positive_scales(reader)

        def grouped(first: int, last: int) -> GroupedRows:
            codes = self.read(reader, "weight", first, last)
            self.check_rows(reader, codes.float(), first, last)
            return GroupedRows((codes.int() + 128).to(torch.uint8), scales[first:last].unsqueeze(1), None)

        return grouped

    def dequantizer(self, reader: TensorReader) -> Dequantize:
        scales = self._positive_scales(reader)

        def dequantize(first: int, last: int) -> torch.Tensor:
            codes = self.read(reader, "weight", first, last).float()
            self.check_rows(reader, codes, first, last)
            return codes * scales[first:last].unsqueeze(1)

        return dequantize

    def _positive_scales(self, reader: TensorReader) -> torch.Tensor:
        scales = self.scales(reader)
        if not (scales > 0).all():
            raise ModelLoadError(f"{self.label}: its scales hold values that are not positive numbers")
        return scales

    def scales(self, reader: TensorReader) -> torch.Tensor:
        """(N,) fp32."""
        return self.read_scales(reader, "scale").reshape(self.shape[0])

    def check_rows(self, reader: TensorReader, codes: torch.Tensor, first: int, last: int) -> None:
        """Raises ``ModelLoadError`` for zero points: tools disagree on whether they are added or subtracted."""
        if "offset" in self.parts and self.read(reader, "offset", first, last).any():
            raise ModelLoadError(
                f"{self.label}: its weight_offset holds zero points, whose sign is not documented; quantise it with "
                "symmetric weights, or use the original checkpoint"
            )


@dataclass(frozen=True, eq=False, kw_only=True)
class StaticRows(Int8Rows):
    """Reads static W8A8.

    ``parts``: weight int8 (N, K), deq_scale (N,), input_scale and input_offset (1,), quant_bias int32 (N,).
    """

    has_bias: bool
    """The bias is stored beside; then nothing has to be in ``quant_bias`` alone."""

    def scales(self, reader: TensorReader) -> torch.Tensor:
        stored = self.read(reader, "deq_scale")
        if stored.dtype == torch.int64:
            stored = stored.to(torch.int32).view(torch.float32)  # the low half, bit by bit
        wide = self.check_finite("deq_scale", stored.float())
        return wide / self.read_scales(reader, "input_scale").reshape(1)

    def check_rows(self, reader: TensorReader, codes: torch.Tensor, first: int, last: int) -> None:
        """Raises ``ModelLoadError`` where ``quant_bias`` holds a bias that is stored nowhere else."""
        if self.has_bias:
            return
        offset = self.read_scales(reader, "input_offset").reshape(1)
        inside = self.read(reader, "quant_bias", first, last).double() + offset.double() * codes.double().sum(1)
        if (inside.abs() > ROUNDING).any():
            raise ModelLoadError(
                f"{self.label}: its bias is stored in quant_bias alone, rounded; use a checkpoint that also stores "
                "the bias (newer msModelSlim), W8A8_DYNAMIC, or the original one"
            )


def read(stored: Stored) -> Format:
    """Takes the quantised modules. Raises ``ModelLoadError`` for types other than those above."""
    types = _types(stored)
    for module, kind in types.items():
        if kind == STATIC:
            _take_static(stored, module)
        else:
            _take_scaled(stored, module)
    stored.drop(*(f".{ending}" for ending in OF_ACTIVATIONS))
    words = ", ".join(dict.fromkeys(types.values()))
    return Format(f"msModelSlim {words}, 8 bits, a scale a row", "w8a8")


def _types(stored: Stored) -> dict[str, str]:
    """Module -> type, of all that are quantised."""
    settings = stored.settings
    for key in ADDED:
        if settings.get(key):
            raise stored.refuse(f"quantised by msModelSlim with {key} {settings[key]!r}")
    types: dict[str, str] = {}
    for name, kind in settings.items():
        if name in FACTS or not name.endswith(".weight") or kind == FLOAT:
            continue
        if kind != STATIC and kind not in SCALE_A_ROW:
            raise stored.refuse(f"quantised by msModelSlim as {kind!r} ({name})")
        types[name.removeprefix(stored.prefix).removesuffix(".weight")] = kind
    if not types:
        raise stored.broken("its quant_model_description names no quantised weight")
    return types


def _common(stored: Stored, module: str) -> tuple[TensorInfo, dict[str, Any]]:
    weight = stored.matrix(module, "weight", torch.int8)
    return weight, {"label": stored.label(module), "shape": (weight.shape[0], weight.shape[1])}


def _take_scaled(stored: Stored, module: str) -> None:
    weight, about = _common(stored, module)
    parts = {"weight": weight, "scale": stored.need(module, "weight_scale", (weight.shape[0], 1), *SCALES)}
    if f"{module}.weight_offset" in stored.left:
        parts["offset"] = stored.need(module, "weight_offset", (weight.shape[0], 1))
    stored.put(module, Int8Rows(parts=parts, **about))


def _take_static(stored: Stored, module: str) -> None:
    weight, about = _common(stored, module)
    rows = (weight.shape[0],)
    parts = {
        "weight": weight,
        "deq_scale": stored.need(module, "deq_scale", rows, torch.float32, torch.int64),
        "input_scale": stored.need(module, "input_scale", (1,), *SCALES),
        "input_offset": stored.need(module, "input_offset", (1,), *SCALES, torch.int8, torch.int32),
        "quant_bias": stored.need(module, "quant_bias", rows, torch.int32),
    }
    stored.put(module, StaticRows(parts=parts, has_bias=f"{module}.bias" in stored.left, **about))
