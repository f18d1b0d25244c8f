"""``act(g) * u`` on the fused output of one projection, rows ``[g | u]``: SwiGLU and its gelu relatives.

Shazeer 2020, arXiv 2002.05202. Computed in fp32 and rounded once; optionally leaves as fp8 with a scale a row, in which
case one program holds the whole row. Plain torch: ``Reference.linear_swiglu`` and ``linear_geglu`` after their product.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from engine.kernels.triton.launch import (
    FP8_MAX,
    SMALLEST_AMAX,
    fp8_outputs,
    power_of_two,
    require_rows,
    row_block,
    warps_for,
)
from engine.kernels.triton.quantize_fp8 import quantize_row

Gate = Literal["silu", "gelu", "gelu_tanh"]
_BLOCK = 1024


@triton.jit
def _gated_activation_kernel(
    gate_up,
    y,
    scales,
    gate_up_stride,
    y_stride,
    num_columns,
    GATE: tl.constexpr,
    QUANTIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    FP8_LIMIT: tl.constexpr,
    AMAX_FLOOR: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = cols < num_columns
    g = tl.load(gate_up + row * gate_up_stride + cols, mask=mask, other=0.0).to(tl.float32)
    u = tl.load(gate_up + row * gate_up_stride + num_columns + cols, mask=mask, other=0.0).to(tl.float32)
    if GATE == "silu":
        gated = g * tl.sigmoid(g)
    elif GATE == "gelu":
        gated = 0.5 * g * (1.0 + tl.math.erf(g * 0.7071067811865476))
    else:  # tanh(z) = 2 sigmoid(2z) - 1
        gated = g * tl.sigmoid(1.5957691216057308 * (g + 0.044715 * g * g * g))
    product = gated * u
    if QUANTIZE:
        product, scale = quantize_row(product, FP8_LIMIT, AMAX_FLOOR)
        tl.store(scales + row, scale)
    tl.store(y + row * y_stride + cols, product.to(y.dtype.element_ty), mask=mask)


def gated_activation(
    gate_up: torch.Tensor, gate: Gate = "silu", *, quantize: bool = False
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(T, 2F) -> (T, F) and the fp8 scales (T, 1), or None."""
    require_rows(gate_up, "gated_activation", "gate_up")
    rows, columns = gate_up.shape[0], gate_up.shape[1] // 2
    scales = None
    if quantize:
        y, scales = fp8_outputs(rows, columns, gate_up)
        block = row_block(columns, "gated_activation")
    else:
        y = torch.empty(rows, columns, dtype=gate_up.dtype, device=gate_up.device)
        block = min(_BLOCK, power_of_two(columns))
    if rows:
        _gated_activation_kernel[(rows, triton.cdiv(columns, block))](
            gate_up,
            y,
            scales,
            gate_up.stride(0),
            y.stride(0),
            columns,
            GATE=gate,
            QUANTIZE=quantize,
            BLOCK=block,
            FP8_LIMIT=FP8_MAX,
            AMAX_FLOOR=SMALLEST_AMAX,
            num_warps=warps_for(block),
        )
    return y, scales


def gated_activation_torch(gate_up: torch.Tensor, gate: Gate = "silu") -> torch.Tensor:
    """The same in plain torch."""
    g, u = gate_up.float().chunk(2, dim=-1)
    gated = F.silu(g) if gate == "silu" else F.gelu(g, approximate="tanh" if gate == "gelu_tanh" else "none")
    return (gated * u).to(gate_up.dtype)
