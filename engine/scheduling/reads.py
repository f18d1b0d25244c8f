"""Prompts that are read at several tokens: where in the tree those tokens stand, and when a prompt's rows are complete.

Usually a prompt has one row, that of its last token. A call with ``read_offsets`` names the tokens of each prompt that
are read, in order; they may lie in any segment of the prompt's path, and a prompt is answered once all of its rows
are there, whatever the steps that they come from. Letters: P prompts, r reads of a node, Q reads of the call.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.messages import EngineCoreRequest
from engine.scheduling.token_tree import Leaves, Node, Reads, Segment
from engine.scheduling.tree_builder import leaves_of, segments_of


class ReadRows:
    """The rows of one call's prompts, as they come in."""

    def __init__(self, request: EngineCoreRequest) -> None:
        assert request.read_offsets is not None
        assert request.read_lens is not None
        self.offsets = request.read_offsets.astype(np.int64)
        """(Q,) places in their prompts."""
        self.counts = request.read_lens.astype(np.int64)
        """(P,) reads of each prompt, at least one."""
        self.starts = self.counts.cumsum() - self.counts
        self.prompt_lens = request.pair_lens.astype(np.int64)
        self._owners = np.arange(len(self.counts)).repeat(self.counts)
        self._missing = self.counts.copy()
        self._values: np.ndarray | None = None

    def place(self, roots: Sequence[Node]) -> None:
        """Tell every node of the call's tree which of its tokens are read. What came in of open prompts is void."""
        self._missing = self.counts.copy()
        found: dict[Segment, list[np.ndarray]] = {}
        for leaves in leaves_of(roots):
            self._place_at_leaves(leaves, found)
        for segment in segments_of(roots):
            for prompt in segment.pairs:
                _spread(segment, self._of([prompt]), self.offsets, found)
        for segment, parts in found.items():
            rows = np.concatenate(parts)
            segment.reads = Reads(np.array([0, len(rows)]), self.offsets[rows] - segment.position, rows)

    def _of(self, prompts: np.ndarray | list[int]) -> np.ndarray:
        """The reads of some prompts, prompt after prompt."""
        return expanded(self.starts[prompts], self.counts[prompts])

    def _place_at_leaves(self, leaves: Leaves, found: dict[Segment, list[np.ndarray]]) -> None:
        prompts = leaves.pairs
        leaf_of = (
            np.arange(leaves.num_leaves)
            if leaves.bounds is None
            else np.arange(leaves.num_leaves).repeat(np.diff(leaves.bounds))
        )
        rows, counts = self._of(prompts), self.counts[prompts]
        depths = self.prompt_lens[prompts] - leaves.lens[leaf_of]
        offsets = self.offsets[rows] - depths.repeat(counts)
        inside = offsets >= 0
        owners = leaf_of.repeat(counts)[inside]
        bounds = np.concatenate([[0], np.bincount(owners, minlength=leaves.num_leaves).cumsum()])
        leaves.reads = Reads(bounds, offsets[inside], rows[inside])
        if not inside.all():
            _spread(leaves.parent, rows[~inside], self.offsets, found)

    def add(self, rows: np.ndarray, values: np.ndarray) -> np.ndarray:
        """(n,) numbers of reads and their (n, O) values -> the prompts that they complete."""
        if self._values is None:
            self._values = np.empty((len(self.offsets), values.shape[1]), np.float32)
        self._values[rows] = values
        touched = self._owners[rows]
        np.subtract.at(self._missing, touched, 1)
        prompts = np.unique(touched)
        done: np.ndarray = prompts[self._missing[prompts] == 0]
        return done

    def take(self, prompts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The (sum of counts, O) values of complete prompts, and (n,) how many rows each has."""
        assert self._values is not None
        return self._values[self._of(prompts)], self.counts[prompts]


def _spread(
    last: Segment | None, rows: np.ndarray, offsets: np.ndarray, found: dict[Segment, list[np.ndarray]]
) -> None:
    """Give reads to the segments from ``last`` up to the root in which their tokens stand."""
    segment = last
    while segment is not None and len(rows):
        own = offsets[rows] >= segment.position
        here = rows[own & (offsets[rows] < segment.position + len(segment))]
        if len(here):
            found.setdefault(segment, []).append(here)
        rows, segment = rows[~own], segment.parent


def expanded(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The numbers of the ranges that begin at ``starts`` with ``counts`` members each, end to end."""
    ends = counts.cumsum()
    total = int(ends[-1]) if len(ends) else 0
    found: np.ndarray = np.arange(total) + (starts - (ends - counts)).repeat(counts)
    return found
