"""Attention over contexts and own tokens against plain torch, for every form of a step."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch

from engine.kernels.cpu.ops import CpuOps
from engine.kernels.ops import AttentionMeta
from engine.kernels.reference import ReferenceOps
from tests.kernels.cpu.helpers import distance

CAPACITY = 600
TOLERANCE = {None: 3e-6, "int16": 4e-4, "int8": 3e-2}


@dataclass(frozen=True)
class Case:
    own: list[int]
    contexts: list[int] = field(default_factory=list)
    ranges: list[list[tuple[int, int]]] = field(default_factory=list)
    q_lens: list[int] | None = None
    causal: bool = True


CASES = {
    "alone": Case([1, 20, 33]),
    "around the tile": Case([15, 16, 17, 31, 32, 33]),
    "pool prefix": Case([3, 17], [0, 0], [[(5, 37)]]),
    "step prefix": Case([19, 5, 21], [-1, 0, 0], [[(CAPACITY, 19)]]),
    "two contexts": Case([19, 5, 21, 9, 2], [-1, 0, 1, 0, 1], [[(CAPACITY, 19)], [(7, 1), (100, 300)]]),
    "chain of four": Case([6, 9, 18], [0, 1, 1], [[(0, 16)], [(0, 16), (CAPACITY, 6), (40, 1), (90, 2)]]),
    "more keys than a block": Case([300, 41], [-1, 0], [[(CAPACITY, 300), (3, 250)]]),
    "exactly a block": Case([256, 1], [-1, 0], [[(CAPACITY, 256)]]),
    "last queries": Case([19, 5, 1, 300], [-1, 0, 0, 0], [[(CAPACITY, 19)]], q_lens=[1, 1, 1, 1]),
    "some queries": Case([19, 40], [-1, 0], [[(CAPACITY, 19)]], q_lens=[0, 23]),
    "empty context": Case([4], [0], [[]]),
    "encoder": Case([5, 18, 270], causal=False),
    "encoder, first only": Case([5, 18], q_lens=[1, 1], causal=False),
    "encoder, more queries than keys": Case([5, 18, 40], q_lens=[32, 18, 48], causal=False),
}


def meta_of(case: Case, head_dim: int) -> AttentionMeta:
    own_lens = np.array(case.own, np.int32)
    q_lens = np.array(case.q_lens if case.q_lens is not None else case.own, np.int32)
    return AttentionMeta(
        q_starts=np.cumsum(q_lens) - q_lens,
        q_lens=q_lens,
        own_starts=np.cumsum(own_lens) - own_lens,
        own_lens=own_lens,
        context_ids=np.array(case.contexts or [-1] * len(case.own), np.int32),
        context_indptr=np.cumsum([0, *map(len, case.ranges)]),
        context_ranges=np.array([pair for ranges in case.ranges for pair in ranges], np.int32).reshape(-1, 2),
        kv_capacity=CAPACITY,
        scale=head_dim**-0.5,
        causal=case.causal,
    )


def tensors(case: Case, heads: int, kv_heads: int, head_dim: int) -> tuple[torch.Tensor, ...]:
    num_tokens, num_queries = sum(case.own), sum(case.q_lens if case.q_lens is not None else case.own)
    k, v = torch.randn(2, num_tokens, kv_heads, head_dim)
    pools = torch.randn(2, CAPACITY, kv_heads, head_dim)
    return torch.randn(num_queries, heads, head_dim), k, v, pools[0], pools[1]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(4, 2, 32), (5, 1, 20), (2, 2, 128)])
def test_attention(
    ops_fp32: CpuOps, reference: ReferenceOps, name: str, heads: int, kv_heads: int, head_dim: int
) -> None:
    inputs = tensors(CASES[name], heads, kv_heads, head_dim)
    expected = reference.attention(*inputs, meta_of(CASES[name], head_dim))
    result = ops_fp32.unpack(ops_fp32.attention(*inputs, meta_of(CASES[name], head_dim)))
    assert distance(result, expected) < TOLERANCE[None]


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.causal])
@pytest.mark.parametrize(("window", "score_cap"), [(1, None), (18, None), (260, 3.0), (None, 0.7)])
def test_windows_and_caps(
    ops_fp32: CpuOps, reference: ReferenceOps, name: str, window: int | None, score_cap: float | None
) -> None:
    inputs, meta = tensors(CASES[name], 5, 1, 20), meta_of(CASES[name], 20)
    for limited in (meta.of_layer(window, score_cap), meta):
        expected = reference.attention(*inputs, limited)
        assert distance(ops_fp32.unpack(ops_fp32.attention(*inputs, limited)), expected) < TOLERANCE[None]


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim"), [(1, 1, 1), (2, 1, 16), (8, 2, 64), (6, 2, 96), (40, 1, 8), (2, 1, 256)]
)
def test_head_sizes_and_groups(
    ops: CpuOps, reference: ReferenceOps, quantization: str | None, heads: int, kv_heads: int, head_dim: int
) -> None:
    case = Case([7, 12, 23], [-1, 0, 0], [[(CAPACITY, 7), (11, 30)]])
    inputs = tensors(case, heads, kv_heads, head_dim)
    expected = reference.attention(*inputs, meta_of(case, head_dim))
    result = ops.unpack(ops.attention(*inputs, meta_of(case, head_dim)))
    assert distance(result, expected) < TOLERANCE[quantization]


def test_the_layout_of_qk_norm_rope_and_of_slices(ops_fp32: CpuOps, reference: ReferenceOps) -> None:
    """Keys by head, as our own rotation writes them, and keys inside a wider matrix."""
    case = Case([21, 30], [-1, 0], [[(CAPACITY, 21)]])
    q, k, v, k_cache, v_cache = tensors(case, 4, 2, 32)
    expected = reference.attention(q, k, v, k_cache, v_cache, meta_of(case, 32))
    by_head = (q, *(x.transpose(0, 1).contiguous().transpose(0, 1) for x in (k, v, k_cache, v_cache)))
    fused = torch.cat([q, k, v], dim=1)
    sliced = (fused[:, :4], fused[:, 4:6], fused[:, 6:], k_cache, v_cache)
    for inputs in (by_head, sliced):
        assert distance(ops_fp32.unpack(ops_fp32.attention(*inputs, meta_of(case, 32))), expected) < TOLERANCE[None]


def test_extreme_scores(ops_fp32: CpuOps, reference: ReferenceOps) -> None:
    """One key takes everything; differences of thousands must not overflow."""
    case = Case([300])
    q, k, v, k_cache, v_cache = tensors(case, 2, 1, 16)
    k[::7] *= 400
    meta = meta_of(case, 16)
    expected = reference.attention(q, k, v, k_cache, v_cache, meta)
    assert distance(ops_fp32.unpack(ops_fp32.attention(q, k, v, k_cache, v_cache, meta)), expected) < 1e-5


def test_a_segment_has_the_same_bits_alone_and_among_siblings(isa: str) -> None:
    one, two = CpuOps(1, isa=isa), CpuOps(2, isa=isa)
    case = Case([40, 13, 280, 5], [0, 0, 0, 0], [[(20, 90), (200, 180)]])
    q, k, v, k_cache, v_cache = tensors(case, 4, 2, 32)
    together = two.unpack(two.attention(q, k, v, k_cache, v_cache, meta_of(case, 32)))
    start = 0
    for length in case.own:
        rows = slice(start, start + length)
        alone_case = replace(case, own=[length], contexts=[0])
        alone = one.unpack(one.attention(q[rows], k[rows], v[rows], k_cache, v_cache, meta_of(alone_case, 32)))
        assert torch.equal(alone, together[rows])
        start += length


def test_the_last_row_alone_has_the_bits_it_has_in_the_whole_segment(ops_fp32: CpuOps) -> None:
    case = Case([77], [0], [[(20, 190)]])
    q, k, v, k_cache, v_cache = tensors(case, 4, 2, 32)
    whole = ops_fp32.unpack(ops_fp32.attention(q, k, v, k_cache, v_cache, meta_of(case, 32)))
    last_case = replace(case, q_lens=[1])
    last = ops_fp32.unpack(ops_fp32.attention(q[-1:], k, v, k_cache, v_cache, meta_of(last_case, 32)))
    assert torch.equal(last[0], whole[-1])


def test_damage_stays_in_its_segment(ops_fp32: CpuOps) -> None:
    case = Case([20, 20])
    q, k, v, k_cache, v_cache = tensors(case, 2, 1, 16)
    meta = meta_of(case, 16)
    clean = ops_fp32.unpack(ops_fp32.attention(q, k, v, k_cache, v_cache, meta))
    k[5] = float("nan")
    dirty = ops_fp32.unpack(ops_fp32.attention(q, k, v, k_cache, v_cache, meta))
    assert dirty[5:20].isnan().all()
    assert torch.equal(dirty[20:], clean[20:])
