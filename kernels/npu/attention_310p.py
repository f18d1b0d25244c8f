"""Attention on 310P, which has no packed operator: padded rectangles through ``npu_prompt_flash_attention``.

There the operator takes float16 in BNSD, at most 128 sequences, no lengths, no grouped queries and no compressed mask.
So segments of about the same length form a rectangle, heads are repeated, and a full mask says what each query row
sees. With a mask it wants as many queries as keys, a multiple of 16 ("attention mask must be NULL, when Qs,Kvs is
unAlign or Qs is not equal to Kvs", prompt_flash_attention_tiling.cpp): queries are padded to the keys. Where they are
few, behind a long prefix or in the last layer, plain torch computes the rectangle instead, which needs no such padding.
The mask is quadratic in the length: keep ``--max-model-len`` small on these cards.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch_npu

from engine.kernels.npu.plan import HostPlan, plan_on_host, to_device
from engine.kernels.ops import AttentionMeta

MAX_SEGMENTS = 128
MAX_MASK_ELEMENTS = 1 << 27
ALIGNMENT = 32
"""Lengths are rounded up to this: a multiple of 16, and mask rows of whole 32-byte blocks, as is recommended."""
MAX_PADDING = 4
"""Queries are padded to the keys up to this many times their own length; beyond it plain torch is less work."""
ALL_TOKENS = 2147483647
PLAN = "npu_310p"


@dataclass(frozen=True, eq=False)
class Rectangle:
    """n segments padded to Q queries and K keys; padding repeats a row of the same segment."""

    q_rows: torch.Tensor
    """(n * Q,)"""
    kv_rows: torch.Tensor
    """(n * K,)"""
    num_segments: int
    mask: torch.Tensor
    """(n, 1, Q, K) bool, True is hidden."""
    square: bool
    """Q is K, so the operator takes it."""


@dataclass(frozen=True, eq=False)
class PaddedPlan:
    rectangles: list[Rectangle]
    cached_rows: torch.Tensor | None
    picks: torch.Tensor
    """(Tq,) where each query's row is in the rectangles laid one after the other."""


def _round_up(length: int) -> int:
    return -(-length // ALIGNMENT) * ALIGNMENT


def _members(host: HostPlan) -> Iterator[np.ndarray]:
    """Segments by key length, in runs whose mask stays small."""
    order = np.argsort(host.kv_lens, kind="stable")
    first = 0
    while first < len(order):
        last = first + 1
        while last < min(len(order), first + MAX_SEGMENTS):
            run = order[first : last + 1]
            area = _round_up(int(host.kv_lens[run].max())) ** 2
            if len(run) * area > MAX_MASK_ELEMENTS or host.kv_lens[run[-1]] > 2 * host.kv_lens[run[0]] + ALIGNMENT:
                break
            last += 1
        yield order[first:last]
        first = last


def make_plan(meta: AttentionMeta) -> PaddedPlan:
    host = plan_on_host(meta)
    q_firsts, kv_firsts = np.cumsum(host.q_lens) - host.q_lens, np.cumsum(host.kv_lens) - host.kv_lens
    rectangles = []
    picks = np.empty(int(host.q_lens.sum()), np.int64)
    above = 0
    for run in _members(host):
        q_lens, kv_lens = host.q_lens[run, None], host.kv_lens[run, None]
        num_columns, num_keys = _round_up(int(q_lens.max())), _round_up(int(kv_lens.max()))
        square = num_keys <= MAX_PADDING * num_columns
        columns, keys = np.arange(num_keys if square else num_columns), np.arange(num_keys)
        seen = np.minimum(kv_lens - q_lens + 1 + columns, kv_lens) if meta.causal else kv_lens + 0 * columns
        limits = to_device(seen, meta.device).view(len(run), 1, len(columns), 1)
        rectangles.append(
            Rectangle(
                q_rows=to_device((q_firsts[run, None] + np.minimum(columns, q_lens - 1)).ravel(), meta.device),
                kv_rows=to_device(
                    host.kv_rows[(kv_firsts[run, None] + np.minimum(keys, kv_lens - 1)).ravel()], meta.device
                ),
                num_segments=len(run),
                mask=to_device(keys, meta.device) >= limits,
                square=square,
            )
        )
        real = columns < q_lens
        picks[(q_firsts[run, None] + columns)[real]] = above + np.flatnonzero(real)
        above += real.size
    return PaddedPlan(
        rectangles=rectangles,
        cached_rows=to_device(host.cached_rows, meta.device) if len(host.cached_rows) else None,
        picks=to_device(picks, meta.device),
    )


def _heads_first(rows: torch.Tensor, num_segments: int, num_heads: int) -> torch.Tensor:
    """(n * S, M, H) -> (n, N, S, H), each key head repeated for its queries."""
    _, num_kv_heads, head_dim = rows.shape
    split = rows.view(num_segments, -1, num_kv_heads, 1, head_dim).permute(0, 2, 3, 1, 4)
    repeated = split.expand(-1, -1, num_heads // num_kv_heads, -1, -1)
    return repeated.reshape(num_segments, num_heads, -1, head_dim).contiguous()


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    meta: AttentionMeta,
) -> torch.Tensor:
    """See ``Ops.attention``."""
    plan: PaddedPlan | None = meta.cache.get(PLAN)
    if plan is None:
        plan = meta.cache[PLAN] = make_plan(meta)
    num_heads = q.shape[1]
    if plan.cached_rows is not None:
        k = torch.cat([k_cache.index_select(0, plan.cached_rows), k])
        v = torch.cat([v_cache.index_select(0, plan.cached_rows), v])
    outs = []
    for block in plan.rectangles:
        queries, keys, values = (
            _heads_first(rows.index_select(0, picked), block.num_segments, num_heads)
            for rows, picked in ((q, block.q_rows), (k, block.kv_rows), (v, block.kv_rows))
        )
        if block.square:
            out = _prompt_attention(queries, keys, values, block.mask, meta.scale)
        else:
            out = _plain_attention(queries, keys, values, block.mask, meta.scale)
        outs.append(out.transpose(1, 2).flatten(2).flatten(0, 1))
    return torch.cat(outs).index_select(0, plan.picks)


def _prompt_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor, scale: float
) -> torch.Tensor:
    return torch_npu.npu_prompt_flash_attention(
        q,
        k,
        v,
        atten_mask=mask,
        num_heads=q.shape[1],
        scale_value=scale,
        next_tokens=ALL_TOKENS,  # the default 0 would cut everything right of the diagonal
        input_layout="BNSD",
    )


def _plain_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor, scale: float
) -> torch.Tensor:
    """Softmax in fp32; queries are scaled before the product, which float16 could not hold otherwise."""
    scores = ((q * scale) @ k.transpose(-1, -2)).float().masked_fill(mask, float("-inf"))
    return torch.softmax(scores, dim=-1).to(q.dtype) @ v
