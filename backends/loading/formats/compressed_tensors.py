"""Checkpoints of llm-compressor ("compressed-tensors"): integers of 1 to 8 bits, int8, fp8, NVFP4, MXFP4 and MXFP8.

Which modules are quantised is seen from their tensors; the scheme of each (bits, groups, zero points) from the group of
``config_groups`` whose targets name it. Scales of activations in the file are not used: every token gets its own at run
time, which is finer. A backend that computes in 8 bits quantises again what has a scale a row, which gives back the
very same values where the scale is that of the row's largest element, as llm-compressor chooses it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from engine.backends.loading.formats import fp4, scaled
from engine.backends.loading.formats.integers import IntegerGroups, Integers, ReadIntegers, unpack
from engine.backends.loading.formats.stored import Format, Stored
from engine.backends.loading.safetensors_file import TensorInfo, TensorReader

UNUSED = (
    ".input_scale",
    ".input_zero_point",
    ".input_global_scale",
    ".output_scale",
    ".k_scale",
    ".v_scale",
    ".q_scale",
)
EIGHT_BITS = {"float": (scaled.FP8, "fp8"), "int": (torch.int8, "w8a8")}
"""Type of a scheme -> (dtype in the file, the run-time format of the same kind)."""
PER_ROW = ("channel", "tensor")


@dataclass(frozen=True)
class Scheme:
    """The settings of a group of ``config_groups`` for its weights."""

    format: str
    bits: int
    kind: str
    strategy: str
    symmetric: bool
    group: int
    block: tuple[int, int] | None
    by_index: bool
    """Groups are not runs of columns: ``weight_g_idx`` says which column is in which."""
    targets: tuple[str, ...]

    def names(self, module: str, full: str) -> bool:
        for target in self.targets:
            if target.startswith("re:"):
                if re.match(target[3:], full) or re.match(target[3:], module):
                    return True
            elif target in (module, full):
                return True
        return False

    @property
    def words(self) -> str:
        parts = {"group": f" in groups of {self.group}", "tensor_group": f" in groups of {self.group}"}
        parts |= {"channel": ", a scale a row", "tensor": ", a scale a tensor"}
        parts |= {"block": f" in blocks of {self.block[0]} x {self.block[1]}" if self.block else ""}
        return f"{self.format}, {self.bits} bits{parts.get(self.strategy, '')}"


def read(stored: Stored) -> Format:
    """Take the quantised modules."""
    settings = stored.settings
    if (settings.get("sparsity_config") or {}).get("format", "dense") != "dense":
        raise stored.refuse("sparse")
    if (settings.get("transform_config") or {}).get("config_groups"):
        raise stored.refuse("rotated (transform_config)")
    groups = [_scheme(stored, group) for group in (settings.get("config_groups") or {}).values()]
    if not groups:
        raise stored.refuse(f"quantised with {settings.get('quant_method')!r}, but without config_groups")
    stored.drop(*UNUSED)
    for module in stored.modules("weight_packed"):
        _take_packed(stored, module, _scheme_of(stored, groups, module))
    for module in stored.modules("weight_scale"):
        _take_scaled(stored, module, _scheme_of(stored, groups, module))
    _check_none_is_bare(stored)
    words = "; ".join(dict.fromkeys(group.words for group in groups))
    return Format(f"compressed-tensors {words}", _runs_in(groups))


def _runs_in(groups: list[Scheme]) -> str | None:
    kinds = {EIGHT_BITS[group.kind][1] if _has_a_scale_a_row(group) else None for group in groups}
    return kinds.pop() if len(kinds) == 1 else None


def _has_a_scale_a_row(group: Scheme) -> bool:
    return group.bits == 8 and group.strategy in PER_ROW and group.symmetric and group.format != "pack-quantized"


def _scheme(stored: Stored, group: Mapping[str, Any]) -> Scheme:
    layout = group.get("format") or stored.settings.get("format")
    weights = group.get("weights") or {}
    block = weights.get("block_structure")
    if isinstance(block, str):  # "128x128" in old files
        block = [int(size) for size in re.findall(r"\d+", block)]
    scheme = Scheme(
        format=str(layout),
        bits=weights.get("num_bits") or 0,
        kind=str(weights.get("type", "int")),
        strategy=str(weights.get("strategy") or ("tensor" if not weights.get("group_size") else "group")),
        symmetric=weights.get("symmetric", True) is not False,
        group=weights.get("group_size") or -1,
        block=(block[0], block[1]) if isinstance(block, list) and len(block) == 2 else None,
        by_index=weights.get("actorder") == "group",
        targets=tuple(group.get("targets") or ()),
    )
    if not _is_known(scheme):
        raise stored.refuse(
            f"quantised with {stored.settings.get('quant_method')!r}, format {layout!r}, weights of (bits, type, "
            f"strategy, symmetric) {(scheme.bits, scheme.kind, scheme.strategy, scheme.symmetric)}"
        )
    return scheme


def _is_known(scheme: Scheme) -> bool:
    eight = scheme.bits == 8 and scheme.kind in EIGHT_BITS
    along_rows = scheme.strategy in (*PER_ROW, "group", "tensor_group")
    if scheme.format == "pack-quantized":
        return scheme.kind == "int" and isinstance(scheme.bits, int) and 1 <= scheme.bits <= 8 and along_rows
    if scheme.format in ("int-quantized", "float-quantized", "naive-quantized"):
        named = scheme.format.removesuffix("-quantized")
        narrow_integers = scheme.kind == "int" and isinstance(scheme.bits, int) and 1 <= scheme.bits <= 8  # a byte each
        if not (eight or narrow_integers) or named not in ("naive", scheme.kind):
            return False
        return along_rows or (scheme.strategy == "block" and scheme.block is not None)
    float4 = scheme.kind == "float" and scheme.bits == 4 and scheme.symmetric
    if scheme.format == "nvfp4-pack-quantized":
        return float4 and scheme.group in (16, -1)
    if scheme.format == "mxfp4-pack-quantized":
        return float4 and scheme.group in (32, -1)
    return scheme.format == "mxfp8-quantized" and eight and scheme.kind == "float" and scheme.symmetric


def _scheme_of(stored: Stored, groups: list[Scheme], module: str) -> Scheme:
    """The group that names the module; else the only one, or the one for the class Linear."""
    named = [group for group in groups if group.names(module, stored.prefix + module)]
    if named:
        return named[0]
    by_class = [group for group in groups if "Linear" in group.targets] or groups
    if len(by_class) > 1:
        raise stored.broken(f"none of its config_groups names the quantised module {module}")
    return by_class[0]


@dataclass(frozen=True, eq=False, kw_only=True)
class PackedTensor(IntegerGroups):
    """``weight_packed`` int32 (N, ceil(K bits / 32)), values as q + 2^(bits - 1), low bits first."""

    def integers(self, reader: TensorReader) -> ReadIntegers:
        num_rows, num_columns = self.shape
        half = 1 << (self.bits - 1)
        zeros = None
        if "zeros" in self.parts:
            stored = self.read(reader, "zeros")
            # Packed like the weights, but along the rows; files of old versions have them as they are.
            packed = stored.dtype == torch.int32
            zeros = unpack(stored.T.contiguous(), self.bits, num_rows).T if packed else stored.int() + half

        def read(first: int, last: int) -> Integers:
            codes = unpack(self.read(reader, "codes", first, last), self.bits, num_columns)
            scales = self.read_scales(reader, "scales", first, last).reshape(last - first, -1)
            found = torch.full_like(scales, half) if zeros is None else zeros[first:last].float()
            return Integers(codes, scales, found)

        return read

    def group_of_columns(self, reader: TensorReader) -> torch.Tensor | None:
        if "group_of_columns" not in self.parts:
            return None
        places = self.read(reader, "group_of_columns").long()
        self.check_finite("weight_g_idx", torch.where((places >= 0) & (places < self._num_groups), 0.0, torch.nan))
        return places

    @property
    def _num_groups(self) -> int:
        return self.parts["scales"].shape[1]


def _take_packed(stored: Stored, module: str, scheme: Scheme) -> None:
    if scheme.format == "nvfp4-pack-quantized":
        fp4.take(stored, module, "weight_packed", group=16, global_name="weight_global_scale", divides=True)
        return
    if scheme.format == "mxfp4-pack-quantized":
        fp4.take(stored, module, "weight_packed", group=32)
        return
    if scheme.format != "pack-quantized":
        raise stored.broken(f"{module} is packed, which its format {scheme.format!r} does not do")
    codes = stored.matrix(module, "weight_packed", torch.int32)
    shape = stored.values(f"{module}.weight_shape", stored.need(module, "weight_shape"))
    if len(shape) != 2 or shape[0] != codes.shape[0] or codes.shape[1] != -(-shape[1] * scheme.bits // 32):
        raise stored.broken(
            f"{module}.weight_packed has the shape {codes.shape}, which {scheme.bits} bits of {shape} are not"
        )
    num_rows, num_columns = shape
    group = num_columns if scheme.strategy in PER_ROW else scheme.group
    size, num_groups = stored.groups(module, num_columns, group)
    scales = stored.need(module, "weight_scale", None, *scaled.SCALES)
    if scales.shape != (num_rows, num_groups) and not (num_groups == 1 and scales.shape == (num_rows,)):
        raise stored.broken(f"{module}.weight_scale has the shape {scales.shape}; expected {(num_rows, num_groups)}")
    parts = {"codes": codes, "scales": scales}
    if not scheme.symmetric:
        parts["zeros"] = _zero_points(stored, module, scheme, num_rows, num_groups)
    if scheme.by_index and f"{module}.weight_g_idx" in stored.left:
        parts["group_of_columns"] = stored.need(module, "weight_g_idx", (num_columns,), torch.int32, torch.int64)
    stored.put(
        module,
        PackedTensor(
            label=stored.label(module),
            shape=(num_rows, num_columns),
            parts=parts,
            bits=scheme.bits,
            group=size,
            symmetric=scheme.symmetric,
            in_order="group_of_columns" not in parts,
        ),
    )


def _zero_points(stored: Stored, module: str, scheme: Scheme, num_rows: int, num_groups: int) -> TensorInfo:
    zeros = stored.need(module, "weight_zero_point", None, torch.int32, torch.int8)
    packed = zeros.dtype == torch.int32
    expected = (-(-num_rows * scheme.bits // 32), num_groups) if packed else (num_rows, num_groups)
    if zeros.shape != expected:
        raise stored.broken(f"{module}.weight_zero_point has the shape {zeros.shape}; expected {expected}")
    return zeros


def _take_scaled(stored: Stored, module: str, scheme: Scheme) -> None:
    if scheme.format == "mxfp8-quantized":
        weight = stored.matrix(module, "weight", scaled.FP8)
        scaled.take(stored, module, weight, "weight_scale", block=(1, 32))
        return
    if f"{module}.weight" not in stored.left or stored.left[f"{module}.weight"].dtype.itemsize != 1:
        raise stored.broken(f"it holds {module}.weight_scale, but no 8-bit weight of that name")
    weight = stored.matrix(module, "weight", EIGHT_BITS[scheme.kind][0])
    zero = None if scheme.symmetric or scheme.kind == "float" else "weight_zero_point"
    block = scheme.block if scheme.strategy == "block" else None
    if scheme.strategy in ("group", "tensor_group"):
        block = (1, scheme.group)
    scaled.take(stored, module, weight, "weight_scale", block=block, zero_name=zero)
    if scheme.symmetric:  # of no use: they are zero
        stored.drop(f"{module}.weight_zero_point")


def _check_none_is_bare(stored: Stored) -> None:
    """No weight in 8 bits is left without a scale."""
    for name, info in stored:
        if name.endswith(".weight") and info.dtype in (scaled.FP8, torch.int8) and len(info.shape) == 2:
            raise stored.broken(f"it holds {name} in 8 bits, but no {name}_scale to read it with")
