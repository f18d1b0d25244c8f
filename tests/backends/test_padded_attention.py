"""Windows and biases over packed segments against the plain formula, segment by segment."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.kernels.ops import AttentionMeta
from engine.kernels.padded_attention import WINDOW_BLOCK, attend_near

LENGTHS = [1, 7, 8, 33, 32, 300, 5]
HEADS, SIZE = 3, 8


def meta_of(lengths: list[int], reads: str = "all") -> AttentionMeta:
    own_lens = np.array(lengths, np.int64)
    own_starts = np.cumsum(own_lens) - own_lens
    all_rows = reads == "all"
    return AttentionMeta(
        q_starts=own_starts if all_rows else np.arange(len(lengths)),
        q_lens=own_lens if all_rows else np.ones(len(lengths), np.int64),
        own_starts=own_starts,
        own_lens=own_lens,
        context_ids=np.full(len(lengths), -1, np.int32),
        context_indptr=np.array([0], np.int32),
        context_ranges=np.zeros((0, 2), np.int32),
        kv_capacity=0,
        scale=SIZE**-0.5,
        causal=False,
    )


def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """One segment: (L, N, H) and a bias of (N, Lq, L)."""
    scores = torch.einsum("inh,jnh->nij", q, k) * SIZE**-0.5 + bias
    return torch.einsum("nij,jnh->inh", scores.softmax(-1), v).flatten(1)


def distances(length: int, places: torch.Tensor) -> torch.Tensor:
    return places[:, None] - torch.arange(length)


@pytest.mark.parametrize("window", [0, 3, 64, 1000])
@pytest.mark.parametrize("reads", ["all", "first", "last"])
def test_windows(window: int, reads: str) -> None:
    assert max(LENGTHS) > 2 * WINDOW_BLOCK, "several blocks are needed"
    total, meta = sum(LENGTHS), meta_of(LENGTHS, reads)
    k, v, whole = (torch.randn(total, HEADS, SIZE) for _ in range(3))
    at = torch.cat([torch.arange(n) for n in LENGTHS])
    starts = meta.own_starts
    rows = {"all": np.arange(total), "first": starts, "last": starts + np.array(LENGTHS) - 1}[reads]
    found = attend_near(whole[rows], k, v, meta, at[rows], window=window)
    expected = []
    for start, length in zip(starts.tolist(), LENGTHS, strict=True):
        mine = [row for row in rows.tolist() if start <= row < start + length]
        own = slice(start, start + length)
        hidden = distances(length, at[mine]).abs() > window
        bias = torch.zeros(HEADS, *hidden.shape).masked_fill(hidden, float("-inf"))
        expected.append(plain(whole[mine], k[own], v[own], bias))
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("window", [None, 20])
def test_a_bias_sees_queries_keys_and_distances(window: int | None) -> None:
    q, k, v = (torch.randn(sum(LENGTHS), HEADS, SIZE) for _ in range(3))

    def bias(queries: torch.Tensor, keys: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        apart = places.unsqueeze(-1) - torch.arange(keys.shape[2])
        return queries[..., :1] + 2 * keys[..., :1].transpose(2, 3) + 0.01 * apart.unsqueeze(1)

    at = torch.cat([torch.arange(n) for n in LENGTHS])
    found = attend_near(q, k, v, meta_of(LENGTHS), at, window=window, bias=bias)
    start = 0
    for length in LENGTHS:
        own = slice(start, start + length)
        apart = distances(length, torch.arange(length))
        added = q[own, :, 0].T.unsqueeze(-1) + 2 * k[own, :, 0].T.unsqueeze(1) + 0.01 * apart
        if window is not None:
            added = added.masked_fill(apart.abs() > window, float("-inf"))
        torch.testing.assert_close(found[own], plain(q[own], k[own], v[own], added), rtol=1e-5, atol=1e-6)
        start += length
