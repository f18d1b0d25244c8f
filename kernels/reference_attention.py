"""Attention over shared contexts in plain torch.

Segments that see the same context and have about the same length form a **padded batch**: a rectangle of n segments
whose keys are ``[context | own | padding]``. Padding repeats a row of the same segment, so nothing of one segment can
reach another, and it is hidden by the same rule that hides the future: query row r sees the first ``limits[r]`` keys.
Padded batches are made once a step (they live in ``AttentionMeta.cache``) and used by all layers. Letters: n segments
of a padded batch, Q and K its padded query and key lengths, N heads, M key/value heads, H head size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from engine.kernels.ops import AttentionMeta

MAX_BLOCK_ELEMENTS = 1 << 19
"""Scores computed at once (2 MiB in fp32), so that a block stays near the cores and long inputs need no more memory."""
MIN_BLOCK_ROWS = 32


@dataclass(frozen=True, eq=False)
class PaddedBatch:
    context_id: int
    q_rows: torch.Tensor
    """(n, Q) rows of q."""
    k_rows: torch.Tensor
    """(n, K - the context's length) rows of the step's keys."""
    limits: torch.Tensor
    """(n or 1, Q or 1) how many keys each query sees."""
    limits_range: list[tuple[int, int]]
    """Smallest and largest limit of each query column; host copies, so that slicing needs no device sync."""
    out_rows: torch.Tensor
    """Rows of the output that the batch produces ..."""
    picks: torch.Tensor
    """... and where they are in the (n * Q) padded rows."""


def _bucket(lengths: np.ndarray) -> np.ndarray:
    """Lengths rounded up to a step of at most an eighth of themselves: little padding, few batches."""
    steps = 2 ** np.maximum(np.floor(np.log2(np.maximum(lengths, 1))).astype(np.int64) - 3, 0)
    return -(-lengths // steps) * steps


def padded_batches(meta: AttentionMeta, num_heads: int) -> Iterator[PaddedBatch]:
    own_lens, q_lens = meta.own_lens.astype(np.int64), meta.q_lens.astype(np.int64)
    keys = np.stack([meta.context_ids.astype(np.int64), _bucket(own_lens), _bucket(q_lens)])
    active = np.flatnonzero(q_lens > 0)
    order = active[np.lexsort(keys[::-1, active])]
    if not len(order):
        return
    changes = np.flatnonzero(np.any(np.diff(keys[:, order], axis=1) != 0, axis=0)) + 1
    for members in np.split(order, changes):
        context_id = int(meta.context_ids[members[0]])
        context_len = int(meta.context_lens[context_id]) if context_id >= 0 else 0
        num_keys = context_len + int(own_lens[members].max())
        num_rows = min(MIN_BLOCK_ROWS, int(q_lens[members].max()))
        at_once = max(1, MAX_BLOCK_ELEMENTS // (num_heads * num_keys * num_rows))
        for start in range(0, len(members), at_once):
            yield _padded_batch(meta, members[start : start + at_once], context_id, context_len)


def _padded_batch(meta: AttentionMeta, members: np.ndarray, context_id: int, context_len: int) -> PaddedBatch:
    own_lens, q_lens = meta.own_lens[members].astype(np.int64), meta.q_lens[members].astype(np.int64)
    q_columns, k_columns = np.arange(q_lens.max()), np.arange(own_lens.max())
    q_rows = meta.q_starts[members, None] + np.minimum(q_columns, q_lens[:, None] - 1)
    k_rows = meta.own_starts[members, None] + np.minimum(k_columns, own_lens[:, None] - 1)
    if not meta.causal:
        limits = context_len + own_lens[:, None]
    elif np.array_equal(own_lens, q_lens):
        limits = context_len + 1 + q_columns[None]
    else:
        limits = context_len + np.minimum(own_lens[:, None] - q_lens[:, None] + 1 + q_columns, own_lens[:, None])
    wide = np.broadcast_to(limits, (len(limits), len(q_columns)))
    real = q_columns < q_lens[:, None]

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64)).to(meta.device)

    return PaddedBatch(
        context_id=context_id,
        q_rows=tensor(q_rows),
        k_rows=tensor(k_rows),
        limits=tensor(limits),
        limits_range=list(zip(wide.min(0).tolist(), wide.max(0).tolist(), strict=True)),
        out_rows=tensor(q_rows[real]),
        picks=tensor(np.flatnonzero(real)),
    )


def _gather_context(step: torch.Tensor, cache: torch.Tensor, meta: AttentionMeta, context_id: int) -> torch.Tensor:
    """Keys or values of one context, (P, M, H), from the KV cache and from this step."""
    parts = []
    for start, length in meta.context_ranges[meta.context_indptr[context_id] : meta.context_indptr[context_id + 1]]:
        source, first = (cache, start) if start < meta.kv_capacity else (step, start - meta.kv_capacity)
        parts.append(source[first : first + length])
    return torch.cat(parts) if parts else step[:0]


def _with_context(own: torch.Tensor, context: torch.Tensor | None, rows: torch.Tensor) -> torch.Tensor:
    """(n, M, K, H): the context in front of each segment's own rows, in fp32."""
    own_nLMH = own[rows].float()
    if context is not None:
        shared = context.float().unsqueeze(0).expand(len(rows), -1, -1, -1)
        own_nLMH = torch.cat([shared, own_nLMH], dim=1)
    return own_nLMH.transpose(1, 2).contiguous()


def _attend_padded(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, padded: PaddedBatch, meta: AttentionMeta
) -> torch.Tensor:
    """q (n, Q, N, H), keys and values (n, M, K, H), all fp32 -> (n, Q, N, H)."""
    num, num_q, num_heads, head_dim = q.shape
    num_kv_heads = keys.shape[1]
    grouped = q.view(num, num_q, num_kv_heads, num_heads // num_kv_heads, head_dim).permute(0, 2, 3, 1, 4) * meta.scale
    out = torch.empty_like(grouped)
    block = max(MIN_BLOCK_ROWS, MAX_BLOCK_ELEMENTS // (num * num_heads * keys.shape[2]))
    for first in range(0, num_q, block):
        last = min(first + block, num_q)
        lows, highs = zip(*padded.limits_range[first:last], strict=True)
        low, high = min(lows), max(highs)
        begin = 0 if meta.window is None else max(0, low - meta.window)
        rows = grouped[:, :, :, first:last]
        scores = rows.reshape(num, num_kv_heads, -1, head_dim) @ keys[:, :, begin:high].transpose(2, 3)
        if meta.score_cap is not None:
            scores = meta.score_cap * torch.tanh(scores / meta.score_cap)
        by_row = scores.view(*rows.shape[:4], high - begin)
        limits = padded.limits if padded.limits.shape[1] == 1 else padded.limits[:, first:last]
        if low < high:
            hidden = torch.arange(low, high, device=q.device) >= limits.unsqueeze(-1)
            by_row[..., low - begin :].masked_fill_(hidden[:, None, None], float("-inf"))
        if meta.window is not None and high > meta.window:
            last_start = high - meta.window
            hidden = torch.arange(begin, last_start, device=q.device) < limits.unsqueeze(-1) - meta.window
            by_row[..., : last_start - begin].masked_fill_(hidden[:, None, None], float("-inf"))
        out[:, :, :, first:last] = (torch.softmax(scores, dim=-1) @ values[:, :, begin:high]).view(rows.shape)
    return out.permute(0, 3, 1, 2, 4).reshape(num, num_q, num_heads, head_dim)


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    meta: AttentionMeta,
) -> torch.Tensor:
    """See ``Ops.attention``."""
    batches = meta.cache.get("reference")
    if batches is None:
        batches = meta.cache["reference"] = list(padded_batches(meta, q.shape[1]))
    out = torch.empty_like(q)
    context_id, context_k, context_v = -1, None, None
    for padded in batches:
        if padded.context_id != context_id:  # batches are sorted by context: each is gathered once a layer
            context_id = padded.context_id
            context_k = _gather_context(k, k_cache, meta, context_id)
            context_v = _gather_context(v, v_cache, meta, context_id)
        keys = _with_context(k, context_k, padded.k_rows)
        values = _with_context(v, context_v, padded.k_rows)
        rows = _attend_padded(q[padded.q_rows].float(), keys, values, padded, meta)
        out[padded.out_rows] = rows.flatten(0, 1)[padded.picks].to(q.dtype)
    return out.flatten(1)
