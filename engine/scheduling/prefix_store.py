"""Segments that outlive their call.

The **constant prefix** is how every prompt begins (template and default instruction). It holds nobody's text, is the
same for every caller, and is kept for good. **Queries** are kept only where the operator said so
(``prefix_cache="query"``), within a budget, least recently used first, and only within one ``cache_scope``: whether a
query was seen before can be told from its timing, so by default nothing of one call is ever visible to another.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import numpy as np

from engine.scheduling.kv_slots import KVSlots
from engine.scheduling.token_tree import Segment, SegmentState


class PrefixStore:
    """Its slots are a part of the KV cache of their own, so it never competes with work that has started."""

    def __init__(self, slots: KVSlots, constant_prefix: np.ndarray | None, query_budget_tokens: int = 0) -> None:
        self._slots = slots
        self._budget = query_budget_tokens
        self._queries: OrderedDict[bytes, Segment] = OrderedDict()
        self.hits = 0
        self.lookups = 0
        self._settle(constant_prefix)

    def _settle(self, constant_prefix: np.ndarray | None) -> None:
        self.constant_prefix: Segment | None = None
        committed = self._slots.commit(self._budget)
        assert committed, "the prefix store is larger than the KV cache"
        if constant_prefix is not None and len(constant_prefix):
            committed = self._slots.commit(len(constant_prefix))
            assert committed, "the KV cache is smaller than the template"
            self.constant_prefix = Segment(constant_prefix.astype(np.int32), None)
            self.constant_prefix.pinned = True
            self.constant_prefix.slots = self._slots.allocate(len(constant_prefix))

    @property
    def keeps_queries(self) -> bool:
        return self._budget > 0

    @property
    def _query_tokens(self) -> int:
        return sum(len(segment) for segment in self._queries.values())

    @property
    def num_tokens(self) -> int:
        return self._query_tokens + (0 if self.constant_prefix is None else len(self.constant_prefix))

    def lookup(self, query: Segment, scope: str) -> Segment | None:
        """A kept segment with the same tokens and context as ``query``, or None."""
        self.lookups += 1
        key = _key(query, scope)
        found = self._queries.get(key)
        if found is not None:
            self._queries.move_to_end(key)
            self.hits += 1
        return found

    def offer(self, query: Segment, scope: str) -> bool:
        """Take over a finished query segment and its slots; False if there is no room for it.

        Only one that stands directly on the constant prefix (or at the start), so that its context lives as long.
        """
        if query.parent is not self.constant_prefix and query.parent is not None:
            return False
        key = _key(query, scope)
        if key in self._queries or not self._evict(len(query)):
            return False
        query.pinned = True
        query.children, query.leaves = [], []
        self._queries[key] = query
        return True

    def _evict(self, num_tokens: int) -> bool:
        if num_tokens > self._budget:
            return False
        for key, segment in list(self._queries.items()):
            if self._query_tokens + num_tokens <= self._budget:
                break
            if segment.num_unfinished_children == 0:
                self._drop(key)
        return self._query_tokens + num_tokens <= self._budget

    def _drop(self, key: bytes) -> None:
        segment = self._queries.pop(key)
        self._slots.release(segment.slots)
        segment.slots, segment.state = [], SegmentState.FINISHED

    def drop_queries(self) -> None:
        """Release every kept query that nobody is using."""
        for key, segment in list(self._queries.items()):
            if segment.num_unfinished_children == 0:
                self._drop(key)

    def reset(self) -> None:
        """The contents of the KV cache are lost: the constant prefix has to be computed again, the queries are gone."""
        self._queries.clear()
        self._settle(None if self.constant_prefix is None else self.constant_prefix.token_ids)


def _key(segment: Segment, scope: str) -> bytes:
    """SHA-256 over the scope and all tokens from the root: no two contexts share a key."""
    digest = hashlib.sha256(scope.encode() + b"\0")
    chain = [segment]
    while chain[-1].parent is not None:
        chain.append(chain[-1].parent)
    for part in reversed(chain):
        digest.update(np.ascontiguousarray(part.token_ids).tobytes())
    return digest.digest()
