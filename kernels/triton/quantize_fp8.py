"""Per-token fp8 quantisation: ``scale = max|x| / 448`` and ``q = x / scale`` for each row, e4m3.

The form that ``_scaled_mm`` takes with row-wise scales (Micikevicius et al. 2022, arXiv 2209.05433, for the format).
``quantize_row`` is also folded into the norm and the gated activation, where it costs no pass over memory.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.kernels.triton.launch import FP8, FP8_MAX, SMALLEST_AMAX, fp8_outputs, require_rows, row_block, warps_for


@triton.jit
def quantize_row(x, FP8_LIMIT: tl.constexpr, AMAX_FLOOR: tl.constexpr):
    """(values within the fp8 range, scale) of one fp32 row; masked elements must be 0."""
    amax = tl.maximum(tl.max(tl.abs(x), axis=0), AMAX_FLOOR)
    values = x * (FP8_LIMIT / amax)
    return tl.minimum(tl.maximum(values, -FP8_LIMIT), FP8_LIMIT), amax / FP8_LIMIT


@triton.jit
def _quantize_kernel(
    x, values, scales, x_stride, y_stride, D, BLOCK: tl.constexpr, FP8_LIMIT: tl.constexpr, AMAX_FLOOR: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    mask = cols < D
    row_values = tl.load(x + row * x_stride + cols, mask=mask, other=0.0).to(tl.float32)
    quantized, scale = quantize_row(row_values, FP8_LIMIT, AMAX_FLOOR)
    tl.store(values + row * y_stride + cols, quantized.to(values.dtype.element_ty), mask=mask)
    tl.store(scales + row, scale)


def quantize_fp8(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(T, D) -> e4m3 values (T, D) and fp32 scales (T, 1)."""
    require_rows(x, "quantize_fp8", "x")
    rows, columns = x.shape
    values, scales = fp8_outputs(rows, columns, x)
    block = row_block(columns, "quantize_fp8")
    if rows:
        _quantize_kernel[(rows,)](
            x,
            values,
            scales,
            x.stride(0),
            values.stride(0),
            columns,
            BLOCK=block,
            FP8_LIMIT=FP8_MAX,
            AMAX_FLOOR=SMALLEST_AMAX,
            num_warps=warps_for(block),
        )
    return values, scales


def quantize_fp8_torch(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same in plain torch; also what quantises weights, once, at load."""
    rows = x.float()
    scales = rows.abs().amax(dim=1, keepdim=True).clamp(min=SMALLEST_AMAX) / FP8_MAX
    return (rows / scales).clamp(-FP8_MAX, FP8_MAX).to(FP8), scales


def dequantize_fp8(values: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """The values of the quantised rows, in fp32."""
    return values.float() * scales
