"""The forms of each op: torch_npu's fused operator first, then others that compute the same, plain torch last.

A form is chosen by name. What is here by default is what the documentation allows; the self-test at start
(``backends/npu/self_test.py``) tries each on the device at the model's shapes and settles for the first that is right.
Letters: T tokens, D features, N query heads, M key/value heads, H head size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import torch_npu

from engine.kernels.npu.attention import AttentionForm
from engine.kernels.npu.linear import INT8_MAX, QuantizedActivation
from engine.kernels.reference import rms_norm_fp32

PLAIN = "plain torch"
AT_ONCE, ONE_BY_ONE = "npu_apply_rotary_pos_emb", "one by one"
IN_STEPS = "in two steps"
PLAIN_WEIGHTS, TILED_WEIGHTS = "ND", "FRACTAL_NZ"
FUSED_ROPE_HEADS = (64, 128)
ROPE_BUFFER_BYTES = 192 * 1024
"""The unified buffer of a core of A2 and A3."""
SWIGLU_QUANT_MAX_FEATURES = 8192
"""Gate and up of the 0.6B model (6144) fit the fused operator, those of 4B (19456) and 8B (24576) do not."""


@dataclass(frozen=True)
class Forms:
    """The name of the form of each op."""

    rms_norm: str = "npu_rms_norm"
    add_rms_norm: str = "npu_add_rms_norm"
    rotation: str = AT_ONCE
    """Of queries and keys together; or one by one, as ``rotation_of_one`` says."""
    rotation_of_one: str = "npu_rotary_mul"
    attention: AttentionForm | None = None
    """None: not known before the first step shows the model's heads."""
    swiglu: str = "npu_swiglu"
    gelu: str = "npu_gelu"
    quantize: str = "npu_dynamic_quant"
    add_rms_norm_quant: str = "npu_add_rms_norm_dynamic_quant"
    swiglu_quant: str = "npu_swiglu_quant"
    product: str = "npu_quant_matmul on FRACTAL_NZ"
    """With ``--quantization w8a8``."""
    grouped: str = "npu_weight_quant_batchmatmul"
    """With ``--quantization int4`` (grouped.py)."""
    weights: str = PLAIN_WEIGHTS
    """Layout of the other weights: ND, or FRACTAL_NZ."""


def rotates_at_once(num_heads: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype) -> bool:
    """Whether ``npu_apply_rotary_pos_emb`` takes these heads: no empty tensor, and a token's heads fit the buffer of a
    core (apply_rotary_pos_emb_tiling.cpp, ``ComputeAB``: "oneLoop is too large")."""
    wide = 2 if dtype == torch.float16 else 4
    row = head_dim * dtype.itemsize
    one_loop = 5 * (num_heads + num_kv_heads) * head_dim * wide + 4 * row
    one_loop += 8 * head_dim if dtype == torch.bfloat16 else 0
    return bool(num_heads and num_kv_heads) and head_dim in FUSED_ROPE_HEADS and one_loop <= ROPE_BUFFER_BYTES


def _npu_rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return torch_npu.npu_rms_norm(x, weight, eps)[0]


def _plain_rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return rms_norm_fp32(x, weight, eps).to(x.dtype)


RMS_NORM: dict[str, Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]] = {
    "npu_rms_norm": _npu_rms_norm,
    PLAIN: _plain_rms_norm,
}
"""(x, weight, eps) -> normed, over the last axis."""


def _npu_add_rms_norm(
    delta: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    normed, _, total = torch_npu.npu_add_rms_norm(residual, delta, weight, eps)
    return normed, total


def _plain_add_rms_norm(
    delta: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    total = residual + delta
    return _plain_rms_norm(total, weight, eps), total


ADD_RMS_NORM: dict[
    str, Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], tuple[torch.Tensor, torch.Tensor]]
] = {"npu_add_rms_norm": _npu_add_rms_norm, PLAIN: _plain_add_rms_norm}
"""(delta, residual, weight, eps) -> normed, the new stream."""


def rotate_at_once(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """q (T, N, H) and k (T, M, H), both overwritten; cos, sin (T, 1, H). BSND is the layout of every CANN version."""
    one_sequence = (tensor.unsqueeze(0) for tensor in (q, k, cos, sin))
    q, k = torch_npu.npu_apply_rotary_pos_emb(*one_sequence, layout="BSND", rotary_mode="half")
    return q.squeeze(0), k.squeeze(0)


def _npu_rotary_mul(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    return torch_npu.npu_rotary_mul(x.unsqueeze(0), cos.unsqueeze(0), sin.unsqueeze(0)).squeeze(0)


def _plain_rotation(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.float().chunk(2, dim=-1)
    return (x.float() * cos.float() + torch.cat([-second, first], dim=-1) * sin.float()).to(x.dtype)


ROTATION_OF_ONE: dict[str, Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "npu_rotary_mul": _npu_rotary_mul,
    PLAIN: _plain_rotation,
}
"""(x of (T, heads, H), cos, sin of (T, 1, H)) -> rotated."""


def _plain_swiglu(gated: torch.Tensor) -> torch.Tensor:
    gate, up = gated.chunk(2, dim=-1)
    return (F.silu(gate.float()) * up.float()).to(gated.dtype)


SWIGLU: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "npu_swiglu": lambda gated: torch_npu.npu_swiglu(gated),
    PLAIN: _plain_swiglu,
}
"""(T, 2 F) -> (T, F): silu of the first half times the second."""


def _npu_gelu(x: torch.Tensor, tanh: bool) -> torch.Tensor:
    return torch_npu.npu_gelu(x, approximate="tanh" if tanh else "none")


def _plain_gelu(x: torch.Tensor, tanh: bool) -> torch.Tensor:
    """Not torch's own, which on this device computes the tanh form whatever is asked."""
    wide = x.float()
    if tanh:
        inner = 0.7978845608028654 * (wide + 0.044715 * wide * wide * wide)  # sqrt(2 / pi)
        return (0.5 * wide * (1.0 + torch.tanh(inner))).to(x.dtype)
    return (0.5 * wide * (1.0 + torch.erf(wide * 0.7071067811865476))).to(x.dtype)


GELU: dict[str, Callable[[torch.Tensor, bool], torch.Tensor]] = {"npu_gelu": _npu_gelu, PLAIN: _plain_gelu}
"""(x, whether the tanh form) -> gelu(x)."""


def _npu_dynamic_quant(x: torch.Tensor) -> QuantizedActivation:
    return QuantizedActivation(*torch_npu.npu_dynamic_quant(x))


def _plain_quant(x: torch.Tensor) -> QuantizedActivation:
    wide = x.float()
    scales = (wide.abs().amax(-1) / INT8_MAX).clamp_min(torch.finfo(torch.float32).tiny)
    return QuantizedActivation((wide / scales.unsqueeze(-1)).round().to(torch.int8), scales)


QUANTIZE: dict[str, Callable[[torch.Tensor], QuantizedActivation]] = {
    "npu_dynamic_quant": _npu_dynamic_quant,
    PLAIN: _plain_quant,
}
"""(T, D) -> int8 rows, each with a scale of its own."""


def add_rms_norm_quant(
    delta: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[QuantizedActivation, torch.Tensor]:
    """The norm, quantised, and the new stream. y2 and scale2 mean nothing without a second smooth scale."""
    values, _, total, scales, _ = torch_npu.npu_add_rms_norm_dynamic_quant(residual, delta, weight, epsilon=eps)
    return QuantizedActivation(values, scales), total


def swiglu_quant(gated: torch.Tensor) -> QuantizedActivation:
    """Computes ``SWIGLU``, quantised. activate_left is False by default: silu would fall on the second half."""
    return QuantizedActivation(*torch_npu.npu_swiglu_quant(gated, activate_left=True, quant_mode=1))


TILED, UNTILED = "npu_quant_matmul on FRACTAL_NZ", "npu_quant_matmul on ND"


def _npu_quant_matmul(
    x: QuantizedActivation, weight: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype
) -> torch.Tensor:
    return torch_npu.npu_quant_matmul(
        x.values,
        weight,
        scales,
        pertoken_scale=x.scales,
        bias=bias,
        output_dtype=dtype,  # the default is int8
    )


def _plain_product(
    x: QuantizedActivation, weight: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype
) -> torch.Tensor:
    """Slow: the weight is converted each time."""
    rows = (x.values.float() * x.scales.unsqueeze(-1)).to(dtype)
    out = rows @ (weight.float() * scales.float()).to(dtype)
    return out if bias is None else (out.float() + bias.float()).to(dtype)


Product = Callable[
    [QuantizedActivation, torch.Tensor, torch.Tensor, torch.Tensor | None, torch.dtype],
    torch.Tensor,
]
PRODUCT: dict[str, Product] = {TILED: _npu_quant_matmul, UNTILED: _npu_quant_matmul, PLAIN: _plain_product}
"""(int8 rows, int8 weight (in, out), its scales, bias, dtype) -> (T, out). The first wants the weight tiled."""
