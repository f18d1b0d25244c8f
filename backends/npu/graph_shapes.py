"""What an ACL graph can hold, and how a step's lengths are padded to it.

A graph is bound to shapes, so a step is laid into the smallest shape that holds it. Rows that are left over become
dummy segments, each of at least one row and of at most one block of keys, so that the attention of the padding stays as
cheap as its rows: one dummy with all of them would cost their number squared.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.kernels.npu.pages import BLOCK
from engine.kernels.npu.plan import HostPlan, Launch

TOKEN_BUCKETS = (*range(128, 512, 128), *range(512, 2049, 256))
"""Above about two thousand tokens a step is bound by its products, not by launches."""
MIN_SEGMENTS = 8
MIN_CACHED_ROWS = 64
MIN_BLOCKS = 8


def _power_of_two(at_least: int, smallest: int = 1) -> int:
    return max(smallest, 1 << (at_least - 1).bit_length())


def _in_quarters(at_least: int, smallest: int) -> int:
    """The next quarter between two powers of two: at most a third more than asked for."""
    quarter = max(1, _power_of_two(at_least) // 8)
    return max(smallest, -(-at_least // quarter) * quarter)


@dataclass(frozen=True)
class GraphShape:
    """S segments with T tokens, whose keys lie in blocks of 128 (``kernels/npu/pages.py``)."""

    tokens: int
    segments: int
    cached_rows: int
    """Rows of the KV cache that the step reads."""
    blocks: int
    """Blocks that are filled."""
    given_blocks: int
    """Blocks that the operator is given: as many as all segments have, each for itself."""
    width: int
    """Blocks of the longest segment."""

    @staticmethod
    def for_step(host: HostPlan) -> GraphShape | None:
        """The smallest shape that holds the step and its padding; None if it is too large for any."""
        num_segments, num_tokens = len(host.q_lens), int(host.q_lens.sum())
        segments = _power_of_two(num_segments + 1, MIN_SEGMENTS)
        while True:
            needed = num_tokens + segments - num_segments
            tokens = next((bucket for bucket in TOKEN_BUCKETS if bucket >= needed), None)
            if tokens is None:
                return None
            if tokens - num_tokens <= BLOCK * (segments - num_segments):
                break
            segments *= 2
        pages, num_dummies = host.pages, segments - num_segments
        return GraphShape(
            tokens=tokens,
            segments=segments,
            cached_rows=_power_of_two(len(host.cached_rows), MIN_CACHED_ROWS) if len(host.cached_rows) else 0,
            blocks=_in_quarters(len(pages.rows) // BLOCK, MIN_BLOCKS),
            given_blocks=_in_quarters(pages.num_blocks + num_dummies, MIN_BLOCKS),
            width=_power_of_two(pages.table.shape[1]),
        )

    def launch(self, host: HostPlan, num_queries: int) -> Launch:
        """The operator's lengths, with dummies for the rest of the shape and of ``num_queries`` rows."""
        q_lens = padded(host.q_lens, self.segments, num_queries)
        kv_lens = [*host.kv_lens.tolist(), *q_lens[len(host.q_lens) :]]
        return Launch(
            segments=slice(0, self.segments),
            q=slice(0, num_queries),
            kv=slice(0, 0),
            q_ends=np.cumsum(q_lens).tolist(),
            kv_ends=[],
            kv_lens=kv_lens,
        )

    def rows_and_table(self, host: HostPlan) -> tuple[np.ndarray, np.ndarray]:
        """(blocks * 128,) joint rows and (S, W) block numbers. Padding is the step's first row, and block 0."""
        moved = self.cached_rows - len(host.cached_rows)
        pages = host.pages
        rows = np.full(self.blocks * BLOCK, self.cached_rows, np.int64)
        rows[: len(pages.rows)] = pages.rows + moved * (pages.rows >= len(host.cached_rows))
        table = np.zeros((self.segments, self.width), np.int64)
        table[: len(pages.table), : pages.table.shape[1]] = pages.table
        return rows, table


def padded(lengths: np.ndarray, num_segments: int, total: int) -> list[int]:
    """The lengths of the real segments, and of dummies that share the rest of ``total`` evenly."""
    spare, left = num_segments - len(lengths), total - int(lengths.sum())
    if not spare:
        return lengths.tolist()
    share, more = divmod(left, spare)
    return [*lengths.tolist(), *[share + 1] * more, *[share] * (spare - more)]
