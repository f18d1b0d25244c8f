"""Head norms and rotary embedding on the fused projection ``[q | k | v]``, in place.

Each head of q and k: ``h = h / sqrt(mean(h^2) + eps) * w``, then the halves ``(a, b)`` become ``(a cos - b sin,
b cos + a sin)`` (Su et al. 2021, arXiv 2104.09864). One program takes a block of tokens and a few heads, so cosines are
read once for those heads; v is not touched, it is returned as a view. Plain torch: ``Reference.qk_norm_rope``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.kernels.triton.launch import power_of_two, require_rows

_TOKENS = 16
_HEADS = 4


@triton.jit
def _pick(q_weight, k_weight, is_q, cols, mask):
    """The head's half of its norm weight, (1, H/2) fp32."""
    of_q = tl.load(q_weight + cols, mask=mask, other=0.0)
    of_k = tl.load(k_weight + cols, mask=mask, other=0.0)
    return tl.where(is_q, of_q, of_k).to(tl.float32)[None, :]


@triton.jit(do_not_specialize=["T"])  # a size is a size: no step of another length is compiled for
def _qk_norm_rope_kernel(
    qkv,
    q_weight,
    k_weight,
    cos,
    sin,
    positions,
    T,
    row_stride,
    eps,
    NUM_Q: tl.constexpr,
    NUM_K: tl.constexpr,
    HALF: tl.constexpr,
    HAS_NORM: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
):
    tokens = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    cols = tl.arange(0, BLOCK_HALF)
    col_mask = cols < HALF
    mask = (tokens < T)[:, None] & col_mask[None, :]
    position = tl.load(positions + tokens, mask=tokens < T, other=0)
    angle = position[:, None] * HALF + cols[None, :]
    c = tl.load(cos + angle, mask=mask, other=0.0)
    s = tl.load(sin + angle, mask=mask, other=0.0)
    rows = tokens.to(tl.int64)[:, None] * row_stride + cols[None, :]
    for i in tl.static_range(BLOCK_HEADS):
        head = tl.program_id(1) * BLOCK_HEADS + i
        if head < NUM_Q + NUM_K:
            first = qkv + rows + head * 2 * HALF
            a = tl.load(first, mask=mask, other=0.0).to(tl.float32)
            b = tl.load(first + HALF, mask=mask, other=0.0).to(tl.float32)
            if HAS_NORM:
                rstd = tl.rsqrt((tl.sum(a * a, axis=1) + tl.sum(b * b, axis=1)) / (2 * HALF) + eps)
                wa = _pick(q_weight, k_weight, head < NUM_Q, cols, col_mask)
                wb = _pick(q_weight + HALF, k_weight + HALF, head < NUM_Q, cols, col_mask)
                a = a * rstd[:, None] * wa
                b = b * rstd[:, None] * wb
            tl.store(first, (a * c - b * s).to(qkv.dtype.element_ty), mask=mask)
            tl.store(first + HALF, (b * c + a * s).to(qkv.dtype.element_ty), mask=mask)


def _check(qkv: torch.Tensor, num_heads: int, head_dim: int) -> None:
    require_rows(qkv, "qk_norm_rope", "qkv")
    if head_dim % 2 or qkv.shape[1] != num_heads * head_dim:
        raise ValueError(f"qk_norm_rope: rows of {qkv.shape[1]} are not {num_heads} heads of an even size {head_dim}")


def qk_norm_rope(
    qkv: torch.Tensor,
    q_weight: torch.Tensor | None,
    k_weight: torch.Tensor | None,
    eps: float,
    cos: torch.Tensor,
    sin: torch.Tensor,
    positions: torch.Tensor,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Views q (T, N, H), k (T, M, H), v (T, M, H) of ``qkv``, whose q and k parts are **overwritten**."""
    total, heads = num_heads + 2 * num_kv_heads, num_heads + num_kv_heads
    _check(qkv, total, head_dim)
    num_tokens = qkv.shape[0]
    q_weight, k_weight = (q_weight if num_heads else k_weight), (k_weight if num_kv_heads else q_weight)
    if num_tokens and heads:
        _qk_norm_rope_kernel[(triton.cdiv(num_tokens, _TOKENS), triton.cdiv(heads, _HEADS))](
            qkv,
            q_weight,
            k_weight,
            cos,
            sin,
            positions,
            num_tokens,
            qkv.stride(0),
            eps,
            NUM_Q=num_heads,
            NUM_K=num_kv_heads,
            HALF=head_dim // 2,
            HAS_NORM=q_weight is not None,
            BLOCK_T=_TOKENS,
            BLOCK_HALF=power_of_two(head_dim // 2),
            BLOCK_HEADS=_HEADS,
            num_warps=4,
        )
    by_head = qkv.unflatten(1, (total, head_dim))
    return by_head[:, :num_heads], by_head[:, num_heads:heads], by_head[:, heads:]
