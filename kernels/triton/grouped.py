"""Weights of 4 bits on a GPU (``kernels/weight_groups.py``): expanded to the run dtype, or dequantised tile by tile.

A row of K columns is K/2 bytes, column 2j in the low and 2j + 1 in the high half of byte j, with fp32 scales (N, G) and
perhaps offsets: ``w = scale * level[code] + offset`` in fp32, rounded once. Levels at equal distances are computed from
the code, others come from a table of 16. Large steps expand a weight and multiply with cuBLAS; in small ones reading
the weight is what takes time, and ``grouped_product`` reads a quarter of it. Plain torch: ``expand_groups_torch``, and
the plain product with what it gives.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from engine.kernels.triton.launch import INTERPRETED, power_of_two, require_rows
from engine.kernels.weight_groups import GroupLayout

EXPAND_ROWS, EXPAND_COLUMNS = 16, 128
MIN_GROUP = 16
AT_ONCE = 1 << 24
"""Values that plain torch dequantises in one go."""


class PackedGroups(NamedTuple):
    """A weight (N, K) as the kernels read it."""

    codes: torch.Tensor
    """(N, K/2) uint8."""
    scales: torch.Tensor
    """(N, G) fp32."""
    offsets: torch.Tensor | None
    """(N, G) fp32."""
    levels: torch.Tensor
    """(16,) fp32."""
    layout: GroupLayout

    @property
    def shape(self) -> tuple[int, int]:
        return self.codes.shape[0], 2 * self.codes.shape[1]


class ProductConfig(NamedTuple):
    """Tile and launch parameters of ``grouped_product``; which is best depends on the device and is measured."""

    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int


CONFIGS = (
    ProductConfig(16, 32, 128, 4, 3),
    ProductConfig(16, 64, 128, 4, 3),
    ProductConfig(32, 64, 128, 4, 3),
    ProductConfig(64, 64, 64, 4, 3),
    ProductConfig(64, 128, 64, 8, 3),
    ProductConfig(128, 128, 64, 8, 3),
)


def fits(num_columns: int, layout: GroupLayout) -> bool:
    """Whether the kernels take rows like these: groups of a power of two that is at least 16, or whole rows."""
    whole_row = layout.group >= num_columns
    return num_columns % 2 == 0 and (whole_row or _is_power(layout.group))


def _is_power(group: int) -> bool:
    return group >= MIN_GROUP and power_of_two(group) == group


@triton.jit
def _levels_of(codes, levels, FIRST: tl.constexpr, STEP: tl.constexpr, LINEAR: tl.constexpr):
    if LINEAR:
        return codes.to(tl.float32) * STEP + FIRST
    else:
        return tl.load(levels + codes.to(tl.int32))


@triton.jit
def _dequantize(
    codes, scales, offsets, levels, rows, row_mask, start, K, num_groups,
    FIRST: tl.constexpr, STEP: tl.constexpr, LINEAR: tl.constexpr, HAS_OFFSETS: tl.constexpr, GROUP: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """(BLOCK_N, BLOCK_K) fp32 of columns ``start`` and after; what is outside of the weight is not zero."""
    at = start // 2 + tl.arange(0, BLOCK_K // 2)
    mask = row_mask[:, None] & (at < K // 2)[None, :]
    pairs = tl.load(codes + rows[:, None] * (K // 2) + at[None, :], mask=mask, other=0)
    wide = tl.interleave(
        _levels_of(pairs & 15, levels, FIRST, STEP, LINEAR), _levels_of(pairs >> 4, levels, FIRST, STEP, LINEAR)
    )
    if GROUP < BLOCK_K:
        PARTS: tl.constexpr = BLOCK_K // GROUP
        group = start // GROUP + tl.arange(0, PARTS)
        place = rows[:, None] * num_groups + group[None, :]
        there = row_mask[:, None] & (group < num_groups)[None, :]
        parted = tl.reshape(wide, (BLOCK_N, PARTS, GROUP)) * tl.load(scales + place, mask=there, other=0.0)[:, :, None]
        if HAS_OFFSETS:
            parted += tl.load(offsets + place, mask=there, other=0.0)[:, :, None]
        wide = tl.reshape(parted, (BLOCK_N, BLOCK_K))
    else:
        place = rows * num_groups + start // GROUP
        wide = wide * tl.load(scales + place, mask=row_mask, other=0.0)[:, None]
        if HAS_OFFSETS:
            wide += tl.load(offsets + place, mask=row_mask, other=0.0)[:, None]
    return wide


@triton.jit
def _expand_kernel(
    codes, scales, offsets, levels, out, N, K, num_groups,
    FIRST: tl.constexpr, STEP: tl.constexpr, LINEAR: tl.constexpr, HAS_OFFSETS: tl.constexpr, GROUP: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    rows = (tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    start = tl.program_id(0) * BLOCK_K
    wide = _dequantize(
        codes, scales, offsets, levels, rows, rows < N, start, K, num_groups,
        FIRST, STEP, LINEAR, HAS_OFFSETS, GROUP, BLOCK_N, BLOCK_K,
    )  # fmt: skip
    cols = start + tl.arange(0, BLOCK_K)
    mask = (rows < N)[:, None] & (cols < K)[None, :]
    tl.store(out + rows[:, None] * K + cols[None, :], wide.to(out.dtype.element_ty), mask=mask)


def expand_groups(weight: PackedGroups, out: torch.Tensor) -> None:
    """Fills ``out`` (N, K), contiguous, in its dtype."""
    num_rows, num_columns = weight.shape
    grid = (triton.cdiv(num_columns, EXPAND_COLUMNS), triton.cdiv(num_rows, EXPAND_ROWS))
    _expand_kernel[grid](
        weight.codes, weight.scales, weight.offsets, weight.levels, out, num_rows, num_columns, weight.scales.shape[1],
        **_constants(weight, EXPAND_COLUMNS), BLOCK_N=EXPAND_ROWS, BLOCK_K=EXPAND_COLUMNS, num_warps=4,
    )  # fmt: skip


def expand_groups_torch(weight: PackedGroups, out: torch.Tensor) -> None:
    """The plain torch form of ``expand_groups``; some rows at a time."""
    num_columns, group = weight.shape[1], min(weight.layout.group, weight.shape[1])
    at_once = max(1, AT_ONCE // num_columns)
    for first in range(0, len(out), at_once):
        rows = slice(first, first + at_once)
        codes = torch.stack([weight.codes[rows] & 15, weight.codes[rows] >> 4], dim=2).flatten(1)
        wide = weight.levels[codes.int()] * weight.scales[rows].repeat_interleave(group, dim=1)[:, :num_columns]
        if weight.offsets is not None:
            wide += weight.offsets[rows].repeat_interleave(group, dim=1)[:, :num_columns]
        out[rows] = wide.to(out.dtype)


@triton.jit(do_not_specialize=["M"])  # a size is a size: no step of another length is compiled for
def _grouped_product_kernel(
    x, codes, scales, offsets, levels, bias, out, M, N, K, num_groups, x_stride,
    FIRST: tl.constexpr, STEP: tl.constexpr, LINEAR: tl.constexpr, HAS_OFFSETS: tl.constexpr, GROUP: tl.constexpr,
    HAS_BIAS: tl.constexpr, UPCAST: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    m = (tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    rows = (tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    acc = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for start in range(0, K, BLOCK_K):
        cols = start + tl.arange(0, BLOCK_K)
        mask = (m < M)[:, None] & (cols < K)[None, :]  # zeros of x silence the columns behind the last
        values = tl.load(x + m[:, None] * x_stride + cols[None, :], mask=mask, other=0.0)
        wide = _dequantize(
            codes, scales, offsets, levels, rows, rows < N, start, K, num_groups,
            FIRST, STEP, LINEAR, HAS_OFFSETS, GROUP, BLOCK_N, BLOCK_K,
        ).to(x.dtype.element_ty)  # fmt: skip
        if UPCAST:
            values = values.to(tl.float32)
            wide = wide.to(tl.float32)
        acc = tl.dot(values, tl.trans(wide), acc, input_precision=PRECISION)
    if HAS_BIAS:
        acc += tl.load(bias + rows, mask=rows < N, other=0.0).to(tl.float32)[None, :]
    mask = (m < M)[:, None] & (rows < N)[None, :]
    tl.store(out + m[:, None] * N + rows[None, :], acc.to(out.dtype.element_ty), mask=mask)


def grouped_product(
    x: torch.Tensor, weight: PackedGroups, bias: torch.Tensor | None, config: ProductConfig
) -> torch.Tensor:
    """(T, K) -> (T, N): x W^T + b in the dtype of x, whose weights are rounded to that dtype, as if expanded."""
    require_rows(x, "grouped_product", "x")
    num_rows, num_columns = weight.shape
    out = torch.empty(len(x), num_rows, dtype=x.dtype, device=x.device)
    if len(x):
        _grouped_product_kernel[(triton.cdiv(len(x), config.block_m), triton.cdiv(num_rows, config.block_n))](
            x, weight.codes, weight.scales, weight.offsets, weight.levels, bias, out, len(x), num_rows, num_columns,
            weight.scales.shape[1], x.stride(0), **_constants(weight, config.block_k), HAS_BIAS=bias is not None,
            UPCAST=INTERPRETED, PRECISION="ieee" if x.dtype == torch.float32 else "tf32",
            BLOCK_M=config.block_m, BLOCK_N=config.block_n, BLOCK_K=config.block_k,
            num_warps=config.num_warps, num_stages=config.num_stages,
        )  # fmt: skip
    return out


def _constants(weight: PackedGroups, block_k: int) -> dict[str, float | int | bool]:
    levels, group = weight.layout.levels, weight.layout.group
    first, step = levels[0], levels[1] - levels[0]
    return {
        "FIRST": first,
        "STEP": step,
        "LINEAR": levels == tuple(first + code * step for code in range(16)),
        "HAS_OFFSETS": weight.offsets is not None,
        "GROUP": max(block_k, power_of_two(weight.shape[1])) if group >= weight.shape[1] else group,
    }
