"""Norms, rotation, activations and formats, with the constraints of their documentation pages."""

from __future__ import annotations

from typing import Any

import torch

from torch_npu._library import kernel
from torch_npu._state import require, state
from torch_npu._tensor import FRACTAL_NZ, ND

FLOATS = (torch.float16, torch.bfloat16, torch.float32)


def _rms(x: torch.Tensor, gamma: torch.Tensor, epsilon: float) -> tuple[torch.Tensor, torch.Tensor]:
    rstd = torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + epsilon)
    return (x.float() * rstd * gamma.float()).to(x.dtype), rstd


def check_gamma(op: str, x: torch.Tensor, gamma: torch.Tensor) -> None:
    require(gamma.dim() == 1 and gamma.shape[0] == x.shape[-1], op, "gamma must have the length of the last axis")
    require(gamma.dtype == x.dtype, op, f"gamma is {gamma.dtype}, the input {x.dtype}")
    require(x.dtype in FLOATS, op, f"{x.dtype} is not supported")


@kernel
def npu_rms_norm(self: torch.Tensor, gamma: torch.Tensor, epsilon: float = 1e-6) -> Any:
    op = "npu_rms_norm"
    require(2 <= self.dim() <= 8, op, "2 to 8 dimensions")
    check_gamma(op, self, gamma)
    if state.is_310p:
        require(self.shape[-1] * self.element_size() >= 32, op, "the last axis needs at least 32 bytes")
    return _rms(self, gamma, epsilon)


@kernel
def npu_add_rms_norm(x1: torch.Tensor, x2: torch.Tensor, gamma: torch.Tensor, epsilon: float = 1e-6) -> Any:
    op = "npu_add_rms_norm"
    require(x1.shape == x2.shape and x1.dtype == x2.dtype, op, "x1 and x2 must agree in shape and dtype")
    require(x1.numel() > 0, op, "empty tensors are not supported")
    check_gamma(op, x1, gamma)
    total = x1 + x2
    return *_rms(total, gamma, epsilon), total


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    x1, x2 = x.float().chunk(2, dim=-1)
    return (x.float() * cos.float() + torch.cat([-x2, x1], -1) * sin.float()).to(x.dtype)


@kernel
def npu_rotary_mul(
    self: torch.Tensor,
    r1: torch.Tensor,
    r2: torch.Tensor,
    rotary_mode: str = "half",
    rotate: torch.Tensor | None = None,
) -> torch.Tensor:
    op = "npu_rotary_mul"
    require(self.dim() == 4, op, "4 dimensions")
    require(self.shape[0] < 1000 and self.shape[2] < 1000, op, "B and N must be below 1000")
    require(self.shape[3] < 896 and self.shape[3] % 2 == 0, op, "D must be even and below 896")
    b, s, _, d = self.shape
    for r in (r1, r2):
        require(
            tuple(r.shape) in {(1, s, 1, d), (b, s, 1, d)}, op, f"r1, r2 of shape {tuple(r.shape)} for a BSND input"
        )
        require(r.dtype == self.dtype, op, "one dtype for all inputs")
    require(rotary_mode == "half" and rotate is None, op, "only half mode is simulated")
    return _rotate(self, r1, r2)


def _check_rotation_buffer(op: str, query: torch.Tensor, key: torch.Tensor) -> None:
    """A token's heads must fit the unified buffer of a core: apply_rotary_pos_emb_tiling.cpp, ``ComputeAB``."""
    size, wide = query.element_size(), 2 if query.dtype == torch.float16 else 4
    q_part = (query.shape[-2] + key.shape[-2]) * query.shape[-1] * wide
    one_loop = 5 * q_part + 4 * query.shape[-1] * size
    if query.dtype == torch.bfloat16:
        one_loop += 2 * query.shape[-1] * wide
    require(one_loop <= 192 * 1024, op, f"oneLoop is too large or small than 0 ({one_loop} bytes)")


@kernel
def npu_apply_rotary_pos_emb(
    query: torch.Tensor,
    key: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    layout: str = "BSND",
    rotary_mode: str = "half",
) -> Any:
    op = "npu_apply_rotary_pos_emb"
    require(layout in ("BSND", "TND"), op, f"the layout {layout} is not for this product")
    if state.cann < (9, 0):  # apply_rotary_pos_emb_tiling.cpp of CANN 8
        require(layout == "BSND", op, "layout is not one")
        require(query.shape[-1] == 128, op, "last dims is not 128")
    require(rotary_mode == "half", op, "rotary_mode must be half on this product")
    tensors = (query, key, cos, sin)
    dims = 4 if layout == "BSND" else 3
    require(all(t.dim() == dims for t in tensors), op, f"{layout} needs {dims} dimensions everywhere")
    require(all(t.numel() > 0 for t in tensors), op, "empty tensors are not supported")
    require(len({t.dtype for t in tensors}) == 1, op, "query, key, cos and sin must have one dtype")
    require(len({t.shape[:-2] for t in tensors}) == 1, op, "the first axes (B, S or T) must agree")
    require(len({t.shape[-1] for t in tensors}) == 1 and query.shape[-1] in (64, 128), op, "D must be 64 or 128")
    require(cos.shape[-2] == 1 and sin.shape[-2] == 1, op, "cos and sin have one head")
    require(query.is_contiguous() and key.is_contiguous(), op, "query and key are updated in place: contiguous only")
    require(not (state.is_310p and query.dtype == torch.bfloat16), op, "no bfloat16 on this product")
    _check_rotation_buffer(op, query, key)
    query.copy_(_rotate(query, cos, sin))
    key.copy_(_rotate(key, cos, sin))
    return query, key


@kernel
def npu_swiglu(self: torch.Tensor, dim: int = -1) -> torch.Tensor:
    op = "npu_swiglu"
    require(not state.is_310p, op, "not listed for this product")
    require(self.dtype in FLOATS, op, f"{self.dtype} is not supported")
    require(self.is_contiguous(), op, "non-contiguous tensors are not supported")
    require(self.numel() > 0 and self.shape[dim] % 2 == 0, op, "not empty, and even along dim")
    gate, up = self.float().chunk(2, dim)
    return (torch.nn.functional.silu(gate) * up).to(self.dtype)


@kernel
def npu_gelu(self: torch.Tensor, *, approximate: str = "none") -> torch.Tensor:
    require(approximate in ("none", "tanh"), "npu_gelu", "approximate is none or tanh")
    return torch.nn.functional.gelu(self.float(), approximate=approximate).to(self.dtype)


@kernel
def npu_format_cast(
    self: torch.Tensor, acl_format: int, *, customize_dtype: Any = None, input_dtype: Any = None
) -> Any:
    op = "npu_format_cast"
    require(acl_format in (ND, FRACTAL_NZ), op, f"format {acl_format} is not simulated")
    require(
        state.allow_internal_format or acl_format == ND,
        op,
        "cannot create a tensor with internal format while torch.npu.config.allow_internal_format is False",
    )
    require(
        self.dim() >= 2 and self.is_contiguous(), op, "FRACTAL_NZ needs a contiguous tensor of at least 2 dimensions"
    )
    return self.clone()
