"""Runs of numbers, written out, joined and compared."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.kernels.ranges import count_within, expand_ranges
from engine.ranges import Range, append_range, common_prefix

IDS = st.lists(st.integers(0, 2), max_size=8)
RANGES = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5)), max_size=8)


@given(IDS, IDS)
def test_common_prefix_is_the_longest_equal_beginning(a: list[int], b: list[int]) -> None:
    shared = common_prefix(np.array(a, np.int32), np.array(b, np.int32))
    assert a[:shared] == b[:shared]
    assert shared == min(len(a), len(b)) or a[shared] != b[shared]


@given(RANGES)
def test_ranges_are_written_out_one_after_the_other(ranges: list[Range]) -> None:
    starts, lengths = (np.array([item[k] for item in ranges], np.int64) for k in (0, 1))
    assert expand_ranges(starts, lengths).tolist() == [start + i for start, length in ranges for i in range(length)]
    assert count_within(lengths).tolist() == [i for _, length in ranges for i in range(length)]


@given(st.sets(st.integers(0, 30)))
def test_neighbours_become_one_range(numbers: set[int]) -> None:
    ranges: list[Range] = []
    for number in sorted(numbers):
        append_range(ranges, number, 1)
    assert [start + i for start, length in ranges for i in range(length)] == sorted(numbers)
    assert all(sum(before) < after[0] for before, after in pairwise(ranges))
