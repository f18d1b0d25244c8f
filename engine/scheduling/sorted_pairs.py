"""The pairs of a call in the order of their tokens, with what each shares with the one before it, as in a suffix array.

O(tokens) in NumPy. N different pairs, P pairs of the call.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from engine.ranges import common_prefix
from engine.scheduling.token_tree import Segment

_WINDOW = 16
"""Tokens compared at a time when neighbours are told apart: most differ at once."""


class SortedPairs(NamedTuple):
    """Different pairs in the order of their tokens. N of them; P pairs have these tokens."""

    starts: np.ndarray
    """(N,) where each begins in the call's tokens."""
    lens: np.ndarray
    pairs: np.ndarray
    """(P,) pairs of the call; equal ones stand together."""
    bounds: np.ndarray | None
    """(N + 1,) where the pairs of each begin; None: each is one."""
    common: np.ndarray
    """(N,) how many tokens each shares with the one before it."""
    hints: np.ndarray | None
    """(N,) leading tokens of each that its query depends on; None: nobody asks."""

    def pairs_of(self, item: int) -> list[int]:
        """The pairs of the call that have the tokens of number ``item`` of these."""
        if self.bounds is None:
            return [int(self.pairs[item])]
        found: list[int] = self.pairs[self.bounds[item] : self.bounds[item + 1]].tolist()
        return found


def begin_with(
    token_ids: np.ndarray, starts: np.ndarray, lens: np.ndarray, members: np.ndarray, constant_prefix: Segment
) -> np.ndarray:
    """(len(members),) whether each pair begins with the constant prefix and goes on behind it."""
    long_enough = lens[members] > len(constant_prefix)
    chosen = starts[members[long_enough]]
    equal = (token_ids[chosen[:, None] + np.arange(len(constant_prefix))] == constant_prefix.token_ids).all(axis=1)
    found: np.ndarray = long_enough.copy()
    found[long_enough] = equal
    return found


def sort_pairs(
    token_ids: np.ndarray, starts: np.ndarray, lens: np.ndarray, members: np.ndarray, hints: np.ndarray | None
) -> SortedPairs:
    """The pairs ``members`` of a call in the order of their tokens; pair i has ``lens[i]`` from ``starts[i]`` on."""
    order = _order(token_ids, starts, lens, members)
    starts, lens = starts[order], lens[order]
    hints = None if hints is None else hints[order]
    common = _shared_with_previous(token_ids, starts, lens)
    again = (common == lens) & (common == np.concatenate([[-1], lens[:-1]]))
    if not again.any():
        return SortedPairs(starts, lens, order, None, common, hints)
    kept = (~again).nonzero()[0]
    bounds = np.concatenate([kept, [len(order)]])
    return SortedPairs(starts[kept], lens[kept], order, bounds, common[kept], None if hints is None else hints[kept])


def _order(token_ids: np.ndarray, starts: np.ndarray, lens: np.ndarray, members: np.ndarray) -> np.ndarray:
    """The members in the order of their tokens; equal ones in their own order."""
    id_bytes = token_ids.astype(">u4").tobytes()
    firsts, ends = (4 * starts[members]).tolist(), (4 * (starts[members] + lens[members])).tolist()
    keys = [id_bytes[first:end] for first, end in zip(firsts, ends, strict=True)]
    order: np.ndarray = members[sorted(range(len(keys)), key=keys.__getitem__)]
    return order


def _shared_with_previous(token_ids: np.ndarray, starts: np.ndarray, lens: np.ndarray) -> np.ndarray:
    """(N,) leading tokens that each sorted pair shares with the one before it; 0 for the first."""
    common = np.zeros(len(lens), np.int64)
    if len(lens) < 2:
        return common
    first, last = (token_ids[starts[i] : starts[i] + lens[i]] for i in (0, -1))
    depth = common_prefix(first, last)  # whatever the outermost share, all share
    limits = np.minimum(lens[1:], lens[:-1])
    active, window = np.arange(1, len(lens)), _WINDOW
    while len(active):
        columns = depth + np.arange(window)
        limit = limits[active - 1]
        # Reads past the end of a pair are of other pairs' tokens, or clipped; they do not count.
        here = token_ids.take(starts[active][:, None] + columns, mode="clip")
        before = token_ids.take(starts[active - 1][:, None] + columns, mode="clip")
        differs = (here != before) | (columns >= limit[:, None])
        found = differs.argmax(axis=1)
        same = ~differs[np.arange(len(active)), found]
        common[active] = np.minimum(depth + np.where(same, window, found), limit)
        active, depth, window = active[same], depth + window, 4 * window
    return common
