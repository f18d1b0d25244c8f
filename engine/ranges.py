"""Runs of whole numbers as ``(start, length)``: rows of a tensor, slots of the KV cache; and what two prompts share."""

from __future__ import annotations

import numpy as np

Range = tuple[int, int]
"""``(start, length)``: the numbers from ``start`` to ``start + length - 1``."""


def append_range(ranges: list[Range], start: int, length: int) -> None:
    """Add a range to the end of ``ranges``; one that begins where the last one ends is joined with it."""
    if ranges and sum(ranges[-1]) == start:
        ranges[-1] = (ranges[-1][0], ranges[-1][1] + length)
    else:
        ranges.append((start, length))


def common_prefix(a: np.ndarray, b: np.ndarray) -> int:
    """How many leading token ids two prompts (1-d arrays) share."""
    length = min(len(a), len(b))
    different = a[:length] != b[:length]
    first = int(different.argmax()) if length else 0
    return first if length and different[first] else length
