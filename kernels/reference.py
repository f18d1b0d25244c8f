"""Every op in plain torch, on any device and in any dtype: the reference that all other backends are tested against.

Norms, rotations, softmax and the score head are computed in fp32 whatever the dtype, and rounded once at the end.
Attention is in ``reference_attention.py``. An ``Activation`` here is always a plain tensor.
"""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F

from engine.kernels.ops import AttentionMeta, LinearWeight
from engine.kernels.reference_attention import attend
from engine.kernels.weight_groups import GroupedRows, GroupLayout


class ReferenceLinear:
    """A weight as torch has it: (out_features, in_features), row-major."""

    def __init__(
        self, out_features: int, in_features: int, *, bias: bool, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.out_features = out_features
        self.in_features = in_features
        self.weight = torch.empty(out_features, in_features, device=device, dtype=dtype)
        self.bias = torch.zeros(out_features, device=device, dtype=dtype) if bias else None

    def load_rows(self, start: int, rows: torch.Tensor) -> None:
        self.weight[start : start + len(rows)].copy_(rows)

    def load_bias(self, start: int, bias: torch.Tensor) -> None:
        assert self.bias is not None, "this weight was made without a bias"
        self.bias[start : start + len(bias)].copy_(bias)

    @property
    def num_bytes(self) -> int:
        return self.weight.nbytes + (0 if self.bias is None else self.bias.nbytes)


class ReferenceGrouped:
    """A weight of 4 bits in groups, dequantised whole whenever it is used: the reference of the others."""

    def __init__(
        self,
        out_features: int,
        in_features: int,
        layout: GroupLayout,
        *,
        bias: bool,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.out_features, self.in_features, self.layout = out_features, in_features, layout
        self.device, self.dtype = device, dtype
        num_groups = layout.num_groups(in_features)
        self.codes = torch.zeros(out_features, in_features, dtype=torch.uint8)
        self.scales = torch.zeros(out_features, num_groups)
        self.offsets = torch.zeros(out_features, num_groups) if layout.has_offsets else None
        self.bias = torch.zeros(out_features, device=device, dtype=dtype) if bias else None

    def load_groups(self, start: int, rows: GroupedRows) -> None:
        stop = start + len(rows.codes)
        self.codes[start:stop], self.scales[start:stop] = rows.codes, rows.scales
        if rows.offsets is not None and self.offsets is not None:
            self.offsets[start:stop] = rows.offsets

    def load_rows(self, start: int, rows: torch.Tensor) -> None:
        raise TypeError("a weight of 4 bits in groups takes groups, not rows")

    def load_bias(self, start: int, bias: torch.Tensor) -> None:
        assert self.bias is not None, "this weight was made without a bias"
        self.bias[start : start + len(bias)].copy_(bias)

    @property
    def weight(self) -> torch.Tensor:
        return GroupedRows(self.codes, self.scales, self.offsets).dequantized(self.layout).to(self.device, self.dtype)

    @property
    def num_bytes(self) -> int:
        tensors = (self.codes, self.scales, self.offsets, self.bias)
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def rms_norm_fp32(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    wide = x.float()
    return wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight.float()


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """x (T, heads, H) fp32; cos, sin (T, 1, H/2)."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class ReferenceOps:
    """Implements ``kernels.ops.Ops``."""

    def __init__(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.device = torch.device(device)
        self.dtype = dtype

    def unpack(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def of_layer(self, index: int) -> Self:
        return self

    def of_qkv(self) -> Self:
        return self

    def new_linear(self, out_features: int, in_features: int, *, bias: bool = False) -> ReferenceLinear:
        return ReferenceLinear(out_features, in_features, bias=bias, device=self.device, dtype=self.dtype)

    def new_grouped_linear(
        self, out_features: int, in_features: int, layout: GroupLayout, *, bias: bool = False
    ) -> ReferenceGrouped | None:
        return ReferenceGrouped(out_features, in_features, layout, bias=bias, device=self.device, dtype=self.dtype)

    def linear(self, x: torch.Tensor, weight: LinearWeight) -> torch.Tensor:
        assert isinstance(weight, ReferenceLinear | ReferenceGrouped)
        return F.linear(x, weight.weight, weight.bias)

    def linear_residual(
        self, x: torch.Tensor, weight: LinearWeight, residual: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        return self.linear(x, weight), residual

    def linear_swiglu(self, x: torch.Tensor, gate_up: LinearWeight) -> torch.Tensor:
        gate, up = self.linear(x, gate_up).chunk(2, dim=-1)
        return (F.silu(gate.float()) * up).to(x.dtype)

    def linear_geglu(self, x: torch.Tensor, gate_up: LinearWeight, *, tanh: bool) -> torch.Tensor:
        gate, up = self.linear(x, gate_up).chunk(2, dim=-1)
        return (F.gelu(gate.float(), approximate="tanh" if tanh else "none") * up).to(x.dtype)

    def linear_gelu(self, x: torch.Tensor, weight: LinearWeight, *, tanh: bool = False) -> torch.Tensor:
        return F.gelu(self.linear(x, weight).float(), approximate="tanh" if tanh else "none").to(x.dtype)

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        return rms_norm_fp32(x, weight, eps).to(x.dtype)

    def add_rms_norm(
        self, delta: torch.Tensor | None, residual: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        summed = residual if delta is None else residual + delta
        return self.rms_norm(summed, weight, eps), summed

    def layer_norm(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, eps: float) -> torch.Tensor:
        wide_bias = None if bias is None else bias.float()
        return F.layer_norm(x.float(), (x.shape[-1],), weight.float(), wide_bias, eps).to(x.dtype)

    def qk_norm_rope(
        self,
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
        heads = qkv.view(len(qkv), num_heads + 2 * num_kv_heads, head_dim)
        q, k, v = heads.split([num_heads, num_kv_heads, num_kv_heads], dim=1)
        cos_T1h, sin_T1h = cos[positions].unsqueeze(1), sin[positions].unsqueeze(1)

        def finish(x: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
            normed = x.float() if weight is None else rms_norm_fp32(x, weight, eps)
            return rotate(normed, cos_T1h, sin_T1h).to(qkv.dtype)

        return finish(q, q_weight), finish(k, k_weight), v

    def attention(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
        meta: AttentionMeta,
    ) -> torch.Tensor:
        return attend(q, k, v, k_cache, v_cache, meta)

    def score(
        self,
        delta: torch.Tensor | None,
        residual: torch.Tensor,
        norm_weight: torch.Tensor,
        eps: float,
        head: torch.Tensor,
        bias: torch.Tensor | None,
    ) -> torch.Tensor:
        summed = residual.float() if delta is None else residual.float() + delta.float()
        return F.linear(rms_norm_fp32(summed, norm_weight, eps), head, bias)
