"""One step while it is being planned: segments under two limits, and their translation into flat arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.ranges import Range, append_range
from engine.scheduling.step_pictures import pictures_of
from engine.scheduling.token_tree import Entry, LeafRun, Leaves, Segment
from engine.step import SchedulerOutput

if TYPE_CHECKING:
    from engine.scheduling.call import Call


class StepPlan:
    """Segments of one step, parents before children; neighbouring leaves of one parent are one entry."""

    def __init__(self, step_id: int, token_budget: int, max_segments: int) -> None:
        self.step_id = step_id
        self.token_budget = token_budget
        self.max_segments = max_segments
        self.entries: list[Entry] = []
        self.calls: list[Call | None] = []
        """The call of each entry; None for the constant prefix, which belongs to everybody."""
        self.num_tokens = 0
        self.num_segments = 0
        self.adapter: str | None = None
        self._counts: list[int] = []
        """Segments of each entry."""
        self._rows: dict[Segment, int] = {}

    def __contains__(self, segment: Segment) -> bool:
        return segment in self._rows

    def limit(self, token_budget: int, max_segments: int) -> None:
        """Change the two limits; what is in the step already stays."""
        self.token_budget, self.max_segments = token_budget, max_segments

    @property
    def inner(self) -> list[Segment]:
        """Segments with something below them, parents first."""
        return list(self._rows)

    @property
    def full(self) -> bool:
        return self.num_tokens >= self.token_budget or self.num_segments >= self.max_segments

    def fits(self, segment: Segment) -> bool:
        return self.num_tokens + len(segment) <= self.token_budget and self.num_segments < self.max_segments

    def num_fitting(self, leaves: Leaves, first: int, last: int) -> int:
        """How many leaves from ``first`` on find room.

        A single one always fits an empty step: encoders cannot be cut, even when memory ran out before.
        """
        room = self.token_budget - self.num_tokens
        if leaves.num_tokens <= room and leaves.num_leaves <= self.max_segments - self.num_segments:
            return last - first
        last = min(last, first + self.max_segments - self.num_segments)
        before = leaves.ends[first - 1] if first else 0
        if leaves.ends[last - 1] - before > room:
            last = int(leaves.ends[:last].searchsorted(before + room, side="right"))
        return max(last - first, 0 if self.entries else 1)

    def add(self, segment: Segment, call: Call | None) -> None:
        self._rows[segment] = self.num_tokens
        self._enter(segment, call, 1, len(segment))

    def add_leaves(self, run: LeafRun, call: Call, num_tokens: int) -> None:
        """Adds a run of leaves, which has ``num_tokens`` tokens in all."""
        self._enter(run, call, run.last - run.first, num_tokens)

    def _enter(self, entry: Entry, call: Call | None, num_segments: int, num_tokens: int) -> None:
        self.entries.append(entry)
        self.calls.append(call)
        self._counts.append(num_segments)
        self.num_segments += num_segments
        self.num_tokens += num_tokens
        if entry.parent is not None:
            entry.parent.num_waiting_children -= num_segments

    @property
    def reads(self) -> bool:
        """Whether some pair ends in this step."""
        return any(isinstance(entry, LeafRun) or entry.pairs for entry in self.entries)

    def to_output(self, kv_capacity: int) -> SchedulerOutput:
        context_ids, indptr, ranges = self._contexts(kv_capacity)
        keep = [kept for segment, row in self._rows.items() for kept in _keep_rows(row, segment.slots)]
        tokens, lens, types, keys = [], [], [], []
        read = np.ones(len(self.entries), bool)
        for position, entry in enumerate(self.entries):
            if isinstance(entry, LeafRun):
                tokens.append(entry.tokens(entry.leaves.token_ids))
                lens.append(entry.lens)
                if entry.leaves.token_type_ids is not None:
                    types.append(entry.tokens(entry.leaves.token_type_ids))
                if entry.leaves.key_lens is not None:
                    keys.append((position, entry.leaves.key_lens[entry.first : entry.last]))
            else:
                tokens.append(entry.token_ids)
                lens.append(np.array([len(entry)]))
                read[position] = bool(entry.pairs) and not self._reads_several(position)
        counts = np.array(self._counts)
        read_segments, read_offsets = read.repeat(counts).nonzero()[0], None
        if any(entry.reads is not None for entry in self.entries):
            read_segments, read_offsets = self._several_reads(lens)
        token_ids = np.concatenate(tokens).astype(np.int32, copy=False)
        seen = pictures_of(self.entries, self.calls, token_ids)
        return SchedulerOutput(
            step_id=self.step_id,
            token_ids=token_ids if seen is None else seen.token_ids,
            segment_lens=np.concatenate(lens).astype(np.int32, copy=False),
            context_ids=np.array(context_ids, np.int32).repeat(counts),
            context_indptr=np.array(indptr, np.int32),
            context_ranges=np.array(ranges, np.int32).reshape(-1, 2),
            keep_ranges=np.array(keep, np.int32).reshape(-1, 3),
            read_segments=read_segments.astype(np.int32, copy=False),
            token_type_ids=np.concatenate(types).astype(np.int32, copy=False) if types else None,
            adapter=self.adapter,
            read_offsets=read_offsets,
            key_lens=_all_keys(lens, keys) if keys else None,
            position_shifts=None if seen is None else seen.position_shifts,
            pictures=[] if seen is None else seen.pictures,
            picture_rows=None if seen is None else seen.rows,
        )

    def _reads_several(self, position: int) -> bool:
        """Whether an entry's call names the tokens to read."""
        call = self.calls[position]
        return call is not None and call.read_rows is not None

    def _several_reads(self, lens: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """(R,) segments and offsets of the reads, entry after entry, where a call names the tokens to read."""
        segments, offsets, first = [], [], 0
        for entry, call, own_lens in zip(self.entries, self.calls, lens, strict=True):
            if entry.reads is not None:
                counts = np.diff(entry.reads.bounds)
                segments.append(first + np.arange(len(counts)).repeat(counts))
                offsets.append(entry.reads.offsets)
            elif call is not None and call.read_rows is None and (isinstance(entry, LeafRun) or entry.pairs):
                segments.append(first + np.arange(len(own_lens)))
                offsets.append(own_lens - 1)
            first += len(own_lens)
        return np.concatenate(segments), np.concatenate(offsets).astype(np.int32)

    def _contexts(self, kv_capacity: int) -> tuple[list[int], list[int], list[Range]]:
        """Each distinct parent is one context: its chain of ancestors as ranges of slots and rows."""
        ids: dict[Segment, int] = {}
        context_ids: list[int] = []
        indptr = [0]
        ranges: list[Range] = []
        for entry in self.entries:
            parent = entry.parent
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
            assert own, "an ancestor is neither in this step nor in the KV cache"
            for start, length in own:
                if start == kv_capacity:  # the last slot of the KV cache and the step's first row are no neighbours
                    ranges.append((start, length))
                else:
                    append_range(ranges, start, length)
        return ranges


def _all_keys(lens: list[np.ndarray], keys: list[tuple[int, np.ndarray]]) -> np.ndarray:
    """(S,) tokens that are seen of each segment; ``keys``: those of the entries that say it."""
    found = list(lens)
    for position, key_lens in keys:
        found[position] = key_lens
    return np.concatenate(found).astype(np.int32)


def _keep_rows(row: int, slots: list[Range]) -> list[tuple[int, int, int]]:
    kept = []
    for slot, length in slots:
        kept.append((row, slot, length))
        row += length
    return kept
