"""One step while it is being planned: a bag of segments under two limits, and its translation into flat arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.ranges import Range, append_range
from engine.scheduling.token_tree import Segment
from engine.step import SchedulerOutput

if TYPE_CHECKING:
    from engine.scheduling.call import Call


class StepPlan:
    """Segments of one step, parents before children."""

    def __init__(self, step_id: int, token_budget: int, max_segments: int) -> None:
        self.step_id = step_id
        self.token_budget = token_budget
        self.max_segments = max_segments
        self.segments: list[Segment] = []
        self.calls: list[Call | None] = []
        """The call of each segment; None for the stem, which belongs to everybody."""
        self.num_tokens = 0
        self.adapter: str | None = None
        self._rows: dict[Segment, int] = {}

    def __contains__(self, segment: Segment) -> bool:
        return segment in self._rows

    @property
    def full(self) -> bool:
        return self.num_tokens >= self.token_budget or len(self.segments) >= self.max_segments

    def fits(self, *segments: Segment) -> bool:
        """A single segment always fits an empty step: encoders cannot be cut, even when memory ran out before."""
        if not self.segments and len(segments) == 1:
            return True
        tokens = sum(len(segment) for segment in segments)
        return self.num_tokens + tokens <= self.token_budget and len(self.segments) + len(segments) <= self.max_segments

    def add(self, segment: Segment, call: Call | None) -> None:
        self._rows[segment] = self.num_tokens
        self.segments.append(segment)
        self.calls.append(call)
        self.num_tokens += len(segment)

    @property
    def reads(self) -> list[int]:
        """Positions of the segments at which some pair ends."""
        return [i for i, segment in enumerate(self.segments) if segment.pairs]

    def to_output(self, kv_capacity: int) -> SchedulerOutput:
        context_ids, indptr, ranges = self._contexts(kv_capacity)
        keep = [
            (row, slot, length)
            for segment in self.segments
            for row, slot, length in _keep_rows(self._rows[segment], segment.slots)
        ]
        types = [segment.token_type_ids for segment in self.segments if segment.token_type_ids is not None]
        return SchedulerOutput(
            step_id=self.step_id,
            token_ids=np.concatenate([segment.token_ids for segment in self.segments]).astype(np.int32, copy=False),
            segment_lens=np.array([len(segment) for segment in self.segments], np.int32),
            context_ids=np.array(context_ids, np.int32),
            context_indptr=np.array(indptr, np.int32),
            context_ranges=np.array(ranges, np.int32).reshape(-1, 2),
            keep_ranges=np.array(keep, np.int32).reshape(-1, 3),
            read_segments=np.array(self.reads, np.int32),
            token_type_ids=np.concatenate(types).astype(np.int32, copy=False) if types else None,
            adapter=self.adapter,
        )

    def _contexts(self, kv_capacity: int) -> tuple[list[int], list[int], list[Range]]:
        """Each distinct parent is one context: its chain of ancestors as ranges of slots and rows."""
        ids: dict[Segment, int] = {}
        context_ids: list[int] = []
        indptr = [0]
        ranges: list[Range] = []
        for segment in self.segments:
            parent = segment.parent
            if parent is None:
                context_ids.append(-1)
                continue
            if parent not in ids:
                ids[parent] = len(ids)
                ranges.extend(self._ancestor_ranges(parent, kv_capacity))
                indptr.append(len(ranges))
            context_ids.append(ids[parent])
        return context_ids, indptr, ranges

    def _ancestor_ranges(self, parent: Segment, kv_capacity: int) -> list[Range]:
        chain: list[Segment] = []
        node: Segment | None = parent
        while node is not None:
            chain.append(node)
            node = node.parent
        ranges: list[Range] = []
        for ancestor in reversed(chain):
            row = self._rows.get(ancestor)
            own = ancestor.slots if row is None else [(kv_capacity + row, len(ancestor))]
            assert own, "an ancestor is neither in this step nor in the pool"
            for start, length in own:
                if start == kv_capacity:  # the pool's last slot and the step's first row are no neighbours
                    ranges.append((start, length))
                else:
                    append_range(ranges, start, length)
        return ranges


def _keep_rows(row: int, slots: list[Range]) -> list[tuple[int, int, int]]:
    kept = []
    for slot, length in slots:
        kept.append((row, slot, length))
        row += length
    return kept
