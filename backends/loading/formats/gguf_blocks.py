"""The blocks of GGUF, decoded: integer levels with a scale, and perhaps an offset, for each group along K.

Every type is w = scale level + offset with integer levels of at most 8 bits. The formulas are those of
``ggml-quants.c``, in its order of operations, so that the numbers are equal to the last bit. A block begins with its
scales or ends with them; ``blocks`` is (n, number of blocks, bytes of a block) uint8 throughout.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
E2M1_DOUBLED = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)


class Groups(NamedTuple):
    """n rows."""

    levels: torch.Tensor
    """(n, K) int8."""
    scales: torch.Tensor
    """(n, K/group) fp32."""
    offsets: torch.Tensor | None
    """(n, K/group) fp32."""

    @property
    def group(self) -> int:
        return self.levels.shape[1] // self.scales.shape[1]

    def numbers(self) -> torch.Tensor:
        """(n, K) fp32."""
        n, num_groups = self.scales.shape
        grouped = self.levels.view(n, num_groups, self.group).float() * self.scales.unsqueeze(2)
        if self.offsets is not None:
            grouped += self.offsets.unsqueeze(2)
        return grouped.view(n, -1)


def _half(part: torch.Tensor) -> torch.Tensor:
    """(n, b, 2) bytes -> (n, b, 1) fp32."""
    return part.contiguous().view(torch.float16).float()


def _nibbles(qs: torch.Tensor, run: int) -> torch.Tensor:
    """Runs of ``run`` bytes: their low nibbles, then their high ones."""
    runs = qs.unflatten(2, (-1, run))
    return torch.stack([runs & 15, runs >> 4], dim=3).flatten(2)


def _bit_pairs(qs: torch.Tensor) -> torch.Tensor:
    """Runs of 32 bytes: their lowest two bits, the next two, ..."""
    runs = qs.unflatten(2, (-1, 1, 32))
    return ((runs >> torch.tensor([[0], [2], [4], [6]], dtype=torch.uint8)) & 3).flatten(2)


def _fifth_bits(qh: torch.Tensor) -> torch.Tensor:
    """(n, b, 4) -> (n, b, 32), the bits of a little-endian number, as 0 or 16."""
    return (((qh.unsqueeze(3) >> torch.arange(8, dtype=torch.uint8)) & 1) << 4).flatten(2)


def _joined(levels: torch.Tensor, scales: torch.Tensor, offsets: torch.Tensor | None = None) -> Groups:
    signed = levels if levels.dtype == torch.int8 else levels.to(torch.int8)
    return Groups(signed.flatten(1), scales.flatten(1), None if offsets is None else offsets.flatten(1))


def _q4_0(blocks: torch.Tensor) -> Groups:
    return _joined(_nibbles(blocks[..., 2:], 16).to(torch.int8) - 8, _half(blocks[..., :2]))


def _q4_1(blocks: torch.Tensor) -> Groups:
    return _joined(_nibbles(blocks[..., 4:], 16), _half(blocks[..., :2]), _half(blocks[..., 2:4]))


def _q5_0(blocks: torch.Tensor) -> Groups:
    q = _nibbles(blocks[..., 6:], 16) | _fifth_bits(blocks[..., 2:6])
    return _joined(q.to(torch.int8) - 16, _half(blocks[..., :2]))


def _q5_1(blocks: torch.Tensor) -> Groups:
    q = _nibbles(blocks[..., 8:], 16) | _fifth_bits(blocks[..., 4:8])
    return _joined(q, _half(blocks[..., :2]), _half(blocks[..., 2:4]))


def _q8_0(blocks: torch.Tensor) -> Groups:
    return _joined(blocks[..., 2:].contiguous().view(torch.int8), _half(blocks[..., :2]))


def _q2_k(blocks: torch.Tensor) -> Groups:
    packed, d, dmin = blocks[..., :16], _half(blocks[..., 80:82]), _half(blocks[..., 82:84])
    return _joined(_bit_pairs(blocks[..., 16:80]), d * (packed & 15).float(), -(dmin * (packed >> 4).float()))


def _q3_k(blocks: torch.Tensor) -> Groups:
    hmask, qs, packed, d = blocks[..., :32], blocks[..., 32:96], blocks[..., 96:108], _half(blocks[..., 108:110])
    low = torch.cat([packed[..., :8] & 15, packed[..., :8] >> 4], dim=2)
    high = ((packed[..., 8:].unsqueeze(2) >> torch.tensor([[0], [2], [4], [6]], dtype=torch.uint8)) & 3).flatten(2)
    scales = d * ((low | high << 4).to(torch.int8) - 32).float()
    missing = 1 - ((hmask.unsqueeze(2) >> torch.arange(8, dtype=torch.uint8).unsqueeze(1)) & 1).flatten(2)
    return _joined(_bit_pairs(qs).to(torch.int8) - (missing << 2).to(torch.int8), scales)


def _six_bits(packed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, b, 12) -> the eight scales and the eight minima of 6 bits each, fp32."""
    first, second, third = packed[..., :4], packed[..., 4:8], packed[..., 8:]
    scales = torch.cat([first & 63, (third & 15) | (first >> 2 & 0x30)], dim=2)
    minima = torch.cat([second & 63, (third >> 4) | (second >> 2 & 0x30)], dim=2)
    return scales.float(), minima.float()


def _q4_k(blocks: torch.Tensor) -> Groups:
    scales, minima = _six_bits(blocks[..., 4:16])
    d, dmin = _half(blocks[..., :2]), _half(blocks[..., 2:4])
    return _joined(_nibbles(blocks[..., 16:], 32), d * scales, -(dmin * minima))


def _q5_k(blocks: torch.Tensor) -> Groups:
    scales, minima = _six_bits(blocks[..., 4:16])
    d, dmin = _half(blocks[..., :2]), _half(blocks[..., 2:4])
    fifth = ((blocks[..., 16:48].unsqueeze(2) >> torch.arange(8, dtype=torch.uint8).unsqueeze(1)) & 1) << 4
    return _joined(_nibbles(blocks[..., 48:], 32) | fifth.flatten(2), d * scales, -(dmin * minima))


def _q6_k(blocks: torch.Tensor) -> Groups:
    high = _bit_pairs(blocks[..., 128:192])
    scales = _half(blocks[..., 208:210]) * blocks[..., 192:208].contiguous().view(torch.int8).float()
    return _joined((_nibbles(blocks[..., :128], 64) | high << 4).to(torch.int8) - 32, scales)


def _levels(codes: torch.Tensor, table: tuple[int, ...]) -> torch.Tensor:
    return torch.tensor(table, dtype=torch.int8)[codes.int()]


def _iq4_nl(blocks: torch.Tensor) -> Groups:
    return _joined(_levels(_nibbles(blocks[..., 2:], 16), IQ4), _half(blocks[..., :2]))


def _iq4_xs(blocks: torch.Tensor) -> Groups:
    high = blocks[..., 2:4].contiguous().view(torch.int16).int() & 0xFFFF
    low = torch.stack([blocks[..., 4:8] & 15, blocks[..., 4:8] >> 4], dim=3).flatten(2).int()
    six_bits = low | (high >> torch.arange(0, 16, 2) & 3) << 4
    return _joined(_levels(_nibbles(blocks[..., 8:], 16), IQ4), _half(blocks[..., :2]) * (six_bits - 32).float())


def _mxfp4(blocks: torch.Tensor) -> Groups:
    """The table is doubled, so the scales are halved."""
    exponents = blocks[..., :1].int() - 128
    scales = torch.ldexp(torch.ones_like(exponents, dtype=torch.float32), exponents)
    return _joined(_levels(_nibbles(blocks[..., 1:], 16), E2M1_DOUBLED), scales)


DECODERS: dict[str, Callable[[torch.Tensor], Groups]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "IQ4_NL": _iq4_nl,
    "IQ4_XS": _iq4_xs,
    "MXFP4": _mxfp4,
}
"""By the type's name in ``engine/checkpoint/gguf/header.py``."""
