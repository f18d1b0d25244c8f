"""The oracle against something plainer still: loops over tokens and heads in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from engine.kernels.ops import AttentionMeta
from engine.kernels.reference import ReferenceOps
from engine.kernels.reference_attention import attend


def naive_attention(q, k, v, k_cache, v_cache, meta: AttentionMeta) -> torch.Tensor:
    num_heads, num_kv_heads = q.shape[1], k.shape[1]
    out = torch.zeros(q.shape, dtype=torch.float64)
    for segment, (q_start, q_len, own_start, own_len, context) in enumerate(
        zip(meta.q_starts, meta.q_lens, meta.own_starts, meta.own_lens, meta.context_ids, strict=True)
    ):
        keys, values = [], []
        ranges = (
            [] if context < 0 else meta.context_ranges[meta.context_indptr[context] : meta.context_indptr[context + 1]]
        )
        for start, length in ranges:
            for i in range(start, start + length):
                keys.append(k_cache[i] if i < meta.kv_capacity else k[i - meta.kv_capacity])
                values.append(v_cache[i] if i < meta.kv_capacity else v[i - meta.kv_capacity])
        context_len = len(keys)
        keys += list(k[own_start : own_start + own_len])
        values += list(v[own_start : own_start + own_len])
        key_KMH, value_KMH = torch.stack(keys).double(), torch.stack(values).double()
        for row in range(q_len):
            seen = context_len + (own_len - q_len + row + 1 if meta.causal else own_len)
            for head in range(num_heads):
                shared = head // (num_heads // num_kv_heads)
                first = max(0, seen - meta.window) if meta.window else 0
                scores = key_KMH[first:seen, shared] @ q[q_start + row, head].double() * meta.scale
                if meta.score_cap:
                    scores = meta.score_cap * torch.tanh(scores / meta.score_cap)
                out[q_start + row, head] = torch.softmax(scores, 0) @ value_KMH[first:seen, shared]
        assert segment >= 0
    return out.flatten(1)


def random_case(
    seed: int, *, causal: bool, reads_only: bool, heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype
):
    """Three contexts (KV cache, this step, both), siblings of mixed lengths, segments without context."""
    rng = np.random.default_rng(seed)
    capacity = 40
    own_lens = np.array([9, 5, 17, 1, 33, 12, 12, 8, 16, 70])
    own_starts = np.cumsum(own_lens) - own_lens
    context_ids = np.array([-1, -1, 0, 0, 1, 1, 2, 2, 2, -1])
    ranges = np.array([[3, 11], [capacity + 0, 9], [20, 4], [capacity + 9, 5]])
    indptr = np.array([0, 1, 2, 4])
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    num_tokens = int(own_lens.sum())
    if reads_only:
        reads = rng.permutation(len(own_lens))[:6]
        q_lens = np.ones(6, np.int64)
        own_starts, own_lens, context_ids = own_starts[reads], own_lens[reads], context_ids[reads]
    else:
        q_lens = own_lens
    meta = AttentionMeta(
        q_starts=np.cumsum(q_lens) - q_lens,
        q_lens=q_lens,
        own_starts=own_starts,
        own_lens=own_lens,
        context_ids=context_ids,
        context_indptr=indptr,
        context_ranges=ranges,
        kv_capacity=capacity,
        scale=head_dim**-0.5,
        causal=causal,
    )
    tensors = (
        randn(int(q_lens.sum()), heads, head_dim),
        randn(num_tokens, kv_heads, head_dim),
        randn(num_tokens, kv_heads, head_dim),
        randn(capacity, kv_heads, head_dim),
        randn(capacity, kv_heads, head_dim),
    )
    return tensors, meta


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("reads_only", [True, False])
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(4, 2, 16), (6, 1, 8), (3, 3, 20)])
def test_attention_equals_loops(causal, reads_only, heads, kv_heads, head_dim) -> None:
    tensors, meta = random_case(
        3, causal=causal, reads_only=reads_only, heads=heads, kv_heads=kv_heads, head_dim=head_dim, dtype=torch.float32
    )
    torch.testing.assert_close(attend(*tensors, meta).double(), naive_attention(*tensors, meta), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("reads_only", [True, False])
@pytest.mark.parametrize(("window", "score_cap"), [(1, None), (7, None), (16, 2.0), (None, 0.7), (1000, None)])
@pytest.mark.parametrize("block", [1 << 19, 300])
def test_windows_and_caps_equal_loops(reads_only, window, score_cap, block, monkeypatch) -> None:
    monkeypatch.setattr("engine.kernels.reference_attention.MAX_BLOCK_ELEMENTS", block)
    monkeypatch.setattr("engine.kernels.reference_attention.MIN_BLOCK_ROWS", 3)
    tensors, meta = random_case(
        3, causal=True, reads_only=reads_only, heads=4, kv_heads=2, head_dim=16, dtype=torch.float32
    )
    whole = attend(*tensors, meta)
    limited = meta.of_layer(window, score_cap)
    expected = naive_attention(*tensors, limited)
    torch.testing.assert_close(attend(*tensors, limited).double(), expected, atol=2e-6, rtol=1e-5)
    assert torch.equal(attend(*tensors, meta), whole), "layers of both kinds share the step's plan"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_attention_in_half_precision_rounds_only_at_the_end(dtype) -> None:
    tensors, meta = random_case(5, causal=True, reads_only=False, heads=4, kv_heads=2, head_dim=16, dtype=dtype)
    expected = naive_attention(*tensors, meta).to(dtype)
    torch.testing.assert_close(attend(*tensors, meta), expected, atol=1e-6, rtol=2 * torch.finfo(dtype).eps)


def test_small_blocks_give_the_same_as_large_ones(monkeypatch) -> None:
    tensors, meta = random_case(7, causal=True, reads_only=False, heads=4, kv_heads=2, head_dim=16, dtype=torch.float32)
    whole = attend(*tensors, meta)
    meta.cache.clear()
    monkeypatch.setattr("engine.kernels.reference_attention.MAX_BLOCK_ELEMENTS", 300)
    monkeypatch.setattr("engine.kernels.reference_attention.MIN_BLOCK_ROWS", 3)
    torch.testing.assert_close(attend(*tensors, meta), whole, atol=1e-6, rtol=1e-6)


def test_a_broken_segment_does_not_reach_its_siblings() -> None:
    tensors, meta = random_case(9, causal=True, reads_only=False, heads=4, kv_heads=2, head_dim=16, dtype=torch.float32)
    healthy = attend(*tensors, meta)
    q, k, v, k_cache, v_cache = (tensor.clone() for tensor in tensors)
    rows = slice(int(meta.own_starts[5]), int(meta.own_starts[5] + meta.own_lens[5]))
    q[rows], k[rows], v[rows] = math.nan, math.inf, math.nan
    broken = attend(q, k, v, k_cache, v_cache, meta)
    others = np.delete(np.arange(len(q)), np.arange(rows.start, rows.stop))
    assert torch.isnan(broken[rows]).all()
    torch.testing.assert_close(broken[others], healthy[others], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms(dtype) -> None:
    ops = ReferenceOps(dtype=dtype)
    x, delta, weight, bias = (torch.randn(shape).to(dtype) for shape in ((5, 123), (5, 123), (123,), (123,)))
    eps = 1e-3

    def rms(wide: torch.Tensor) -> torch.Tensor:
        return torch.stack([row / math.sqrt(float((row * row).mean()) + eps) * weight.double() for row in wide])

    close = {"atol": 1e-6, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 1e-2, "rtol": 1e-2}
    torch.testing.assert_close(ops.rms_norm(x, weight, eps).double(), rms(x.double()), **close)
    normed, summed = ops.add_rms_norm(delta, x, weight, eps)
    torch.testing.assert_close(summed.double(), x.double() + delta.double(), **close)
    torch.testing.assert_close(normed.double(), rms(summed.double()), **close)
    same, kept = ops.add_rms_norm(None, x, weight, eps)
    assert torch.equal(kept, x)
    assert torch.equal(same, ops.rms_norm(x, weight, eps))
    wide = x.double()
    centred = wide - wide.mean(1, keepdim=True)
    expected = centred / (centred.square().mean(1, keepdim=True) + eps).sqrt() * weight.double() + bias.double()
    torch.testing.assert_close(ops.layer_norm(x, weight, bias, eps).double(), expected, **close)


def test_linears_load_in_parts_and_apply_their_activation() -> None:
    ops = ReferenceOps()
    weight = ops.new_linear(10, 7, bias=True)
    rows, bias, x = torch.randn(10, 7), torch.randn(10), torch.randn(3, 7)
    for first, last in ((4, 10), (0, 4)):
        weight.load_rows(first, rows[first:last].to(torch.float64))
        weight.load_bias(first, bias[first:last])
    plain = x.double() @ rows.double().T + bias.double()
    gate, up = plain[:, :5], plain[:, 5:]
    erf = gate * 0.5 * (1 + torch.erf(gate / math.sqrt(2)))
    tanh = gate * 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)))
    residual = torch.randn(3, 10)
    delta, stream = ops.linear_residual(x, weight, residual.clone())
    close = {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(ops.linear(x, weight).double(), plain, **close)
    torch.testing.assert_close((stream if delta is None else stream + delta).double(), residual + plain, **close)
    torch.testing.assert_close(ops.linear_swiglu(x, weight).double(), gate * torch.sigmoid(gate) * up, **close)
    torch.testing.assert_close(ops.linear_geglu(x, weight, tanh=True).double(), tanh * up, **close)
    torch.testing.assert_close(ops.linear_geglu(x, weight, tanh=False).double(), erf * up, **close)
    torch.testing.assert_close(ops.linear_gelu(x, weight)[:, :5].double(), erf, **close)
    torch.testing.assert_close(ops.linear_gelu(x, weight, tanh=True)[:, :5].double(), tanh, **close)
    assert weight.num_bytes == (70 + 10) * 4


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 2), (0, 2), (4, 0)])
@pytest.mark.parametrize("normed", [True, False])
def test_qk_norm_rope(heads, kv_heads, normed) -> None:
    head_dim, eps, positions = 6, 1e-6, torch.tensor([0, 5, 2])
    qkv = torch.randn(3, (heads + 2 * kv_heads) * head_dim)
    weights = (torch.rand(head_dim), torch.rand(head_dim)) if normed else (None, None)
    angles = torch.arange(9).float()[:, None] * torch.tensor([1.0, 0.3, 0.01])
    q, k, v = ReferenceOps().qk_norm_rope(
        qkv, *weights, eps, angles.cos(), angles.sin(), positions, heads, kv_heads, head_dim
    )
    assert (q.shape, k.shape, v.shape) == ((3, heads, 6), (3, kv_heads, 6), (3, kv_heads, 6))

    def expected(x: torch.Tensor, weight: torch.Tensor | None, angle: torch.Tensor) -> torch.Tensor:
        if weight is not None:
            x = x / torch.sqrt((x * x).mean() + eps) * weight
        pairs = torch.complex(x[:3].double(), x[3:].double()) * torch.polar(torch.ones(3).double(), angle.double())
        return torch.cat([pairs.real, pairs.imag])

    for token, position in enumerate(positions):
        row = qkv[token].view(-1, head_dim)
        for head in range(heads):
            query = expected(row[head], weights[0], angles[position])
            torch.testing.assert_close(q[token, head].double(), query, atol=2e-6, rtol=1e-5)
        for head in range(kv_heads):
            key = expected(row[heads + head], weights[1], angles[position])
            torch.testing.assert_close(k[token, head].double(), key, atol=2e-6, rtol=1e-5)
            assert torch.equal(v[token, head], row[heads + kv_heads + head])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_score_is_fp32_whatever_the_dtype(dtype) -> None:
    delta, residual = torch.randn(4, 33).to(dtype), torch.randn(4, 33).to(dtype)
    norm, head, bias = torch.rand(33).to(dtype), torch.randn(2, 33), torch.randn(2)
    summed = residual.double() + delta.double()
    normed = summed / (summed.square().mean(1, keepdim=True) + 1e-6).sqrt() * norm.double()
    for part, whole in ((delta, summed), (None, None)):
        got = ReferenceOps(dtype=dtype).score(part, residual, norm, 1e-6, head, bias)
        assert got.dtype == torch.float32
        if whole is not None:
            torch.testing.assert_close(got.double(), normed @ head.double().T + bias.double(), atol=1e-5, rtol=1e-5)
        else:
            zero = torch.zeros_like(residual)
            assert torch.equal(got, ReferenceOps(dtype=dtype).score(zero, residual, norm, 1e-6, head, bias))
