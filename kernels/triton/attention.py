"""Attention of packed segments over any number of key ranges, without copying a key.

A segment's queries see its context ranges whole (rows of the KV cache or of this step) and then its own keys
causally, aligned at the end, so the last layer may ask for the last query only. Softmax is online (Milakov and
Gimelshein 2018, arXiv 1805.02867; Dao 2023, arXiv 2307.08691), so the order of the ranges does not matter.

One program takes a *tile*: a few consecutive query tokens of one segment, for all query heads of one key/value head,
so that a key is read once for the whole group and a single query still fills several rows of the product. The list of
tiles is made on the host, longest first; a tile with segment -1 is padding and ends at once (CUDA graphs).
Plain torch: ``Reference.attention``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl

from engine.kernels.ops import AttentionMeta
from engine.kernels.ranges import count_within
from engine.kernels.triton.launch import INTERPRETED, power_of_two

_LOG2_E = 1.4426950408889634


class AttentionConfig(NamedTuple):
    """Tile shape and launch parameters; which one is best depends on the device and is measured."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


class AttentionTables(NamedTuple):
    """Device int32 tables of one step: see ``plan_tables``."""

    tiles: torch.Tensor
    """(num_tiles, 2) segment and first query token of it."""
    segments: torch.Tensor
    """(S, 6) q_start, q_len, own_start, own_len, first range, end of ranges."""
    ranges: torch.Tensor
    """(G, 2) start and length."""


@triton.jit
def _attend(
    q, acc, row_max, row_sum, keys, values, key_stride, value_stride, begin, end, first_seen, limit, cols, scale, cap,
    HEAD: tl.constexpr, MASKED: tl.constexpr, WINDOWED: tl.constexpr, CAPPED: tl.constexpr, BLOCK_N: tl.constexpr,
    UPCAST: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Take keys ``begin`` to ``end`` into the running softmax; with MASKED, row m sees keys below ``limit[m]``, with
    WINDOWED (and MASKED) those from ``first_seen[m]`` on."""
    for n in range(begin, end, BLOCK_N):
        index = n + tl.arange(0, BLOCK_N)
        mask = (cols < HEAD)[None, :]
        if MASKED:
            mask = mask & (index < end)[:, None]
        k = tl.load(keys + index[:, None] * key_stride + cols[None, :], mask=mask, other=0.0)
        v = tl.load(values + index[:, None] * value_stride + cols[None, :], mask=mask, other=0.0)
        if UPCAST:
            k = k.to(tl.float32)
            v = v.to(tl.float32)
        logits = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        if CAPPED:  # cap * tanh(logits / cap)
            logits = cap * (1.0 - 2.0 / (1.0 + tl.exp2(tl.minimum(logits * (2.885390081777927 / cap), 100.0))))
        if MASKED:
            seen = index[None, :] < limit[:, None]
            if WINDOWED:
                seen = seen & (index[None, :] >= first_seen[:, None])
            logits = tl.where(seen, logits, -1.0e30)
        new_max = tl.maximum(row_max, tl.max(logits, axis=1))
        p = tl.exp2(logits - new_max[:, None])
        if MASKED:
            p = tl.where(seen, p, 0.0)
        shrink = tl.exp2(row_max - new_max)
        row_sum = row_sum * shrink + tl.sum(p, axis=1)
        acc = acc * shrink[:, None] + tl.dot(p.to(v.dtype), v, input_precision=PRECISION)
        row_max = new_max
    return acc, row_max, row_sum


@triton.jit
def _attend_run(
    q, acc, row_max, row_sum, keys, values, key_stride, value_stride, sure, end, lowest, first_seen, limit, cols, scale,
    cap, HEAD: tl.constexpr, WINDOWED: tl.constexpr, CAPPED: tl.constexpr, BLOCK_N: tl.constexpr, UPCAST: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """A run of ``end`` keys, of which every row sees the first ``sure``, but for windows: none sees those before
    ``lowest``."""
    if WINDOWED:
        whole = tl.minimum(tl.maximum(lowest, 0), end) // BLOCK_N * BLOCK_N
    else:
        whole = sure // BLOCK_N * BLOCK_N
        acc, row_max, row_sum = _attend(
            q, acc, row_max, row_sum, keys, values, key_stride, value_stride, 0, whole, first_seen, limit, cols, scale,
            cap, HEAD, False, False, CAPPED, BLOCK_N, UPCAST, PRECISION,
        )  # fmt: skip
    return _attend(
        q, acc, row_max, row_sum, keys, values, key_stride, value_stride, whole, end, first_seen, limit, cols, scale,
        cap, HEAD, True, WINDOWED, CAPPED, BLOCK_N, UPCAST, PRECISION,
    )  # fmt: skip


@triton.jit
def _window_starts(ranges, first_range, end_range, start, first_token, token, WINDOWED: tl.constexpr):
    """Where the windows of the tile's rows begin, the first one's and each, counted over context and own keys together;
    ``start``: of the segment's first query, counted from its own first key."""
    if WINDOWED:
        for r in range(first_range, end_range):
            start += tl.load(ranges + 2 * r + 1)
    return start + first_token, start + token


@triton.jit
def _rows_of(start, kv_capacity, cache, cache_stride, step, step_stride):
    """First row and row stride of a context range: a slot of the KV cache, or a row of this step."""
    if start < kv_capacity:
        rows = cache + start * cache_stride
        stride = cache_stride
    else:
        rows = step + (start - kv_capacity) * step_stride
        stride = step_stride
    return rows, stride


@triton.jit
def _attention_kernel(
    q, k, v, k_cache, v_cache, out, tiles, segments, ranges,
    q_stride, k_stride, v_stride, k_cache_stride, v_cache_stride, out_stride, kv_capacity, scale,
    cap, window,
    GROUP: tl.constexpr, HEAD: tl.constexpr, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, CAPPED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_H: tl.constexpr, UPCAST: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    segment = tl.load(tiles + 2 * tl.program_id(0))
    if segment < 0:
        return
    first_token = tl.load(tiles + 2 * tl.program_id(0) + 1)
    kv_head = tl.program_id(1)
    q_start = tl.load(segments + 6 * segment).to(tl.int64)
    q_len = tl.load(segments + 6 * segment + 1)
    own_start = tl.load(segments + 6 * segment + 2).to(tl.int64)
    own_len = tl.load(segments + 6 * segment + 3)
    first_range = tl.load(segments + 6 * segment + 4)
    end_range = tl.load(segments + 6 * segment + 5)

    # Row m of the tile is query token m // GROUP, query head m % GROUP of the group.
    rows = tl.arange(0, BLOCK_M)
    token = first_token + rows // GROUP
    head = kv_head * GROUP + rows % GROUP
    cols = tl.arange(0, BLOCK_H)
    mask = ((token < q_len) & (rows < BLOCK_M // GROUP * GROUP))[:, None] & (cols < HEAD)[None, :]
    row = q_start + token
    query = tl.load(q + row[:, None] * q_stride + head[:, None] * HEAD + cols[None, :], mask=mask, other=0.0)
    if UPCAST:
        query = query.to(tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_H], dtype=tl.float32)
    row_sum = tl.zeros([BLOCK_M], dtype=tl.float32)
    row_max = tl.full([BLOCK_M], -1.0e30, dtype=tl.float32)

    lowest, first_seen = _window_starts(
        ranges, first_range, end_range, own_len - q_len + 1 - window, first_token, token, WINDOWED
    )

    for r in range(first_range, end_range):
        start = tl.load(ranges + 2 * r).to(tl.int64)
        length = tl.load(ranges + 2 * r + 1)
        keys, key_stride = _rows_of(start, kv_capacity, k_cache, k_cache_stride, k, k_stride)
        values, value_stride = _rows_of(start, kv_capacity, v_cache, v_cache_stride, v, v_stride)
        keys += kv_head * HEAD
        values += kv_head * HEAD
        limit = tl.zeros([BLOCK_M], dtype=tl.int32) + length
        acc, row_max, row_sum = _attend_run(
            query, acc, row_max, row_sum, keys, values, key_stride, value_stride, length, length, lowest, first_seen,
            limit, cols, scale, cap, HEAD, WINDOWED, CAPPED, BLOCK_N, UPCAST, PRECISION,
        )  # fmt: skip
        if WINDOWED:
            lowest -= length
            first_seen -= length

    keys = k + own_start * k_stride + kv_head * HEAD
    values = v + own_start * v_stride + kv_head * HEAD
    if CAUSAL:
        first_limit = own_len - q_len + first_token + 1  # keys that the first query of the tile sees
        limit = own_len - q_len + token + 1
        end = tl.minimum(own_len, first_limit - 1 + BLOCK_M // GROUP)
    else:
        first_limit = own_len
        limit = tl.zeros([BLOCK_M], dtype=tl.int32) + own_len
        end = own_len
    acc, row_max, row_sum = _attend_run(
        query, acc, row_max, row_sum, keys, values, k_stride, v_stride, first_limit, end, lowest, first_seen,
        limit, cols, scale, cap, HEAD, WINDOWED, CAPPED, BLOCK_N, UPCAST, PRECISION,
    )  # fmt: skip

    target = out + row[:, None] * out_stride + head[:, None] * HEAD + cols[None, :]
    tl.store(target, (acc / row_sum[:, None]).to(out.dtype.element_ty), mask=mask)


def default_config(dtype: torch.dtype, head_dim: int) -> AttentionConfig:
    """A tile that every supported GPU has shared memory for."""
    if dtype == torch.float32:
        return AttentionConfig(32, 32, 4, 1)
    return AttentionConfig(64, 64, 4, 2) if head_dim > 64 else AttentionConfig(64, 64, 4, 3)


def candidate_configs(dtype: torch.dtype, head_dim: int) -> list[AttentionConfig]:
    """The configurations that a warm-up should measure."""
    candidates = [default_config(dtype, head_dim)]
    if dtype != torch.float32:
        candidates += [AttentionConfig(128, 64, 8, 2), AttentionConfig(128, 64, 8, 3), AttentionConfig(128, 128, 8, 2)]
    return candidates


def tokens_per_tile(config: AttentionConfig, group: int) -> int:
    if group > config.block_m:
        raise ValueError(f"attention: {group} query heads a key head do not fit a tile of {config.block_m} rows")
    return config.block_m // group


def plan_tables(meta: AttentionMeta, tile_tokens: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Host int32 arrays of ``AttentionTables`` for one step."""
    num_segments = len(meta.q_lens)
    own_seen = meta.own_lens
    if not num_segments or meta.q_lens.max() <= tile_tokens:
        segment = np.arange(num_segments)
        first_token = np.zeros(num_segments, np.int32)
        work = meta.seen_before + own_seen
    else:
        num_tiles = -(-meta.q_lens // tile_tokens)
        segment = np.arange(num_segments).repeat(num_tiles)
        first_token = count_within(num_tiles) * tile_tokens
        if meta.causal:  # keys that the last query of the tile sees
            last_query = np.minimum(first_token + tile_tokens, meta.q_lens[segment])
            own_seen = last_query + (meta.own_lens - meta.q_lens)[segment]
        else:
            own_seen = own_seen[segment]
        work = meta.seen_before[segment] + own_seen
    tiles = np.empty((len(segment), 2), np.int32)
    tiles[:, 0], tiles[:, 1] = segment, first_token
    segments = np.empty((num_segments, 6), np.int32)
    segments[:, 0], segments[:, 1], segments[:, 2] = meta.q_starts, meta.q_lens, meta.own_starts
    segments[:, 3] = meta.own_lens
    indptr = np.zeros(len(meta.context_indptr) + 1, np.int32)  # the context -1 is empty: from the last 0 to the first
    indptr[:-1] = meta.context_indptr
    segments[:, 4], segments[:, 5] = indptr[meta.context_ids], indptr[meta.context_ids + 1]
    order = (-work).argsort(kind="stable")
    return tiles[order], segments, meta.context_ranges.astype(np.int32, copy=False)


def range_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    tables: AttentionTables,
    *,
    kv_capacity: int,
    scale: float,
    causal: bool,
    window: int | None = None,
    score_cap: float | None = None,
    config: AttentionConfig,
) -> torch.Tensor:
    """q (Tq, N, H); k, v (T, M, H); k_cache, v_cache (kv_capacity, M, H) -> (Tq, N * H)."""
    num_queries, num_heads, head_dim = q.shape
    num_kv_heads = k.shape[1]
    for name, x in (("q", q), ("k", k), ("v", v), ("k_cache", k_cache), ("v_cache", v_cache)):
        if x.numel() and x.stride()[1:] != (head_dim, 1):
            raise ValueError(f"attention: the heads of one token of {name} must be contiguous, strides {x.stride()}")
    if k_cache.dtype != k.dtype:
        raise ValueError(f"attention: the KV cache holds {k_cache.dtype}, the step {k.dtype}")
    out = torch.empty(num_queries, num_heads * head_dim, dtype=q.dtype, device=q.device)
    if len(tables.tiles) == 0:
        return out
    group = num_heads // num_kv_heads
    tokens_per_tile(config, group)
    _attention_kernel[(len(tables.tiles), num_kv_heads)](
        q, k, v, k_cache, v_cache, out, tables.tiles, tables.segments, tables.ranges,
        q.stride(0), k.stride(0), v.stride(0), k_cache.stride(0), v_cache.stride(0), out.stride(0), kv_capacity,
        scale * _LOG2_E, (score_cap or 0.0) * _LOG2_E, window or 0,
        GROUP=group, HEAD=head_dim, CAUSAL=causal, WINDOWED=window is not None, CAPPED=score_cap is not None,
        BLOCK_M=config.block_m, BLOCK_N=config.block_n, BLOCK_H=max(16, power_of_two(head_dim)), UPCAST=INTERPRETED,
        PRECISION="ieee" if q.dtype == torch.float32 else "tf32",
        num_warps=config.num_warps, num_stages=config.num_stages,
    )  # fmt: skip
    return out
