"""Which segments hold slots of the KV cache, from their first step until nobody needs them.

A segment needs slots while it has children that are not in its own step. ``commit`` promises them before a path is
started, ``keep`` hands them out once a step is planned, ``finish`` and ``retire`` take them back, or pass them on to
the prefix store.
"""

from __future__ import annotations

import numpy as np

from engine.config import SchedulerConfig
from engine.scheduling.call import Call
from engine.scheduling.kv_slots import KVSlots
from engine.scheduling.prefix_store import PrefixStore
from engine.scheduling.step_plan import StepPlan
from engine.scheduling.token_tree import LeafRun, Leaves, Node, Segment, SegmentState


class KVMemory:
    """``capacity`` 0: a model without shared context, for which nothing is ever kept."""

    def __init__(
        self,
        config: SchedulerConfig,
        capacity: int,
        constant_prefix: np.ndarray | None,
        token_budget: int,
        max_model_len: int,
    ) -> None:
        self._slots = KVSlots(capacity)
        constant_prefix_len = 0 if constant_prefix is None else len(constant_prefix)
        # What stays for good must leave room for the longest pair beside it.
        spare = capacity - constant_prefix_len - max_model_len
        keeps_constant_prefix = spare >= 0 and config.prefix_cache != "off" and 0 < constant_prefix_len <= token_budget
        spare = max(0, spare) if config.prefix_cache == "query" else 0
        wanted = capacity // 4 if config.prefix_store_tokens is None else config.prefix_store_tokens
        self.store = PrefixStore(self._slots, constant_prefix if keeps_constant_prefix else None, min(spare, wanted))

    @property
    def capacity(self) -> int:
        return self._slots.capacity

    @property
    def used_tokens(self) -> int:
        return self._slots.used

    @property
    def constant_prefix(self) -> Segment | None:
        return self.store.constant_prefix

    def reuse_kept(self, roots: list[Node], call: Call) -> list[Node]:
        """Replace query segments by those that the prefix store keeps; their children become roots."""
        if not self.store.keeps_queries:
            return roots
        return [node for root in roots for node in self._reuse_one(root, call)]

    def _reuse_one(self, root: Node, call: Call) -> list[Node]:
        kept = self.store.lookup(root, _scope(call)) if isinstance(root, Segment) and root.is_query_end else None
        if kept is None:
            return [root]
        below = root.below() if isinstance(root, Segment) else []
        for node in below:
            node.parent = kept
            kept.num_unfinished_children += node.num_leaves if isinstance(node, Leaves) else 1
        return below

    def commit(self, segment: Segment, may_grow: bool) -> bool:
        """Reserve the slots that the segment and its longest path below can need; False if it has to wait.

        One child at a time lives in its parent's own commitment; further ones, and roots, take new slots, which
        ``may_grow`` allows.
        """
        parent = segment.parent
        if parent is not None and not parent.pinned and not parent.slack_used:
            parent.slack_used = True
            return True
        if not may_grow or not self._slots.commit(segment.path_tokens):
            return False
        segment.reserved = segment.path_tokens
        return True

    def keep(self, plan: StepPlan) -> None:
        """Slots for segments some of whose children are not in this step, and for their context; and for queries that
        the prefix store will be offered."""
        for segment in plan.inner:
            if segment.is_query_end or segment.num_waiting_children > 0:
                node: Segment | None = segment
                while node is not None and node in plan and not node.slots:
                    node.slots = self._slots.allocate(len(node))
                    node = node.parent

    def finish(self, run: LeafRun, call: Call) -> None:
        """Leaves are done; so is every ancestor that has no other unfinished child."""
        run.leaves.num_finished += run.num_leaves
        segment = run.parent
        if segment is None or segment is self.store.constant_prefix:
            return
        segment.num_unfinished_children -= run.num_leaves
        while segment is not None and segment.num_unfinished_children == 0 and not segment.pinned:
            parent = segment.parent
            self._release(segment, call)
            self._detach(parent)
            if parent is not None and not segment.reserved:
                parent.slack_used = False
            segment = parent

    def retire(self, call: Call) -> None:
        """The call is over: take back what its unfinished segments hold."""
        for root in call.roots:
            if isinstance(root, Leaves):
                self._detach(root.parent, root.num_leaves - root.num_finished)
                continue
            if root.state is not SegmentState.FINISHED:
                self._detach(root.parent)
            for segment in list(root.descend()):
                if segment.state in (SegmentState.SCHEDULED, SegmentState.COMPUTED) and not segment.pinned:
                    self._release(segment, call)

    def reset(self) -> None:
        """The contents of the KV cache are lost."""
        self._slots.clear()
        self.store.reset()

    def _detach(self, parent: Segment | None, num_children: int = 1) -> None:
        """Children of ``parent`` need it no more. The constant prefix does not count: it is never released."""
        if parent is not None and parent is not self.store.constant_prefix:
            parent.num_unfinished_children -= num_children

    def _release(self, segment: Segment, call: Call) -> None:
        segment.state = SegmentState.FINISHED
        if segment.reserved:
            self._slots.withdraw(segment.reserved)
        if segment.slots and not self._passed_on(segment, call):
            self._slots.release(segment.slots)
            segment.slots = []

    def _passed_on(self, segment: Segment, call: Call) -> bool:
        if not segment.is_query_end or call.aborted or not self.store.offer(segment, _scope(call)):
            return False
        segment.state = SegmentState.COMPUTED
        return True


def _scope(call: Call) -> str:
    """Adapters change keys and values, so they never share a prefix."""
    return f"{call.request.adapter or ''}\0{call.request.cache_scope}"
