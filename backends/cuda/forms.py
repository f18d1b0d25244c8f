"""Forms of the ops that are kernels of our own: the Triton kernel, and plain torch where it fails its self-test.

Each table's functions take and give the same; see the kernels for shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from engine.kernels.reference import ReferenceOps, rms_norm_fp32
from engine.kernels.triton.add_rms_norm import add_rms_norm
from engine.kernels.triton.gated_activation import Gate, gated_activation, gated_activation_torch
from engine.kernels.triton.grouped import expand_groups, expand_groups_torch, grouped_product
from engine.kernels.triton.qk_norm_rope import qk_norm_rope
from engine.kernels.triton.quantize_fp8 import quantize_fp8_torch
from engine.kernels.triton.score import score

TRITON, PLAIN = "triton", "plain torch"
LIMIT = {torch.float32: 1e-4, torch.float16: 8e-3, torch.bfloat16: 4e-2}
"""Of the differences between forms: a few roundings in the dtype, relative to the largest value."""
Rows = tuple[torch.Tensor, torch.Tensor | None]
"""Values, and fp8 scales where they were asked for."""


@dataclass(frozen=True)
class Forms:
    """The form of each op: a key of the table of the same name."""

    norm: str = TRITON
    gate: str = TRITON
    rotation: str = TRITON
    score: str = TRITON
    expand: str = TRITON
    fused: str = TRITON


def _norm(
    delta: torch.Tensor | None, residual: torch.Tensor, weight: torch.Tensor, eps: float, *, quantize: bool = False
) -> Rows:
    if delta is not None:
        residual.add_(delta)
    y = rms_norm_fp32(residual, weight, eps)
    return quantize_fp8_torch(y) if quantize else (y.to(residual.dtype), None)


def _gate(gate_up: torch.Tensor, gate: Gate = "silu", *, quantize: bool = False) -> Rows:
    y = gated_activation_torch(gate_up, gate)
    return quantize_fp8_torch(y) if quantize else (y, None)


def _rotation(qkv: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return ReferenceOps(qkv.device, qkv.dtype).qk_norm_rope(qkv, *rest)


def _score(
    delta: torch.Tensor | None, residual: torch.Tensor, norm_weight: torch.Tensor, eps: float, head: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    return ReferenceOps(residual.device, residual.dtype).score(delta, residual, norm_weight, eps, head, bias)


NORM: dict[str, Callable[..., Rows]] = {TRITON: add_rms_norm, PLAIN: _norm}
GATE: dict[str, Callable[..., Rows]] = {TRITON: gated_activation, PLAIN: _gate}
ROTATION: dict[str, Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]]] = {
    TRITON: qk_norm_rope,
    PLAIN: _rotation,
}
SCORE: dict[str, Callable[..., torch.Tensor]] = {TRITON: score, PLAIN: _score}
EXPAND: dict[str, Callable[..., None]] = {TRITON: expand_groups, PLAIN: expand_groups_torch}
FUSED: dict[str, Callable[..., torch.Tensor] | None] = {TRITON: grouped_product, PLAIN: None}
"""None: without this kernel every weight is expanded."""
