"""GPTQ's layout: w[n, k] = (q[k, n] - z[G, n]) s[G, n] with G = g_idx[k], stored transposed.

``X.qweight`` int32 (K bits/32, N): value k of column n at the bits ``bits * (k mod 32/bits)``, low bits first.
``X.qzeros`` int32 (groups, N bits/32), ``X.scales`` (groups, N), ``X.g_idx`` int32 (K) or absent. Version 1 stores z -
1. An asymmetric z of 0 reads back from version 1 as 2^bits, as in vLLM's kernel and llama.cpp's converter.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch

from engine.backends.loading.formats.integers import IntegerGroups, Integers, ReadIntegers, unpack
from engine.backends.loading.formats.stored import Format, Stored
from engine.backends.loading.safetensors_file import TensorReader
from engine.errors import ModelLoadError

logger = logging.getLogger(__name__)

HALVES = (torch.float16, torch.bfloat16, torch.float32)
BITS = (2, 4, 8)
ZERO_OFFSETS = {"gptq": 1, "gptq_v2": 0}


@dataclass(frozen=True, eq=False, kw_only=True)
class GptqTensor(IntegerGroups):
    zero_offset: int
    """What is added to the stored zero points."""

    def integers(self, reader: TensorReader) -> ReadIntegers:
        words, scales = self.read(reader, "qweight"), self.read_scales(reader, "scales")
        zeros = unpack(self.read(reader, "qzeros"), self.bits, self.shape[0])
        if self.zero_offset and (zeros == (1 << self.bits) - 1).any():
            logger.warning(
                "%s stores zero points that may have been 0 before GPTQ's version 1 subtracted one; they are read as "
                "%d, as other engines do.",
                self.label,
                1 << self.bits,
            )
        zeros = (zeros + self.zero_offset).float()

        def read(first: int, last: int) -> Integers:
            codes = unpack(words[:, first:last].T.contiguous(), self.bits, self.shape[1])
            return Integers(codes, scales[:, first:last].T, zeros[:, first:last].T)

        return read

    def group_of_columns(self, reader: TensorReader) -> torch.Tensor | None:
        """The group of each column, (K,).

        Raises ``ModelLoadError`` where ``g_idx`` names groups that are not stored.
        """
        if "g_idx" not in self.parts:
            return None
        places = self.read(reader, "g_idx").long()
        num_groups = self.parts["scales"].shape[0]
        if not ((places >= 0) & (places < num_groups)).all():
            raise ModelLoadError(
                f"{self.label}: its g_idx names groups that are not among the {num_groups} stored ones"
            )
        in_order = torch.equal(places, torch.arange(self.shape[1]) // self.group)
        return None if in_order else places


def read(stored: Stored) -> Format:
    """Take the quantised modules."""
    settings = stored.settings
    layout = str(settings.get("checkpoint_format") or settings.get("format") or "gptq")
    if settings.get("is_marlin_format"):
        layout = "marlin"
    if layout not in ZERO_OFFSETS:
        raise stored.refuse(f"quantised with GPTQ, format {layout!r}")
    if settings.get("pack_dtype", "int32") not in ("int32", "torch.int32"):
        raise stored.refuse(f"quantised with GPTQ, packed into {settings['pack_dtype']}")
    bits, group = stored.count("bits"), stored.count("group_size")
    if bits not in BITS:
        raise stored.refuse(f"quantised with GPTQ to {bits} bits")
    for module in stored.modules("qweight"):
        take(stored, module, group, ZERO_OFFSETS[layout], bits=None if settings.get("dynamic") else bits)
    order = ", in act order" if settings.get("desc_act") else ""
    return Format(f"GPTQ ({layout}), {bits} bits in groups of {group}{order}")


def take(stored: Stored, module: str, group: int, zero_offset: int, *, bits: int | None) -> None:
    """``bits`` None: they differ from module to module, and are seen from the shapes."""
    qweight = stored.matrix(module, "qweight", torch.int32)
    num_rows = qweight.shape[1]
    qzeros = stored.matrix(module, "qzeros", torch.int32)
    found = 32 * qzeros.shape[1] // num_rows
    if bits is not None and found != bits:
        raise stored.broken(f"{module}.qzeros has the shape {qzeros.shape}, which is not that of {bits} bits")
    if found not in BITS or qzeros.shape[1] * 32 != num_rows * found:
        raise stored.refuse(f"quantised with GPTQ to {found} bits in {module}")
    num_columns = qweight.shape[0] * 32 // found
    size, num_groups = stored.groups(module, num_columns, group)
    if bits is None:  # the group may differ as well
        num_groups = qzeros.shape[0]
        size = -(-num_columns // num_groups)
    if qzeros.shape[0] != num_groups:
        raise stored.broken(f"{module}.qzeros has {qzeros.shape[0]} rows; expected {num_groups} groups of {size}")
    parts = {"qweight": qweight, "qzeros": qzeros}
    parts["scales"] = stored.need(module, "scales", (num_groups, num_rows), *HALVES)
    in_order = True
    if f"{module}.g_idx" in stored.left:
        info = parts["g_idx"] = stored.need(module, "g_idx", (num_columns,), torch.int32, torch.int64)
        places = stored.values(f"{module}.g_idx", info, most=num_columns)
        in_order = all(place == column // size for column, place in enumerate(places))
    elif stored.settings.get("desc_act") and num_groups > 1:
        raise stored.broken(f"its groups are in act order (desc_act), but no {module}.g_idx says which column is where")
    shape = (num_rows, num_columns)
    stored.put(
        module,
        GptqTensor(
            label=stored.label(module),
            shape=shape,
            parts=parts,
            bits=found,
            group=size,
            zero_offset=zero_offset,
            symmetric=bool(stored.settings.get("sym")),
            in_order=in_order,
        ),
    )
