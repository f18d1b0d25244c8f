"""Bidirectional attention with a window or a bias, in plain torch on any device: what no device kernel here offers.

Segments of about the same length form a padded batch, as in ``reference_attention.py``; scores and softmax are
fp32. A window is computed in blocks of queries that look at the keys near them only, so its cost grows with the length
and not with its square. Letters: n segments of a padded batch, Q and K their padded lengths, N heads, H head size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from engine.kernels.ops import AttentionMeta
from engine.kernels.reference_attention import padded_batches

Bias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(queries (n, N, Q, H), keys (n, N, K, H), distances of the queries from the first key (n, Q)) -> (n, N, Q, K)."""
WINDOW_BLOCK = 128
"""Queries of a window that are computed at once."""


def attend_near(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    meta: AttentionMeta,
    positions: torch.Tensor,
    *,
    window: int | None = None,
    bias: Bias | None = None,
) -> torch.Tensor:
    """q (Tq, N, H), k and v (T, N, H) -> (Tq, N * H). ``positions`` (Tq,): of each query in its segment, from 0.

    ``window``: a query sees the keys at most so far from it. ``bias`` is added to the scaled scores.
    """
    batches = meta.cache.get("padded")
    if batches is None:
        batches = meta.cache["padded"] = list(padded_batches(meta, q.shape[1]))
    out = torch.empty_like(q)
    for padded in batches:
        queries = q[padded.q_rows].float().transpose(1, 2)
        keys, values = (x[padded.k_rows].float().transpose(1, 2) for x in (k, v))
        at = positions[padded.q_rows]
        seen = []
        for first, last, low, high in _blocks(queries.shape[2], keys.shape[2], window):
            some, near = queries[:, :, first:last], keys[:, :, low:high]
            scores = some @ near.transpose(2, 3) * meta.scale
            if bias is not None:
                scores = scores + bias(some, near, at[:, first:last] - low)
            columns = torch.arange(low, high, device=q.device)
            hidden = columns >= padded.limits.unsqueeze(-1)
            if window is not None:
                hidden = hidden | ((at[:, first:last, None] - columns).abs() > window)
            scores = scores.masked_fill(hidden.unsqueeze(1), float("-inf"))
            seen.append(torch.softmax(scores, dim=-1) @ values[:, :, low:high])
        rows = torch.cat(seen, dim=2).transpose(1, 2)
        # Rows of padding may see no key at all and hold NaN; none of them is picked.
        out[padded.out_rows] = rows.flatten(0, 1)[padded.picks].to(q.dtype)
    return out.flatten(1)


def _blocks(num_queries: int, num_keys: int, window: int | None) -> Iterator[tuple[int, int, int, int]]:
    """(first and last query, first and last key); near keys are known only where the queries are the whole segment."""
    if window is None or num_queries != num_keys:
        yield 0, num_queries, 0, num_keys
        return
    for first in range(0, num_queries, WINDOW_BLOCK):
        last = min(first + WINDOW_BLOCK, num_queries)
        yield first, last, max(0, first - window), min(num_keys, last + window)
