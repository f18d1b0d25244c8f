"""What the launchers share: block sizes, warps, and the checks that turn a wrong shape into a sentence."""

from __future__ import annotations

import os

import torch
from triton.runtime.errors import OutOfResources

__all__ = [
    "FP8",
    "FP8_MAX",
    "INTERPRETED",
    "MAX_ROW",
    "SMALLEST_AMAX",
    "OutOfResources",
    "fp8_outputs",
    "power_of_two",
    "require_rows",
    "row_block",
    "warps_for",
]

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"
"""The interpreter multiplies bf16 wrongly in ``tl.dot``: kernels convert operands to fp32 there."""

FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0
"""Largest finite e4m3 value."""
SMALLEST_AMAX = 1e-10
"""A row of zeros gets a scale that is tiny but not zero."""
MAX_ROW = 65_536
"""Longest row that one program holds in registers; longer ones would spill."""


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least ``n``."""
    return 1 << max(n - 1, 0).bit_length()


def row_block(length: int, op: str) -> int:
    """Block that holds one whole row; refuses rows that no model of this engine has."""
    if length > MAX_ROW:
        raise ValueError(f"{op}: rows of {length} elements are longer than the kernel's limit of {MAX_ROW}")
    return power_of_two(length)


def warps_for(block: int) -> int:
    """Enough warps that a thread holds at most 16 elements."""
    return min(max(power_of_two(block // 512), 1), 16)


def require_rows(x: torch.Tensor, op: str, name: str) -> None:
    """Rows may be strided, elements of a row may not."""
    if x.ndim != 2 or x.stride(1) != 1:
        raise ValueError(f"{op}: {name} must be a matrix with contiguous rows, not {tuple(x.shape)} {x.stride()}")


def fp8_outputs(rows: int, columns: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Empty quantised values (rows, columns) and their scales (rows, 1)."""
    values = torch.empty(rows, columns, dtype=FP8, device=like.device)
    return values, torch.empty(rows, 1, dtype=torch.float32, device=like.device)
