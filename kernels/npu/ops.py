"""``Ops`` on Ascend. Each method is one or two operators of torch_npu; the comments say why these.

Two traps that the documentation only mentions: torch's own ``gelu`` ignores ``approximate`` on this device and always
computes the tanh form, and ``npu_apply_rotary_pos_emb`` rotates in place.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import torch_npu

from engine.kernels.groups import GroupLayout
from engine.kernels.npu import attention, attention_310p
from engine.kernels.npu.linear import NpuInt8Linear, NpuLinear, QuantizedActivation
from engine.kernels.npu.soc import Soc
from engine.kernels.ops import Activation, AttentionMeta, GroupedWeight, LinearWeight

FUSED_ROPE_HEADS = (64, 128)
SWIGLU_QUANT_MAX_FEATURES = 8192
"""Gate and up of the 0.6B model (6144) fit the fused operator, those of 4B (19456) and 8B (24576) do not."""


class NpuOps:
    """Implements ``kernels.ops.Ops``."""

    def __init__(self, device: torch.device, dtype: torch.dtype, soc: Soc, *, int8: bool = False) -> None:
        self.device = device
        self.dtype = dtype
        self.soc = soc
        self.int8 = int8
        self._mask = None if soc.is_inference_series else attention.compressed_mask(device)
        self.attention_form: attention.AttentionForm | None = None
        """None until the first step has shown the model's heads."""
        self._rope_positions: torch.Tensor | None = None
        self._rope_factors: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def unpack(self, x: Activation) -> torch.Tensor:
        if isinstance(x, QuantizedActivation):
            return (x.values.float() * x.scales.unsqueeze(-1)).to(self.dtype)
        return x

    def new_linear(self, out_features: int, in_features: int, *, bias: bool = False) -> LinearWeight:
        if self.int8:
            return NpuInt8Linear(out_features, in_features, bias=bias, device=self.device)
        tiled = self.soc.is_inference_series
        return NpuLinear(out_features, in_features, bias=bias, device=self.device, dtype=self.dtype, tiled=tiled)

    def new_grouped_linear(
        self, out_features: int, in_features: int, layout: GroupLayout, *, bias: bool = False
    ) -> GroupedWeight | None:
        """None: the operator for 4 bits is made for a few rows; thousands are faster widened, to int8 with w8a8."""
        return None

    def linear(self, x: Activation, weight: LinearWeight) -> torch.Tensor:
        if isinstance(weight, NpuLinear):
            return F.linear(x, weight.weight, weight.bias)
        assert isinstance(weight, NpuInt8Linear)
        quantized = self._quantize(x)
        return torch_npu.npu_quant_matmul(
            quantized.values,
            weight.weight,
            weight.scales,
            pertoken_scale=quantized.scales,
            bias=weight.bias,
            output_dtype=self.dtype,  # the default is int8
        )

    def linear_residual(
        self, x: Activation, weight: LinearWeight, residual: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        return self.linear(x, weight), residual  # npu_add_rms_norm adds

    def linear_swiglu(self, x: Activation, gate_up: LinearWeight) -> Activation:
        gated = self.linear(x, gate_up)
        if self.soc.is_inference_series:  # npu_swiglu is not listed for it
            gate, up = gated.chunk(2, dim=-1)
            return F.silu(gate) * up
        if not self.int8 or gated.shape[-1] > SWIGLU_QUANT_MAX_FEATURES:
            return torch_npu.npu_swiglu(gated)
        # activate_left is False by default: silu would fall on the second half.
        return QuantizedActivation(*torch_npu.npu_swiglu_quant(gated, activate_left=True, quant_mode=1))

    def linear_geglu(self, x: Activation, gate_up: LinearWeight, *, tanh: bool) -> Activation:
        # npu_gelu_mul would be one operator but stops at 1024 features.
        gate, up = self.linear(x, gate_up).chunk(2, dim=-1)
        return _gelu(gate, tanh=tanh) * up

    def linear_gelu(self, x: Activation, weight: LinearWeight, *, tanh: bool = False) -> Activation:
        return _gelu(self.linear(x, weight), tanh=tanh)

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> Activation:
        normed, _ = torch_npu.npu_rms_norm(x, weight, eps)
        return self._quantize(normed) if self.int8 else normed

    def add_rms_norm(
        self, delta: torch.Tensor | None, residual: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> tuple[Activation, torch.Tensor]:
        if delta is None:
            return self.rms_norm(residual, weight, eps), residual
        if not self.int8:
            normed, _, total = torch_npu.npu_add_rms_norm(residual, delta, weight, eps)
            return normed, total
        # y2 and scale2 mean nothing without a second smooth scale.
        values, _, total, scales, _ = torch_npu.npu_add_rms_norm_dynamic_quant(residual, delta, weight, epsilon=eps)
        return QuantizedActivation(values, scales), total

    def layer_norm(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, eps: float) -> torch.Tensor:
        return F.layer_norm(x, (x.shape[-1],), weight, bias, eps)

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
        q, k = _head_norm(q, q_weight, eps), _head_norm(k, k_weight, eps)
        cos, sin = self._rope(cos, sin, positions)
        if num_heads and num_kv_heads and head_dim in FUSED_ROPE_HEADS:
            q, k = torch_npu.npu_apply_rotary_pos_emb(q, k, cos, sin, layout="TND", rotary_mode="half")
            return q, k, v
        # The last layer rotates queries and keys apart, and the fused operator takes no empty tensor.
        return _rotate(q, cos, sin), _rotate(k, cos, sin), v

    def attention(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        pool_k: torch.Tensor,
        pool_v: torch.Tensor,
        meta: AttentionMeta,
    ) -> Activation:
        if self._mask is None:
            return attention_310p.attend(q, k, v, pool_k, pool_v, meta)
        if self.attention_form is None:
            fia = attention.can_use_fia(q.shape[1], k.shape[1], q.shape[2], q.dtype, causal=meta.causal)
            self.attention_form = "block table" if fia else "npu_fusion_attention"
        return attention.attend(q, k, v, pool_k, pool_v, meta, self._mask, self.attention_form)

    def score(
        self,
        delta: torch.Tensor | None,
        residual: torch.Tensor,
        norm_weight: torch.Tensor,
        eps: float,
        head: torch.Tensor,
        bias: torch.Tensor | None,
    ) -> torch.Tensor:
        wide = residual.float() if delta is None else residual.float() + delta.float()
        return F.linear(torch_npu.npu_rms_norm(wide, norm_weight.float(), eps)[0], head, bias)

    def _quantize(self, x: Activation) -> QuantizedActivation:
        return x if isinstance(x, QuantizedActivation) else QuantizedActivation(*torch_npu.npu_dynamic_quant(x))

    def _rope(self, cos: torch.Tensor, sin: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(T, 1, H) factors of the step, one pair for all layers with the same table (ModernBERT has two).

        A step's positions are a tensor of their own.
        """
        if self._rope_positions is not positions:
            self._rope_positions, self._rope_factors = positions, {}
        factors = self._rope_factors.get(id(cos))
        if factors is None:
            halves = (table.index_select(0, positions).to(self.dtype) for table in (cos, sin))
            cos_TH, sin_TH = (torch.cat([half, half], dim=-1).unsqueeze(1) for half in halves)
            factors = self._rope_factors[id(cos)] = (cos_TH, sin_TH)
        return factors


def _gelu(x: torch.Tensor, *, tanh: bool) -> torch.Tensor:
    return torch_npu.npu_gelu(x, approximate="tanh" if tanh else "none")


def _head_norm(x: torch.Tensor, weight: torch.Tensor | None, eps: float) -> torch.Tensor:
    """(T, heads, H), a view into the fused projection -> a tensor of its own, which the rotation may change."""
    if weight is None or x.shape[1] == 0:
        return x.contiguous()
    return torch_npu.npu_rms_norm(x, weight, eps)[0]


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """For heads that the fused operator does not take: the 4-D one, as one sequence of T."""
    if x.shape[1] == 0:
        return x
    return torch_npu.npu_rotary_mul(x.unsqueeze(0), cos.unsqueeze(0), sin.unsqueeze(0)).squeeze(0)
