"""The token tree of a call: runs of tokens that are computed once.

All pairs of a call begin alike (template, instruction, query), and a causal model gives equal beginnings equal keys and
values. A **segment** is such a run, its parent is its left context, and a pair is a path from a root to the segment
where its last token stands. Shared runs are found by comparing token ids, never by trusting where texts were joined,
so the scores are those of the whole prompt tokenised at once. A run longer than a step is cut into chunks, each the
parent of the next: prefix sharing and chunked prefill are one mechanism.

The tree is built by sorting the pairs and looking at the longest common prefix of neighbours, as in a suffix array:
O(tokens) in NumPy and O(segments) in Python.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum, auto
from itertools import pairwise

import numpy as np

from engine.ranges import Range, common_prefix


class SegmentState(Enum):
    WAITING = auto()
    SCHEDULED = auto()
    """In a step that was handed to the executor; later steps may build on it, since steps run in order."""
    COMPUTED = auto()
    FINISHED = auto()


class Segment:
    """A run of tokens with one left context."""

    __slots__ = (
        "children",
        "is_query_end",
        "num_unfinished_children",
        "pairs",
        "parent",
        "path_tokens",
        "pinned",
        "position",
        "reserved",
        "slack_used",
        "slots",
        "state",
        "token_ids",
        "token_type_ids",
    )

    def __init__(self, token_ids: np.ndarray, parent: Segment | None, token_type_ids: np.ndarray | None = None) -> None:
        self.token_ids = token_ids
        self.token_type_ids = token_type_ids
        self.parent = parent
        self.position: int = 0 if parent is None else parent.position + len(parent.token_ids)
        self.children: list[Segment] = []
        self.pairs: list[int] = []
        """Pairs of the call whose score is read at this segment's last token."""
        self.is_query_end = False
        """The context up to here is template, instruction and query: worth keeping if queries are kept."""
        self.state = SegmentState.WAITING
        self.slots: list[Range] = []
        """Where its keys and values are kept; empty while nobody outside its own step needs them."""
        self.num_unfinished_children = 0
        self.path_tokens = 0
        """Most slots that finishing everything from here down, one path after the other, can need; 0 for leaves."""
        self.reserved = 0
        """Slots that starting this segment committed in the pool."""
        self.slack_used = False
        """Whether a child lives within this segment's own commitment."""
        self.pinned = False
        """Owned by the prefix store, which decides when its slots are released."""

    def __len__(self) -> int:
        return len(self.token_ids)

    def descend(self) -> Iterator[Segment]:
        """This segment and all below it."""
        stack = [self]
        while stack:
            segment = stack.pop()
            yield segment
            stack.extend(segment.children)


class TreeBuilder:
    """Pairs of one call -> root segments.

    ``max_segment_tokens`` cuts long runs; a shared run below ``min_shared_tokens`` is computed per pair, because a
    segment costs more than that. With ``share`` False (bidirectional models) every distinct pair is one segment.
    ``cut_at_query`` gives the query's end a segment border wherever the hint holds, so that it can be kept.
    """

    def __init__(
        self, max_segment_tokens: int, min_shared_tokens: int, share: bool, cut_at_query: bool = False
    ) -> None:
        self._max_segment_tokens = max_segment_tokens
        self._min_shared_tokens = max(1, min_shared_tokens)
        self._share = share
        self._cut_at_query = cut_at_query

    def limit(self, max_segment_tokens: int) -> None:
        """From now on cut at this length at the latest."""
        self._max_segment_tokens = min(self._max_segment_tokens, max_segment_tokens)

    def build(
        self,
        pairs: Sequence[np.ndarray],
        stem: Segment | None = None,
        token_types: Sequence[np.ndarray] | None = None,
        query_lens: Sequence[int] | None = None,
        members: Sequence[int] | None = None,
    ) -> list[Segment]:
        """Roots of the tree; their parent is ``stem`` for pairs that begin with its ids, else None.

        The roots are *not* entered in ``stem.children``: a stem is shared by many calls. ``members`` limits the tree
        to these pairs (those still unanswered after a failure).
        """
        wanted = list(range(len(pairs))) if members is None else list(members)
        if not self._share:
            return _build_flat(pairs, wanted, token_types)
        hints = query_lens if self._cut_at_query else None
        on_stem = [i for i in wanted if stem is not None and _starts_with(pairs[i], stem)]
        off_stem = sorted(set(wanted) - set(on_stem))
        roots = self._build_shared(pairs, on_stem, stem, hints) + self._build_shared(pairs, off_stem, None, hints)
        for root in roots:
            _measure_paths(root)
        return roots

    def _build_shared(
        self,
        pairs: Sequence[np.ndarray],
        members: list[int],
        parent: Segment | None,
        query_lens: Sequence[int] | None,
    ) -> list[Segment]:
        """Top-down over groups of the sorted pairs; the pairs of a group share their first ``depth`` tokens."""
        if not members:
            return []
        order = sorted(members, key=lambda i: pairs[i].astype(">u4").tobytes())
        common = np.zeros(len(order), np.int64)
        for k, (a, b) in enumerate(pairwise(order), start=1):
            common[k] = common_prefix(pairs[a], pairs[b])
        roots: list[Segment] = []
        groups = [(0, len(order), 0 if parent is None else len(parent), parent)]
        while groups:
            lo, hi, depth, above = groups.pop()
            first, last = pairs[order[lo]], pairs[order[hi - 1]]
            shared = len(first) if hi - lo == 1 else int(common[lo + 1 : hi].min())
            hint = 0 if query_lens is None else int(query_lens[order[lo]])
            at_hint = depth < hint <= shared and hint < len(first)
            end = hint if at_hint else shared
            if at_hint or len(last) == end or (hi - lo > 1 and end - depth >= self._min_shared_tokens):
                above = self._chain(first[depth:end], above, roots, above is parent)
                above.is_query_end = at_hint
                lo, depth = _take_ending(above, pairs, order, lo, hi, end), end
            elif len(first) == end:
                # Pairs that end inside a run too short to share: a leaf of their own.
                leaf = self._chain(first[depth:], above, roots, above is parent)
                lo = _take_ending(leaf, pairs, order, lo, hi, end)
            if end < shared:
                groups.append((lo, hi, depth, above))
                continue
            cuts = [lo, *(int(k) for k in np.flatnonzero(common[lo + 1 : hi] == shared) + lo + 1), hi]
            groups.extend((a, b, depth, above) for a, b in reversed(list(pairwise(cuts))) if a < b)
        return roots

    def _chain(self, token_ids: np.ndarray, parent: Segment | None, roots: list[Segment], is_root: bool) -> Segment:
        """One segment, or several of at most ``max_segment_tokens``; returns the last."""
        segment = parent
        for start in range(0, len(token_ids), self._max_segment_tokens):
            chunk = Segment(token_ids[start : start + self._max_segment_tokens], segment)
            if is_root and start == 0:
                roots.append(chunk)
            elif segment is not None:
                segment.children.append(chunk)
                segment.num_unfinished_children += 1
            segment = chunk
        assert segment is not None
        return segment


def _build_flat(
    pairs: Sequence[np.ndarray], wanted: list[int], token_types: Sequence[np.ndarray] | None
) -> list[Segment]:
    seen: dict[tuple[bytes, bytes], Segment] = {}
    for index in wanted:
        types = None if token_types is None else token_types[index]
        key = (pairs[index].tobytes(), b"" if types is None else types.tobytes())
        if key not in seen:
            seen[key] = Segment(pairs[index], None, types)
        seen[key].pairs.append(index)
    return list(seen.values())


def _starts_with(ids: np.ndarray, stem: Segment) -> bool:
    return len(ids) > len(stem) and bool(np.array_equal(ids[: len(stem)], stem.token_ids))


def _take_ending(segment: Segment, pairs: Sequence[np.ndarray], order: list[int], lo: int, hi: int, end: int) -> int:
    """Enter the pairs of the sorted group that end at ``end`` (they come first); returns where the others begin."""
    while lo < hi and len(pairs[order[lo]]) == end:
        segment.pairs.append(order[lo])
        lo += 1
    return lo


def _measure_paths(root: Segment) -> None:
    """Fill ``path_tokens`` bottom-up."""
    for segment in reversed(list(root.descend())):
        if segment.children:
            segment.path_tokens = len(segment) + max(child.path_tokens for child in segment.children)
