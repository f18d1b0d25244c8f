"""Residual add and RMSNorm in one pass: ``r = residual + delta``, ``y = r / sqrt(mean(r^2) + eps) * w``.

Zhang and Sennrich 2019, arXiv 1910.07467. The sum is rounded to the stream's dtype first and the norm reads the rounded
value, so that the stream and what was normed agree; everything else is fp32 and rounded once. Optionally ``y`` leaves
as fp8 with a scale a row. Plain torch: ``Reference.add_rms_norm``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.kernels.triton.launch import FP8_MAX, SMALLEST_AMAX, fp8_outputs, require_rows, row_block, warps_for
from engine.kernels.triton.quantize_fp8 import quantize_row


@triton.jit
def _add_rms_norm_kernel(
    delta,
    residual,
    weight,
    y,
    scales,
    delta_stride,
    residual_stride,
    y_stride,
    D,
    eps,
    HAS_DELTA: tl.constexpr,
    QUANTIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    FP8_LIMIT: tl.constexpr,
    AMAX_FLOOR: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    mask = cols < D
    x = tl.load(residual + row * residual_stride + cols, mask=mask, other=0.0)
    if HAS_DELTA:
        added = x.to(tl.float32) + tl.load(delta + row * delta_stride + cols, mask=mask, other=0.0).to(tl.float32)
        x = added.to(residual.dtype.element_ty)
        tl.store(residual + row * residual_stride + cols, x, mask=mask)
    x = x.to(tl.float32)
    w = tl.load(weight + cols, mask=mask, other=0.0).to(tl.float32)
    normed = x * tl.rsqrt(tl.sum(x * x, axis=0) / D + eps) * w
    if QUANTIZE:
        normed, scale = quantize_row(normed, FP8_LIMIT, AMAX_FLOOR)
        tl.store(scales + row, scale)
    tl.store(y + row * y_stride + cols, normed.to(y.dtype.element_ty), mask=mask)


def add_rms_norm(
    delta: torch.Tensor | None, residual: torch.Tensor, weight: torch.Tensor, eps: float, *, quantize: bool = False
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Adds ``delta`` into ``residual`` **in place** and returns (y, fp8 scales or None), (T, D) and (T, 1)."""
    require_rows(residual, "add_rms_norm", "residual")
    if delta is not None:
        require_rows(delta, "add_rms_norm", "delta")
    rows, columns = residual.shape
    scales = None
    if quantize:
        y, scales = fp8_outputs(rows, columns, residual)
    else:
        y = torch.empty(rows, columns, dtype=residual.dtype, device=residual.device)
    block = row_block(columns, "add_rms_norm")
    if rows:
        _add_rms_norm_kernel[(rows,)](
            delta,
            residual,
            weight,
            y,
            scales,
            0 if delta is None else delta.stride(0),
            residual.stride(0),
            y.stride(0),
            columns,
            eps,
            HAS_DELTA=delta is not None,
            QUANTIZE=quantize,
            BLOCK=block,
            FP8_LIMIT=FP8_MAX,
            AMAX_FLOOR=SMALLEST_AMAX,
            num_warps=warps_for(block),
        )
    return y, scales
