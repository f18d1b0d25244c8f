"""The keys of a step in blocks of 128, so that what segments share lies there once: paged attention's layout.

The operator finds the keys of segment s in the blocks ``table[s]``, one after the other, and is told how many there
are. A context's whole blocks serve all who see it; only what is left of it behind them, fewer than 128 rows, is copied
in front of each segment's own keys. A parent that is computed in the same step as its children lends them its blocks
as well. This is how vllm-ascend calls the operator for queries that are fewer than their keys.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.kernels.ranges import count_within, expand_ranges

BLOCK = 128


@dataclass(frozen=True, eq=False)
class Pages:
    """S segments, B blocks that are filled, W of them at most for one segment."""

    rows: np.ndarray
    """(B * 128,) which row goes to each line of the blocks; behind a segment's last key, any row."""
    table: np.ndarray
    """(S, W) block numbers; behind a segment's last block, 0."""
    num_blocks: int
    """How many the operator wants to see: as many as all segments would have if none shared, whatever is in the last
    ones ("the first dim of key should not less than valid block num")."""


def lay_pages(
    sources: np.ndarray,
    context_starts: np.ndarray,
    context_lens: np.ndarray,
    own_starts: np.ndarray,
    own_lens: np.ndarray,
) -> Pages:
    """Arguments as in ``HostPlan``; every segment has at least one own key."""
    whole = context_lens // BLOCK
    rest = context_lens - whole * BLOCK + own_lens
    rest_blocks = -(-rest // BLOCK)

    shared_starts, sample = np.unique(context_starts[whole > 0], return_index=True)
    shared_counts = whole[whole > 0][sample]
    shared = sources[expand_ranges(shared_starts, shared_counts * BLOCK)]
    ends = _segment_ends(sources, context_starts + whole * BLOCK, context_lens - whole * BLOCK, own_starts, own_lens)
    block_firsts = np.cumsum(rest_blocks) - rest_blocks
    padded = np.full(int(rest_blocks.sum()) * BLOCK, ends[0])
    padded[expand_ranges(block_firsts * BLOCK, rest)] = ends
    blocks = np.concatenate([shared, padded]).reshape(-1, BLOCK)

    num_shared = len(shared) // BLOCK
    is_full = np.ones(len(blocks), bool)
    is_full[num_shared:] = (count_within(rest_blocks) + 1) * BLOCK <= np.repeat(rest, rest_blocks)
    kept, numbers = _merge_equal_runs(blocks, is_full)

    shared_firsts = np.cumsum(shared_counts) - shared_counts
    firsts = np.zeros(len(whole), np.int64)
    firsts[whole > 0] = shared_firsts[np.searchsorted(shared_starts, context_starts[whole > 0])]
    entries = expand_ranges(
        np.stack([firsts, num_shared + block_firsts], 1).ravel(), np.stack([whole, rest_blocks], 1).ravel()
    )
    counts = whole + rest_blocks
    table = np.zeros((len(counts), int(counts.max())), np.int64)
    table[np.repeat(np.arange(len(counts)), counts), count_within(counts)] = numbers[entries]
    return Pages(blocks[kept].ravel(), table, int(counts.sum()))


def _segment_ends(
    sources: np.ndarray, tail_starts: np.ndarray, tail_lens: np.ndarray, own_starts: np.ndarray, own_lens: np.ndarray
) -> np.ndarray:
    """Each segment's keys behind its context's whole blocks, one segment after the other."""
    lookup = np.concatenate([sources, np.arange(int((own_starts + own_lens).max()))])
    starts = np.stack([tail_starts, own_starts + len(sources)], 1).ravel()
    return lookup[expand_ranges(starts, np.stack([tail_lens, own_lens], 1).ravel())]


def _merge_equal_runs(blocks: np.ndarray, is_full: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Full blocks of neighbouring rows that begin with the same row are the same block: a parent's and its children's.

    Returns which blocks stay, and the new number of each.
    """
    full = np.flatnonzero(is_full)
    runs = full[(np.diff(blocks[full], axis=1) == 1).all(1)]
    names = -1 - np.arange(len(blocks))
    names[runs] = blocks[runs, 0]
    _, first, inverse = np.unique(names, return_index=True, return_inverse=True)
    kept = np.sort(first)
    return kept, np.searchsorted(kept, first)[inverse.ravel()]
