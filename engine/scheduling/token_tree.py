"""The token tree of a call: runs of tokens that are computed once.

All pairs of a call begin alike (template, instruction, query), and a causal model gives equal beginnings equal keys and
values. A **segment** is such a run, its parent is its left context, and a pair is a path from a root to the segment
where its last token stands. Shared runs are found by comparing token ids, never by trusting where texts were joined,
so the scores are those of the whole prompt tokenised at once. A run longer than a step is cut into chunks, each the
parent of the next: prefix sharing and chunked prefill are one mechanism.

Nearly all segments are **leaves**: nothing follows them, so nobody needs their keys, and all that is ever asked of them
is where their tokens are and whose score they give. They are arrays (``Leaves``), as many as hang under one parent;
only a segment with something below it is an object (``Segment``). So a call of a thousand documents is two objects.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum, auto
from typing import NamedTuple

import numpy as np

from engine.ranges import Range


class SegmentState(Enum):
    WAITING = auto()
    SCHEDULED = auto()
    """In a step that was handed to the executor; later steps may build on it, since steps run in order."""
    COMPUTED = auto()
    FINISHED = auto()


class Reads(NamedTuple):
    """Tokens of a node that are read, in calls whose prompts are read at several tokens. r of them."""

    bounds: np.ndarray
    """(segments + 1,) where each segment's begin."""
    offsets: np.ndarray
    """(r,) their places in their segment."""
    rows: np.ndarray
    """(r,) their numbers among the reads of the call."""


class Segment:
    """A run of tokens with one left context, and with something below it."""

    __slots__ = (
        "children",
        "is_query_end",
        "leaves",
        "num_unfinished_children",
        "num_waiting_children",
        "origin",
        "pairs",
        "parent",
        "path_tokens",
        "pinned",
        "position",
        "reads",
        "reserved",
        "slack_used",
        "slots",
        "state",
        "token_ids",
    )

    def __init__(self, token_ids: np.ndarray, parent: Segment | None) -> None:
        self.token_ids = token_ids
        self.parent = parent
        self.position: int = 0 if parent is None else parent.position + len(parent.token_ids)
        self.origin: int | None = None
        """Where its tokens begin in those of the call; None: they are of no call alone."""
        self.children: list[Segment] = []
        self.leaves: list[Leaves] = []
        self.pairs: list[int] = []
        """Pairs of the call whose score is read at this segment's last token."""
        self.reads: Reads | None = None
        """Of a call that names the tokens to read; None also where none of them is here."""
        self.is_query_end = False
        """The context up to here is template, instruction and query: worth keeping if queries are kept."""
        self.state = SegmentState.WAITING
        self.slots: list[Range] = []
        """Where its keys and values are kept; empty while nobody outside its own step needs them."""
        self.num_waiting_children = 0
        """Children and leaves that are in no step yet."""
        self.num_unfinished_children = 0
        self.path_tokens = 0
        """Most slots that finishing everything from here down, one path after the other, can need; leaves need none."""
        self.reserved = 0
        """Slots that starting this segment committed in the KV cache."""
        self.slack_used = False
        """Whether a child uses the slots that were committed for this segment's longest path."""
        self.pinned = False
        """Owned by the prefix store, which decides when its slots are released."""

    def __len__(self) -> int:
        return len(self.token_ids)

    def add_child(self, child: Segment) -> None:
        self.children.append(child)
        self.num_waiting_children += 1
        self.num_unfinished_children += 1

    def add_leaves(self, leaves: Leaves) -> None:
        self.leaves.append(leaves)
        self.num_waiting_children += leaves.num_leaves
        self.num_unfinished_children += leaves.num_leaves

    def below(self) -> list[Node]:
        """The children of this segment, leaves included."""
        return [*self.children, *self.leaves]

    def descend(self) -> Iterator[Segment]:
        """This segment and all segments below it that have something below themselves."""
        stack = [self]
        while stack:
            segment = stack.pop()
            yield segment
            stack.extend(segment.children)


class Leaves:
    """Segments that nothing follows, all under one parent. L of them, at which P >= L pairs end."""

    __slots__ = (
        "bounds",
        "ends",
        "key_lens",
        "lens",
        "num_finished",
        "num_leaves",
        "num_tokens",
        "pairs",
        "parent",
        "reads",
        "starts",
        "token_ids",
        "token_type_ids",
    )

    def __init__(
        self,
        token_ids: np.ndarray,
        starts: np.ndarray,
        lens: np.ndarray,
        pairs: np.ndarray,
        parent: Segment | None,
        *,
        bounds: np.ndarray | None = None,
        token_type_ids: np.ndarray | None = None,
        key_lens: np.ndarray | None = None,
    ) -> None:
        self.token_ids = token_ids
        """(tokens of the call,) int32, of the whole call: a leaf is a range of them."""
        self.token_type_ids = token_type_ids
        self.starts = starts
        """(L,) where each leaf begins in ``token_ids``."""
        self.lens = lens
        """(L,)."""
        self.ends = lens if len(lens) == 1 else lens.cumsum()
        """(L,) tokens of all leaves up to and with this one."""
        self.pairs = pairs
        """(P,) pairs of the call, leaf after leaf."""
        self.bounds = bounds
        """(L + 1,) where each leaf's pairs begin in ``pairs``; None: every leaf has one."""
        self.key_lens = key_lens
        """(L,) leading tokens of each leaf that are seen; None: all."""
        self.reads: Reads | None = None
        """Of a call that names the tokens to read."""
        self.parent = parent
        self.num_leaves = len(lens)
        self.num_tokens = int(self.ends[-1])
        self.num_finished = 0

    def all(self) -> LeafRun:
        return LeafRun(self, 0, self.num_leaves)


class LeafRun(NamedTuple):
    """Leaves ``first`` to ``last - 1`` of some."""

    leaves: Leaves
    first: int
    last: int

    @property
    def parent(self) -> Segment | None:
        return self.leaves.parent

    @property
    def num_leaves(self) -> int:
        return self.last - self.first

    @property
    def lens(self) -> np.ndarray:
        return self.leaves.lens[self.first : self.last]

    @property
    def num_tokens(self) -> int:
        ends = self.leaves.ends
        if self.last - self.first == self.leaves.num_leaves:
            return self.leaves.num_tokens
        return int(ends[self.last - 1] - (ends[self.first - 1] if self.first else 0))

    @property
    def pairs(self) -> np.ndarray:
        """Pairs that end at these leaves, leaf after leaf."""
        bounds = self.leaves.bounds
        if bounds is None:
            return self.leaves.pairs[self.first : self.last]
        return self.leaves.pairs[bounds[self.first] : bounds[self.last]]

    def of_pairs(self, values: np.ndarray) -> np.ndarray:
        """Rows of the leaves -> rows of their pairs."""
        bounds = self.leaves.bounds
        return values if bounds is None else values.repeat(np.diff(bounds[self.first : self.last + 1]), axis=0)

    @property
    def reads(self) -> Reads | None:
        """The reads of these leaves only."""
        reads = self.leaves.reads
        if reads is None or self.num_leaves == self.leaves.num_leaves:
            return reads
        bounds = reads.bounds[self.first : self.last + 1]
        return Reads(bounds - bounds[0], reads.offsets[bounds[0] : bounds[-1]], reads.rows[bounds[0] : bounds[-1]])

    def one_by_one(self) -> Iterator[LeafRun]:
        return (LeafRun(self.leaves, leaf, leaf + 1) for leaf in range(self.first, self.last))

    def tokens(self, of: np.ndarray) -> np.ndarray:
        """The part of ``of`` (token ids or types of the whole call) that belongs to these leaves, leaf after leaf."""
        leaves, first, last = self
        if last - first == 1:
            start = leaves.starts[first]
            return of[start : start + leaves.lens[first]]
        starts, lens = leaves.starts[first:last], leaves.lens[first:last]
        ends = lens.cumsum()
        found: np.ndarray = of[np.arange(ends[-1]) + (starts - (ends - lens)).repeat(lens)]
        return found


Node = Segment | Leaves
"""A node of a tree: a segment with children, or leaves side by side."""
Entry = Segment | LeafRun
"""An entry of a step's plan."""
