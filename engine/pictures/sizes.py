"""The size to which a picture is scaled before it is read, as Qwen's ``smart_resize`` has it."""

from __future__ import annotations

import math

MAX_LONGER = 200
"""Longer side over shorter side, at most."""


def scaled_size(height: int, width: int, block: int, least: int, most: int) -> tuple[int, int]:
    """Sides that are multiples of ``block``, with ``least`` to ``most`` pixels, of nearly the same shape.

    Raises ``ValueError`` for a picture that is too long.
    """
    if max(height, width) > MAX_LONGER * min(height, width):
        raise ValueError(f"one side is more than {MAX_LONGER} times as long as the other")
    high, wide = round(height / block) * block, round(width / block) * block
    if high * wide > most:
        shrink = math.sqrt(height * width / most)
        high = max(block, math.floor(height / shrink / block) * block)
        wide = max(block, math.floor(width / shrink / block) * block)
    elif high * wide < least:
        grow = math.sqrt(least / (height * width))
        high = math.ceil(height * grow / block) * block
        wide = math.ceil(width * grow / block) * block
    return high, wide
