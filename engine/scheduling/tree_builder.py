"""Pairs of one call -> token tree, by sorting them and looking at what neighbours share, as in a suffix array.

O(tokens) in NumPy; Python runs once for each segment that is shared, and not at all for the documents under it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from engine.scheduling.sorted_pairs import SortedPairs, begin_with, sort_pairs
from engine.scheduling.token_tree import Leaves, Node, Segment


class TreeBuilder:
    """Pairs of one call -> roots of the tree.

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
        """Cut runs into chunks of at most so many tokens from now on."""
        self._max_segment_tokens = min(self._max_segment_tokens, max_segment_tokens)

    def build(
        self,
        token_ids: np.ndarray,
        pair_lens: np.ndarray,
        constant_prefix: Segment | None = None,
        *,
        token_types: np.ndarray | None = None,
        query_lens: np.ndarray | None = None,
        key_lens: np.ndarray | None = None,
        members: np.ndarray | None = None,
    ) -> list[Node]:
        """Roots of the tree; their parent is ``constant_prefix`` for pairs that begin with its ids, else None.

        ``token_ids`` (and ``token_types``) hold the call's pairs one after the other. The roots are *not* entered in
        ``constant_prefix.children``, since many calls share it. ``members`` limits the tree to these pairs (those still
        unanswered after a failure).
        """
        hints = query_lens if self._cut_at_query else None
        if len(pair_lens) == 1 and hints is None and key_lens is None:
            alone = self._single(token_ids, constant_prefix if self._share else None, token_types)
            if alone is not None:
                return [alone]
        lens = pair_lens.astype(np.int64)
        starts = lens.cumsum() - lens
        members = np.arange(len(lens)) if members is None else members
        if not self._share:
            return [_flat(token_ids, starts, lens, members, token_types, key_lens)]
        on_constant_prefix = (
            np.zeros(len(members), bool)
            if constant_prefix is None
            else begin_with(token_ids, starts, lens, members, constant_prefix)
        )
        roots: list[Node] = []
        for parent, chosen in ((constant_prefix, members[on_constant_prefix]), (None, members[~on_constant_prefix])):
            if len(chosen):
                roots += _Branch(self, token_ids, sort_pairs(token_ids, starts, lens, chosen, hints), parent).grow()
        for root in roots:
            if isinstance(root, Segment):
                _measure_paths(root)
        return roots

    def _single(
        self, token_ids: np.ndarray, constant_prefix: Segment | None, token_types: np.ndarray | None
    ) -> Leaves | None:
        """The tree of a call of one pair, unless it is too long for one segment."""
        start, length = 0, len(token_ids)
        parent = None
        if constant_prefix is not None:
            constant_prefix_len = len(constant_prefix.token_ids)
            if (
                length > constant_prefix_len
                and token_ids[:constant_prefix_len].tobytes() == constant_prefix.token_ids.tobytes()
            ):
                parent, start = constant_prefix, constant_prefix_len
        if self._share and length - start > self._max_segment_tokens:
            return None
        return Leaves(
            token_ids, np.array([start]), np.array([length - start]), _FIRST, parent, token_type_ids=token_types
        )

    @property
    def max_segment_tokens(self) -> int:
        return self._max_segment_tokens

    @property
    def min_shared_tokens(self) -> int:
        return self._min_shared_tokens


_FIRST = np.zeros(1, np.int32)


class _Branch:
    """Everything under one parent: the constant prefix, or none."""

    def __init__(self, builder: TreeBuilder, token_ids: np.ndarray, items: SortedPairs, parent: Segment | None) -> None:
        self._longest, self._least = builder.max_segment_tokens, builder.min_shared_tokens
        self._token_ids = token_ids
        self._items = items
        self._parent = parent
        self._roots: list[Node] = []

    def grow(self) -> list[Node]:
        """Top-down over runs of sorted pairs. The pairs of a run share their first ``depth`` tokens, which end at
        ``above``; what is left of them is cut into clusters that share enough to be a segment, and into leaves."""
        items = self._items
        runs = [(0, len(items.lens), 0 if self._parent is None else len(self._parent), self._parent, True)]
        while runs:
            lo, hi, depth, above, may_hint = runs.pop()
            firsts, lasts = self._clusters(lo, hi, depth, may_hint)
            alone = lasts - firsts == 1
            if items.hints is not None and may_hint:
                hints = items.hints[firsts]
                alone &= (hints <= depth) | (hints >= items.lens[firsts])
            for first, last in zip(firsts[~alone].tolist(), lasts[~alone].tolist(), strict=True):
                runs.append(self._cluster(first, last, depth, above, may_hint))
            self._attach_leaves(firsts[alone], depth, above)
        return self._roots

    def _clusters(self, lo: int, hi: int, depth: int, may_hint: bool) -> tuple[np.ndarray, np.ndarray]:
        """Runs of neighbours that share a segment below ``depth``: first items, and items after the last ones."""
        common = self._items.common[lo + 1 : hi]
        enough: int | np.ndarray = depth + self._least
        if self._items.hints is not None and may_hint:  # a query's end is a border however short the query
            hints = self._items.hints[lo : hi - 1]
            enough = np.minimum(enough, np.where(hints > depth, hints, enough))
        cuts = (common < enough).nonzero()[0] + (lo + 1)
        return np.concatenate([[lo], cuts]), np.concatenate([cuts, [hi]])

    def _cluster(
        self, first: int, last: int, depth: int, above: Segment | None, may_hint: bool
    ) -> tuple[int, int, int, Segment | None, bool]:
        """The segment of a cluster, and the run of pairs below it."""
        items = self._items
        length = int(items.lens[first])
        shared = length if last - first == 1 else int(items.common[first + 1 : last].min())
        hint = int(items.hints[first]) if items.hints is not None and may_hint else 0
        if depth < hint <= shared and hint < length:
            node = self._chain(first, depth, hint, above)
            node.is_query_end = True
            return first, last, hint, node, True
        if shared - depth < self._least:
            return first, last, depth, above, False
        node = self._chain(first, depth, shared, above)
        if length == shared:  # the shortest comes first, and ends here
            node.pairs = items.pairs_of(first)
            first += 1
        return first, last, shared, node, may_hint

    def _chain(self, item: int, start: int, end: int, above: Segment | None) -> Segment:
        """Tokens ``start`` to ``end`` of an item as one segment, or as several that follow each other; the last one."""
        origin = int(self._items.starts[item])
        for at in range(start, end, self._longest):
            part = Segment(self._token_ids[origin + at : origin + min(end, at + self._longest)], above)
            part.origin = origin + at
            self._attach(part, above)
            above = part
        assert above is not None
        return above

    def _attach(self, node: Node, above: Segment | None) -> None:
        if above is None or above is self._parent:
            self._roots.append(node)
        elif isinstance(node, Segment):
            above.add_child(node)
        else:
            above.add_leaves(node)

    def _attach_leaves(self, chosen: np.ndarray, depth: int, above: Segment | None) -> None:
        """Items that share nothing more: leaves, at the end of a chain where they are long."""
        if not len(chosen):
            return
        long = self._items.lens[chosen] - depth > self._longest
        if long.any():
            for item in chosen[long].tolist():
                length = int(self._items.lens[item])
                start = depth + (length - depth - 1) // self._longest * self._longest
                self._attach_chosen(np.array([item]), start, self._chain(item, depth, start, above))
            chosen = chosen[~long]
        if len(chosen):
            self._attach_chosen(chosen, depth, above)

    def _attach_chosen(self, chosen: np.ndarray, depth: int, above: Segment | None) -> None:
        items = self._items
        pairs, bounds = items.pairs, items.bounds
        if bounds is None:
            pairs = pairs[chosen]
        else:
            counts = bounds[chosen + 1] - bounds[chosen]
            pairs = np.concatenate([pairs[bounds[item] : bounds[item + 1]] for item in chosen.tolist()])
            bounds = np.concatenate([[0], counts.cumsum()])
        starts, lens = items.starts[chosen] + depth, items.lens[chosen] - depth
        self._attach(Leaves(self._token_ids, starts, lens, pairs, above, bounds=bounds), above)


def _flat(
    token_ids: np.ndarray,
    starts: np.ndarray,
    lens: np.ndarray,
    members: np.ndarray,
    types: np.ndarray | None,
    key_lens: np.ndarray | None,
) -> Leaves:
    """Every different pair as a leaf of its own."""
    firsts: dict[tuple[bytes, bytes, int], int] = {}
    chosen: list[int] = []
    leaf_of: list[int] = []
    id_bytes = np.ascontiguousarray(token_ids).tobytes()
    type_bytes = b"" if types is None else np.ascontiguousarray(types).tobytes()
    for pair in members.tolist():
        part = slice(4 * int(starts[pair]), 4 * int(starts[pair] + lens[pair]))
        num_keys = 0 if key_lens is None else int(key_lens[pair])
        leaf = firsts.setdefault((id_bytes[part], type_bytes[part], num_keys), len(chosen))
        if leaf == len(chosen):
            chosen.append(pair)
        leaf_of.append(leaf)
    kept = np.array(chosen)
    pairs, bounds = members, None
    if len(chosen) < len(members):
        pairs = members[np.argsort(leaf_of, kind="stable")]
        bounds = np.concatenate([[0], np.bincount(leaf_of).cumsum()])
    keys = None if key_lens is None else key_lens[kept]
    return Leaves(token_ids, starts[kept], lens[kept], pairs, None, bounds=bounds, token_type_ids=types, key_lens=keys)


def _measure_paths(root: Segment) -> None:
    """Fill ``path_tokens`` bottom-up."""
    for segment in reversed(list(root.descend())):
        below = max((child.path_tokens for child in segment.children), default=0)
        segment.path_tokens = len(segment) + below


def total_tokens(roots: Sequence[Node]) -> int:
    """Tokens that computing these trees takes, each segment and leaf once."""
    total, stack = 0, list(roots)
    while stack:
        node = stack.pop()
        if isinstance(node, Leaves):
            total += node.num_tokens
        else:
            total += len(node)
            stack += node.below()
    return total


def segments_of(roots: Sequence[Node]) -> Iterator[Segment]:
    """Every segment of these trees that has something below it."""
    return (segment for root in roots if isinstance(root, Segment) for segment in root.descend())


def leaves_of(roots: Sequence[Node]) -> Iterator[Leaves]:
    """Every set of leaves of these trees."""
    for root in roots:
        if isinstance(root, Leaves):
            yield root
        else:
            yield from (leaves for segment in root.descend() for leaves in segment.leaves)
