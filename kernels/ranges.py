"""Ranges of rows written out row by row, for the index tables of a step."""

from __future__ import annotations

import numpy as np


def expand_ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Concatenation of ``arange(start, start + length)`` over all ranges: (n,) and (n,) -> (sum of lengths,)."""
    ends = np.cumsum(lengths)
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(ends[-1] if len(ends) else 0)


def count_within(lengths: np.ndarray) -> np.ndarray:
    """``0, 1, ... length - 1`` for each of ``lengths``, one after the other: (n,) -> (sum of lengths,)."""
    return expand_ranges(np.zeros(len(lengths), np.int64), lengths)
