"""Which keys each segment's queries see, as host lists and index tables that packed attention wants.

A segment sees its context and then its own keys. Contexts are shared: siblings read the same rows, and a context may
lie in the KV cache. Rows are therefore taken in two hops: first the few distinct cached rows are put in front of
the step's keys (``cached_rows``), then rows are read from there. There are three layouts of the keys:

* ``IN_PLACE``: no contexts, the keys are the step's rows. Nothing is copied.
* ``PAGED``: blocks of 128 keys with a table of blocks for each segment (``pages.py``). What is shared lies there once.
* ``GATHERED``: each segment's keys one after the other, contexts copied in front of every sibling. Needs nothing of the
  operator but cumulative lengths; it is also what the paged form is checked against.

Letters: S segments with queries, P distinct cached rows, T rows of the step, K keys of all segments together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property

import numpy as np
import torch

from engine.kernels.npu.pages import BLOCK, Pages, lay_pages
from engine.kernels.ops import AttentionMeta
from engine.kernels.ranges import expand_ranges


class Layout(Enum):
    """How a step's keys lie when the operator reads them; see the module docstring."""

    IN_PLACE = "in place"
    PAGED = "paged"
    GATHERED = "gathered"


@dataclass(frozen=True, eq=False)
class HostPlan:
    """A step's attention on the host; only segments that have queries, in the order of their queries.

    A *joint row* is one of the cached rows followed by the step's rows.
    """

    q_lens: np.ndarray
    """(S,)"""
    cached_rows: np.ndarray
    """(P,) distinct slots of the KV cache."""
    sources: np.ndarray
    """Joint rows of all contexts' tokens, one context after the other."""
    context_starts: np.ndarray
    """(S,) where in ``sources`` each segment's context begins."""
    context_lens: np.ndarray
    """(S,)"""
    own_starts: np.ndarray
    """(S,) the joint row of each segment's first own key."""
    own_lens: np.ndarray
    """(S,)"""

    @cached_property
    def kv_lens(self) -> np.ndarray:
        """(S,) keys that each segment sees."""
        return self.context_lens + self.own_lens

    @cached_property
    def kv_rows(self) -> np.ndarray:
        """(K,) joint rows, for the layout ``GATHERED``."""
        last_row = int((self.own_starts + self.own_lens).max()) if len(self.q_lens) else 0
        lookup = np.concatenate([self.sources, np.arange(last_row)])
        starts = np.stack([self.context_starts, self.own_starts + len(self.sources)], 1).ravel()
        lengths = np.stack([self.context_lens, self.own_lens], 1).ravel()
        return lookup[expand_ranges(starts, lengths)]

    @cached_property
    def pages(self) -> Pages:
        """The tables of the layout ``PAGED``."""
        return lay_pages(self.sources, self.context_starts, self.context_lens, self.own_starts, self.own_lens)

    @cached_property
    def in_place(self) -> bool:
        """The keys are a run of the step's rows from the first on, so nothing has to be gathered."""
        ends = np.cumsum(self.own_lens)
        return not self.context_lens.any() and np.array_equal(self.own_starts, ends - self.own_lens)

    @cached_property
    def is_square(self) -> bool:
        """Every segment has as many queries as keys."""
        return np.array_equal(self.q_lens, self.kv_lens)

    def layout(self, *, paged: bool) -> Layout:
        """The layout of the step; ``paged``: it takes block tables, the only way to more keys than queries."""
        if self.in_place and (self.is_square or not paged):
            return Layout.IN_PLACE
        return Layout.PAGED if paged else Layout.GATHERED


@dataclass(frozen=True)
class Launch:
    """One launch of the operator: a run of segments that respects its limits."""

    segments: slice
    q: slice
    kv: slice
    """Rows of the gathered keys."""
    q_ends: list[int]
    """Cumulative query lengths, without a leading zero."""
    kv_ends: list[int]
    """Cumulative key lengths, without a leading zero."""
    kv_lens: list[int]
    """The same, segment by segment, as block tables want them."""

    @property
    def num_keys(self) -> int:
        return self.kv_ends[-1]


@dataclass(eq=False)
class AttentionPlan:
    """A step's attention, the same for all layers."""

    host: HostPlan
    layout: Layout
    cached_rows: torch.Tensor | None = None
    """(P,) int64, or None: nothing comes from the KV cache."""
    rows: torch.Tensor | None = None
    """Joint rows that are gathered, int64: (K,), or (B * 128,) for pages; None: the keys are read in place."""
    table: torch.Tensor | None = None
    """(S, W) int32, for pages: each segment's blocks."""
    num_blocks: int = 0
    """For pages: that the operator is given, of which the last ones may hold nothing."""
    launches: list[Launch] = field(default_factory=list)
    """Made when the operator and with it its limits are known."""
    for_graph: bool = False
    """Only operators that can be captured, one launch a layer."""
    layers: list[AttentionPlan] = field(default_factory=list)
    """A plan for a graph notes each use of itself here: graphs update operators in the order of their capture."""

    def launches_within(self, *, max_segments: int, max_tokens: int) -> list[Launch]:
        """The step in as few launches as an operator with these limits needs."""
        if not self.launches:
            host = self.host
            self.launches = list(split(host.q_lens, host.kv_lens, max_segments=max_segments, max_tokens=max_tokens))
        return self.launches


def plan_on_host(meta: AttentionMeta) -> HostPlan:
    order = np.argsort(meta.q_starts, kind="stable")
    order = order[meta.q_lens[order] > 0]
    context_ids = meta.context_ids[order]
    context_lens = np.append(meta.context_lens, 0)[context_ids]  # the id -1 finds the appended zero

    ranges = meta.context_ranges.reshape(-1, 2).astype(np.int64)
    addresses = expand_ranges(ranges[:, 0], ranges[:, 1])
    is_cached = addresses < meta.kv_capacity
    cached_rows, rows_of_cached = np.unique(addresses[is_cached], return_inverse=True)
    sources = addresses - meta.kv_capacity + len(cached_rows)
    sources[is_cached] = rows_of_cached

    sizes = np.concatenate([[0], np.cumsum(ranges[:, 1])])
    return HostPlan(
        q_lens=meta.q_lens[order].astype(np.int64),
        cached_rows=cached_rows,
        sources=sources,
        context_starts=np.append(sizes[meta.context_indptr[:-1]], 0)[context_ids],
        context_lens=context_lens,
        own_starts=meta.own_starts[order].astype(np.int64) + len(cached_rows),
        own_lens=meta.own_lens[order].astype(np.int64),
    )


def split(q_lens: np.ndarray, kv_lens: np.ndarray, *, max_segments: int, max_tokens: int) -> Iterator[Launch]:
    """Runs of whole segments within an operator's limits; a segment that is too long by itself is a run of its own."""
    q_ends, kv_ends = np.cumsum(q_lens), np.cumsum(kv_lens)
    first = 0
    while first < len(q_lens):
        q_base, kv_base = (int(ends[first - 1]) if first else 0 for ends in (q_ends, kv_ends))
        last = min(
            first + max_segments,
            int(np.searchsorted(q_ends, q_base + max_tokens, side="right")),
            int(np.searchsorted(kv_ends, kv_base + max_tokens, side="right")),
        )
        last = max(last, first + 1)
        yield Launch(
            segments=slice(first, last),
            q=slice(q_base, int(q_ends[last - 1])),
            kv=slice(kv_base, int(kv_ends[last - 1])),
            q_ends=(q_ends[first:last] - q_base).tolist(),
            kv_ends=(kv_ends[first:last] - kv_base).tolist(),
            kv_lens=kv_lens[first:last].tolist(),
        )
        first = last


def index_arrays(host: HostPlan, layout: Layout) -> list[np.ndarray]:
    """Cached rows, gathered rows, and the table in one line: what a plan needs on the device. Those not needed are
    empty."""
    nothing = np.empty(0, np.int64)
    if layout == Layout.IN_PLACE:
        return [nothing, nothing, nothing]
    if layout == Layout.GATHERED:
        return [host.cached_rows, host.kv_rows, nothing]
    return [host.cached_rows, host.pages.rows, host.pages.table.ravel()]


def plan_with(host: HostPlan, layout: Layout, tensors: list[torch.Tensor]) -> AttentionPlan:
    """Makes the plan with ``tensors``, the ``index_arrays`` on the device, int64."""
    cached_rows, rows, table = tensors
    plan = AttentionPlan(host, layout)
    if layout != Layout.IN_PLACE:
        plan.cached_rows = cached_rows if len(cached_rows) else None
        plan.rows = rows
    if layout == Layout.PAGED:
        plan.table = table.view(host.pages.table.shape).to(torch.int32)
        plan.num_blocks = host.pages.num_blocks
    return plan


def to_device(rows: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(rows.astype(np.int64, copy=False)).to(device)


def make_plan(meta: AttentionMeta, *, paged: bool) -> AttentionPlan:
    """Makes the plan of a step whose upload did not make it: each table is a copy of its own."""
    host = plan_on_host(meta)
    layout = host.layout(paged=paged)
    return plan_with(host, layout, [to_device(array, meta.device) for array in index_arrays(host, layout)])


def gather(step: torch.Tensor, cache: torch.Tensor, plan: AttentionPlan) -> torch.Tensor:
    """(T, M, H) of the step and (kv_capacity, M, H) of the KV cache -> what the plan's launches read: (K, M, H), or for
    pages (num_blocks, 128, M * H)."""
    if plan.rows is None:
        return step[: int(plan.host.kv_lens.sum())].contiguous()
    source = step if plan.cached_rows is None else torch.cat([cache.index_select(0, plan.cached_rows), step])
    if plan.layout == Layout.GATHERED:
        return source.index_select(0, plan.rows)
    pages = torch.empty(plan.num_blocks * BLOCK, *step.shape[1:], dtype=step.dtype, device=step.device)
    torch.index_select(source, 0, plan.rows, out=pages[: len(plan.rows)])
    return pages.view(plan.num_blocks, BLOCK, -1)
