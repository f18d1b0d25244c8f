"""Steps for attention tests: segments, contexts in KV cache and step, queries that are the last tokens only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from engine.kernels.ops import AttentionMeta

KV_CAPACITY = 64


@dataclass
class Case:
    meta: AttentionMeta
    num_queries: int
    num_rows: int


def make_case(
    own_lens: list[int],
    contexts: list[list[tuple[str, int, int]]] | None = None,
    context_ids: list[int] | None = None,
    q_lens: list[int] | None = None,
    *,
    causal: bool = True,
    head_dim: int = 128,
) -> Case:
    """A context is a list of ("slot" or "row", start, length)."""
    own = np.array(own_lens)
    queries = own if q_lens is None else np.array(q_lens)
    ranges = [
        (start + (KV_CAPACITY if kind == "row" else 0), length)
        for context in contexts or []
        for kind, start, length in context
    ]
    indptr = np.cumsum([0, *(len(context) for context in contexts or [])])
    meta = AttentionMeta(
        q_starts=np.cumsum(queries) - queries,
        q_lens=queries,
        own_starts=np.cumsum(own) - own,
        own_lens=own,
        context_ids=np.array(context_ids if context_ids is not None else [-1] * len(own)),
        context_indptr=indptr,
        context_ranges=np.array(ranges, np.int32).reshape(-1, 2),
        kv_capacity=KV_CAPACITY,
        scale=head_dim**-0.5,
        causal=causal,
    )
    return Case(meta, int(queries.sum()), int(own.sum()))


CASES: dict[str, Case] = {
    "one": make_case([5]),
    "packed": make_case([3, 1, 7]),
    "siblings": make_case([6, 3, 4], [[("row", 0, 6)]], [-1, 0, 0]),
    "pool": make_case([3, 4], [[("slot", 10, 5)]], [0, 0]),
    "chain": make_case([4, 3, 2, 5], [[("slot", 60, 3), ("row", 0, 4)], [("slot", 1, 2)]], [-1, 0, 0, 1]),
    "reads": make_case([6, 3, 4], [[("row", 0, 6)]], [-1, 0, 0], [0, 1, 1]),
    "tails": make_case([6, 3, 4], [[("slot", 3, 2)]], [-1, 0, -1], [2, 3, 1]),
    "both_ways": make_case([3, 1, 7], causal=False),
    "both_ways_unseen": make_case([3, 1, 7], q_lens=[6, 4, 7], causal=False),
    "both_ways_reads": make_case([3, 1, 7], q_lens=[1, 1, 1], causal=False),
}


Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def random_inputs(case: Case, heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> Inputs:
    """q, k, v, k_cache, v_cache."""
    sizes = [(case.num_queries, heads), (case.num_rows, kv_heads), (case.num_rows, kv_heads)]
    sizes += [(KV_CAPACITY, kv_heads)] * 2
    q, k, v, k_cache, v_cache = (torch.randn(rows, count, head_dim).to(dtype) for rows, count in sizes)
    return q, k, v, k_cache, v_cache
