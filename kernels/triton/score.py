"""The tail of the network: rows -> final RMSNorm -> classifier vectors, in fp32, without materialising anything.

``logit[r, o] = sum_d norm(residual + delta)[rows[r], d] * head[o, d] + bias[o]``. ``rows`` gathers the scored tokens
from a whole step; without it every row counts. Plain torch: ``Reference.score``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.kernels.triton.launch import require_rows, row_block, warps_for


@triton.jit
def _score_kernel(
    delta,
    residual,
    rows,
    norm_weight,
    head,
    bias,
    logits,
    delta_stride,
    residual_stride,
    D,
    num_outputs,
    eps,
    HAS_DELTA: tl.constexpr,
    HAS_ROWS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    out_row = tl.program_id(0).to(tl.int64)
    row = out_row
    if HAS_ROWS:
        row = tl.load(rows + out_row).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    mask = cols < D
    x = tl.load(residual + row * residual_stride + cols, mask=mask, other=0.0).to(tl.float32)
    if HAS_DELTA:
        x += tl.load(delta + row * delta_stride + cols, mask=mask, other=0.0).to(tl.float32)
    w = tl.load(norm_weight + cols, mask=mask, other=0.0).to(tl.float32)
    normed = x * tl.rsqrt(tl.sum(x * x, axis=0) / D + eps) * w
    for o in range(num_outputs):
        vector = tl.load(head + o * D + cols, mask=mask, other=0.0)
        logit = tl.sum(normed * vector, axis=0)
        if HAS_BIAS:
            logit += tl.load(bias + o)
        tl.store(logits + out_row * num_outputs + o, logit)


def score(
    delta: torch.Tensor | None,
    residual: torch.Tensor,
    norm_weight: torch.Tensor,
    eps: float,
    head: torch.Tensor,
    bias: torch.Tensor | None = None,
    rows: torch.Tensor | None = None,
) -> torch.Tensor:
    """(T, D), head (O, D) fp32, rows (R,) or None -> logits (R, O) fp32."""
    require_rows(residual, "score", "residual")
    if head.dtype != torch.float32 or not head.is_contiguous():
        raise ValueError(f"score: the head must be contiguous float32, not {head.dtype}")
    num_rows = len(residual) if rows is None else len(rows)
    columns, outputs = residual.shape[1], head.shape[0]
    logits = torch.empty(num_rows, outputs, dtype=torch.float32, device=residual.device)
    block = row_block(columns, "score")
    if num_rows:
        _score_kernel[(num_rows,)](
            delta,
            residual,
            rows,
            norm_weight,
            head,
            bias,
            logits,
            0 if delta is None else delta.stride(0),
            residual.stride(0),
            columns,
            outputs,
            eps,
            HAS_DELTA=delta is not None,
            HAS_ROWS=rows is not None,
            HAS_BIAS=bias is not None,
            BLOCK=block,
            num_warps=warps_for(block),
        )
    return logits
