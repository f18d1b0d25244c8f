"""The range attention kernel against the reference, for every form of a step that the scheduler can plan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from engine.backends.cuda.attention import GatherForm, RangeForm
from engine.backends.cuda.ops import CudaOps
from engine.kernels.ops import AttentionMeta
from engine.kernels.reference import ReferenceOps
from engine.kernels.triton.attention import (
    AttentionConfig,
    AttentionTables,
    plan_tables,
    range_attention,
    tokens_per_tile,
)

CAPACITY = 70
SMALL = AttentionConfig(16, 16, 1, 1)


def array(values: object) -> np.ndarray:
    return np.array(values, dtype=np.int32)


@dataclass
class Case:
    """Own lengths, context of each segment, and each context's ranges."""

    own: list[int]
    contexts: list[int]
    ranges: list[list[tuple[int, int]]]
    last_only: bool = False
    causal: bool = True
    unseen: int = 0
    """Queries of each segment behind its keys."""


CASES = {
    "alone": Case([1, 20, 33], [-1, -1, -1], []),
    "pool prefix": Case([3, 17], [0, 0], [[(5, 37)]]),
    "step prefix": Case([19, 5, 21], [-1, 0, 0], [[(CAPACITY, 19)]]),
    "chain of three": Case([6, 9, 18], [0, 1, 1], [[(0, 16)], [(0, 16), (CAPACITY, 6), (40, 1)]]),
    "last queries": Case([19, 5, 1], [-1, 0, 0], [[(CAPACITY, 19)]], last_only=True),
    "encoder": Case([5, 18], [-1, -1], [], causal=False),
    "more queries than keys": Case([5, 18], [-1, -1], [], causal=False, unseen=27),
}


def build(case: Case, dtype: torch.dtype, device: torch.device, heads: int, kv_heads: int, head_dim: int):
    own_lens = array(case.own)
    q_lens = np.ones_like(own_lens) if case.last_only else own_lens + np.int32(case.unseen)
    num_tokens, num_queries = int(own_lens.sum()), int(q_lens.sum())
    meta = AttentionMeta(
        q_starts=array(np.cumsum(q_lens) - q_lens),
        q_lens=q_lens,
        own_starts=array(np.cumsum(own_lens) - own_lens),
        own_lens=own_lens,
        context_ids=array(case.contexts),
        context_indptr=array([0, *np.cumsum([len(ranges) for ranges in case.ranges])]),
        context_ranges=array([pair for ranges in case.ranges for pair in ranges]).reshape(-1, 2),
        kv_capacity=CAPACITY,
        scale=head_dim**-0.5,
        causal=case.causal,
        device=device,
    )
    fused = torch.randn(num_tokens, (2 * kv_heads) * head_dim, dtype=dtype, device=device)
    k, v = fused.unflatten(1, (2 * kv_heads, head_dim)).split(kv_heads, dim=1)
    q = torch.randn(num_queries, heads, head_dim, dtype=dtype, device=device)
    pools = torch.randn(2, CAPACITY, kv_heads, head_dim, dtype=dtype, device=device)
    return q, k, v, pools[0], pools[1], meta


def run_kernel(q, k, v, k_cache, v_cache, meta: AttentionMeta, *, config: AttentionConfig = SMALL, padding: int = 0):
    tiles, segments, ranges = plan_tables(meta, tokens_per_tile(config, q.shape[1] // k.shape[1]))
    tiles = np.concatenate([tiles, np.full((padding, 2), -1, np.int32)])
    tables = AttentionTables(*(torch.from_numpy(table).to(q.device) for table in (tiles, segments, ranges)))
    return range_attention(
        q, k, v, k_cache, v_cache, tables, kv_capacity=CAPACITY, scale=meta.scale, causal=meta.causal, config=config,
        window=meta.window, score_cap=meta.score_cap,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["alone", "chain of three", "last queries"])
@pytest.mark.parametrize(("window", "score_cap"), [(1, None), (18, 3.0), (None, 0.7)])
def test_windows_and_caps(name: str, window: int | None, score_cap: float | None, device: torch.device) -> None:
    *tensors, meta = build(CASES[name], torch.float32, device, 2, 1, 24)
    limited = meta.of_layer(window, score_cap)
    expected = ReferenceOps().attention(*tensors, limited)
    torch.testing.assert_close(run_kernel(*tensors, limited), expected, rtol=1e-5, atol=1e-5)


def test_a_window_where_the_range_form_was_found_wrong(device: torch.device) -> None:
    *tensors, meta = build(CASES["step prefix"], torch.float32, device, 2, 1, 24)
    ops = CudaOps(device, torch.float32)
    limited = meta.of_layer(18, 3.0)
    expected = ReferenceOps().attention(*tensors, limited)
    for form in (RangeForm(SMALL), GatherForm()):
        ops.attend_by(form)
        meta.cache.clear()
        torch.testing.assert_close(ops.attention(*tensors, limited), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(2, 1, 24), (3, 3, 16)])
def test_every_form(name: str, heads: int, kv_heads: int, head_dim: int, device: torch.device) -> None:
    inputs = build(CASES[name], torch.float32, device, heads, kv_heads, head_dim)
    torch.testing.assert_close(run_kernel(*inputs), ReferenceOps().attention(*inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)], ids=str)
def test_half_precision(dtype: torch.dtype, tolerance: float, device: torch.device) -> None:
    inputs = build(CASES["chain of three"], dtype, device, 7, 1, 32)  # 7 heads: rows of a tile stay unused
    expected = ReferenceOps(dtype=dtype).attention(*inputs)
    torch.testing.assert_close(run_kernel(*inputs), expected, rtol=tolerance, atol=tolerance)


def test_larger_tiles_and_padding_tiles_change_nothing(device: torch.device) -> None:
    inputs = build(CASES["step prefix"], torch.float32, device, 2, 1, 16)
    expected = ReferenceOps().attention(*inputs)
    wide = run_kernel(*inputs, config=AttentionConfig(32, 16, 1, 1), padding=3)
    torch.testing.assert_close(wide, expected, rtol=1e-5, atol=1e-5)


def test_tables_cover_every_query_once_longest_first(device: torch.device) -> None:
    *_, meta = build(CASES["chain of three"], torch.float32, device, 2, 1, 16)
    tiles, segments, _ = plan_tables(meta, 4)
    covered = sorted((s, t) for s, first in tiles for t in range(first, min(first + 4, meta.q_lens[s])))
    assert covered == [(s, t) for s, length in enumerate(meta.q_lens) for t in range(length)]
    seen = [int(segments[s, 3] + meta.context_lens[meta.context_ids[s]]) for s, _ in tiles]
    assert seen[0] == max(seen)
    assert segments[:, 4:].tolist() == [[0, 1], [1, 4], [1, 4]]


def test_shapes_that_the_kernel_cannot_take_are_refused(device: torch.device) -> None:
    with pytest.raises(ValueError, match="do not fit a tile"):
        tokens_per_tile(SMALL, 17)
    q, k, v, k_cache, v_cache, meta = build(CASES["pool prefix"], torch.float32, device, 2, 1, 16)
    with pytest.raises(ValueError, match="the KV cache holds"):
        run_kernel(q, k, v, k_cache.half(), v_cache.half(), meta)
    with pytest.raises(ValueError, match="must be contiguous"):
        run_kernel(q.transpose(1, 2).contiguous().transpose(1, 2), k, v, k_cache, v_cache, meta)
