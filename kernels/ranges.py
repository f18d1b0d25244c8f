"""Ranges of rows written out row by row, for the index tables of a step."""

from __future__ import annotations

import numpy as np


def expand_ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Concatenation of ``arange(start, start + length)`` over all ranges: (n,) and (n,) -> (sum of lengths,) int32.

    Rows of a step and slots of a KV cache are fewer than 2^31, and half the bytes are half the work.
    """
    if not len(lengths):
        return np.zeros(0, np.int32)
    ends = lengths.cumsum()
    found = (starts - (ends - lengths)).astype(np.int32).repeat(lengths)
    found += np.arange(ends[-1], dtype=np.int32)
    return found


def count_within(lengths: np.ndarray) -> np.ndarray:
    """``0, 1, ... length - 1`` for each of ``lengths``, one after the other: (n,) -> (sum of lengths,)."""
    return expand_ranges(np.zeros(len(lengths), np.int64), lengths)
