"""AutoAWQ's "gemm" layout: w[n, k] = (q[k, n] - z[k / g, n]) s[k / g, n], stored transposed, eight nibbles a word.

``X.qweight`` int32 (K, N/8), ``X.qzeros`` int32 (K/g, N/8), ``X.scales`` (K/g, N). Column 8c + j of a row is nibble
0, 4, 1, 5, 2, 6, 3, 7 [j] of word c (``awq/utils/packing_utils.py`` of AutoAWQ).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from engine.backends.loading.formats.integers import IntegerGroups, Integers, ReadIntegers
from engine.backends.loading.formats.stored import Format, Stored
from engine.backends.loading.safetensors_file import TensorReader

NIBBLES = (0, 4, 1, 5, 2, 6, 3, 7)
WITHOUT_ZEROS = 8.0
HALVES = (torch.float16, torch.bfloat16, torch.float32)


@dataclass(frozen=True, eq=False, kw_only=True)
class AwqTensor(IntegerGroups):
    def integers(self, reader: TensorReader) -> ReadIntegers:
        words, scales = self.read(reader, "qweight"), self.read_scales(reader, "scales")
        zeros = torch.full_like(scales, WITHOUT_ZEROS)
        if "qzeros" in self.parts:
            zeros = unpack_words(self.read(reader, "qzeros")).float()

        def read(first: int, last: int) -> Integers:
            word = first // 8
            codes = unpack_words(words[:, word : -(-last // 8)])[:, first - 8 * word : last - 8 * word]
            return Integers(codes.T.contiguous(), scales[:, first:last].T, zeros[:, first:last].T)

        return read


def unpack_words(words: torch.Tensor) -> torch.Tensor:
    """(R, C) int32 -> (R, 8C) nibbles in the order of the columns."""
    shifts = torch.tensor([4 * nibble for nibble in NIBBLES], dtype=torch.int32)
    return ((words.unsqueeze(2) >> shifts) & 15).view(len(words), -1)


def read(stored: Stored) -> Format:
    """Take the quantised modules."""
    settings = stored.settings
    version = str(settings.get("version") or settings.get("format") or "gemm").lower()
    if version != "gemm":
        raise stored.refuse(f"quantised with AWQ, version {version!r}")
    bits, group = stored.count("bits", "w_bit"), stored.count("group_size", "q_group_size")
    if bits != 4:
        raise stored.refuse(f"quantised with AWQ to {bits} bits")
    has_zeros = stored.setting("zero_point", True, False, default=True)
    for module in stored.modules("qweight"):
        take(stored, module, group, has_zeros=has_zeros)
    return Format(f"AWQ, 4 bits in groups of {group}")


def take(stored: Stored, module: str, group: int, *, has_zeros: bool = True) -> None:
    qweight = stored.matrix(module, "qweight", torch.int32)
    num_columns, num_words = qweight.shape
    size, num_groups = stored.groups(module, num_columns, group)
    parts = {"qweight": qweight, "scales": stored.need(module, "scales", (num_groups, 8 * num_words), *HALVES)}
    if has_zeros or f"{module}.qzeros" in stored.left:
        parts["qzeros"] = stored.need(module, "qzeros", (num_groups, num_words), torch.int32)
    shape = (8 * num_words, num_columns)
    stored.put(
        module,
        AwqTensor(
            label=stored.label(module), shape=shape, parts=parts, bits=4, group=size, symmetric="qzeros" not in parts
        ),
    )
