"""Which keys each segment's queries see, as the host lists and gather indices that packed attention wants.

The operators take one flat list of keys, cut by **cumulative host lengths**, so a segment's context has to stand in
front of its own keys. Siblings share their context in memory and get a copy each here: 7 to 27 % of the time of the
matrix products for short pairs of the 0.6B model, 1 to 4 % for 4B, and no second kernel. Rows are taken in two hops,
because a context may lie in the pool of kept keys: first the few distinct pool rows are put in front of the step's keys
(``pool_rows``), then every key's place is read from there (``kv_rows``). A step without contexts needs neither.

Letters: P distinct pool rows, T rows of the step, K keys of all segments together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from engine.kernels.ops import AttentionMeta
from engine.kernels.ranges import expand_ranges


@dataclass(frozen=True)
class HostPlan:
    """A step's attention on the host; only segments that have queries, in the order of their queries."""

    q_lens: np.ndarray
    kv_lens: np.ndarray
    pool_rows: np.ndarray
    """(P,) distinct slots of the pool."""
    kv_rows: np.ndarray
    """(K,) places in the pool rows followed by the step's rows."""

    @property
    def as_they_lie(self) -> bool:
        """The keys are a run of the step's rows from the first on, so nothing has to be gathered."""
        return not len(self.pool_rows) and np.array_equal(self.kv_rows, np.arange(len(self.kv_rows)))


@dataclass(frozen=True)
class Call:
    """One call of the operator: a run of segments that respects its limits."""

    q: slice
    kv: slice
    q_ends: list[int]
    """Cumulative query lengths, without a leading zero."""
    kv_ends: list[int]

    @property
    def num_keys(self) -> int:
        return self.kv_ends[-1]


@dataclass(eq=False)
class AttentionPlan:
    """A step's attention, the same for all layers."""

    host: HostPlan
    pool_rows: torch.Tensor | None
    """(P,) int64, or None: nothing comes from the pool."""
    kv_rows: torch.Tensor | None
    """(K,) int64, or None: the keys are the step's rows as they lie."""
    calls: list[Call] = field(default_factory=list)
    """Made when the operator and with it its limits are known."""
    for_graph: bool = False
    """Only operators that can be captured, one call a layer."""
    layers: list[AttentionPlan] = field(default_factory=list)
    """A plan for a graph notes each use of itself here: graphs update operators in the order of their capture."""

    def calls_within(self, *, max_segments: int, max_tokens: int) -> list[Call]:
        if not self.calls:
            host = self.host
            self.calls = list(split(host.q_lens, host.kv_lens, max_segments=max_segments, max_tokens=max_tokens))
        return self.calls


def plan_on_host(meta: AttentionMeta) -> HostPlan:
    order = np.argsort(meta.q_starts, kind="stable")
    order = order[meta.q_lens[order] > 0]
    q_lens, own_lens = meta.q_lens[order].astype(np.int64), meta.own_lens[order].astype(np.int64)
    context_ids = meta.context_ids[order]
    context_lens = np.append(meta.context_lens, 0)[context_ids]  # the id -1 finds the appended zero

    ranges = meta.context_ranges.reshape(-1, 2).astype(np.int64)
    addresses = expand_ranges(ranges[:, 0], ranges[:, 1])
    in_pool = addresses < meta.kv_capacity
    pool_rows, places = np.unique(addresses[in_pool], return_inverse=True)
    sources = addresses - meta.kv_capacity + len(pool_rows)
    sources[in_pool] = places

    sizes = np.concatenate([[0], np.cumsum(ranges[:, 1])])
    context_starts = np.append(sizes[meta.context_indptr[:-1]], 0)[context_ids]
    own_starts = meta.own_starts[order].astype(np.int64) + len(pool_rows)
    # Each segment is two runs, context and own; own rows are looked up behind the contexts' sources.
    last_row = int((own_starts + own_lens).max()) if len(order) else 0
    lookup = np.concatenate([sources, np.arange(last_row)])
    starts = np.stack([context_starts, own_starts + len(sources)], 1).ravel()
    lengths = np.stack([context_lens, own_lens], 1).ravel()
    return HostPlan(q_lens, context_lens + own_lens, pool_rows, lookup[expand_ranges(starts, lengths)])


def split(q_lens: np.ndarray, kv_lens: np.ndarray, *, max_segments: int, max_tokens: int) -> Iterator[Call]:
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
        yield Call(
            q=slice(q_base, int(q_ends[last - 1])),
            kv=slice(kv_base, int(kv_ends[last - 1])),
            q_ends=(q_ends[first:last] - q_base).tolist(),
            kv_ends=(kv_ends[first:last] - kv_base).tolist(),
        )
        first = last


def to_device(rows: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(rows.astype(np.int64, copy=False)).to(device)


def make_plan(meta: AttentionMeta) -> AttentionPlan:
    host = plan_on_host(meta)
    return AttentionPlan(
        host,
        pool_rows=to_device(host.pool_rows, meta.device) if len(host.pool_rows) else None,
        kv_rows=None if host.as_they_lie else to_device(host.kv_rows, meta.device),
    )


def gather(step: torch.Tensor, pool: torch.Tensor, plan: AttentionPlan) -> torch.Tensor:
    """(T, M, H) of the step and (kv_capacity, M, H) of the pool -> the (K, M, H) that the plan's calls read."""
    if plan.kv_rows is None:
        return step[: len(plan.host.kv_rows)].contiguous()
    source = step if plan.pool_rows is None else torch.cat([pool.index_select(0, plan.pool_rows), step])
    return source.index_select(0, plan.kv_rows)
