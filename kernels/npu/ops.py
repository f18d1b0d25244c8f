"""``Ops`` on Ascend. Each method is one or two operators of torch_npu, in the forms that were chosen (``forms.py``)."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F

from engine.kernels import reference_attention
from engine.kernels.npu import attention, attention_310p
from engine.kernels.npu.attention import FUSION_MAX_HEAD_DIM, AttentionForm
from engine.kernels.npu.forms import (
    ADD_RMS_NORM,
    AT_ONCE,
    GELU,
    IN_STEPS,
    PRODUCT,
    QUANTIZE,
    RMS_NORM,
    ROTATION_OF_ONE,
    SWIGLU,
    SWIGLU_QUANT_MAX_FEATURES,
    TILED,
    TILED_WEIGHTS,
    Forms,
    add_rms_norm_quant,
    rotate_at_once,
    rotates_at_once,
    swiglu_quant,
)
from engine.kernels.npu.grouped import GROUPED, NpuGrouped, fits, new_made
from engine.kernels.npu.linear import NpuInt8Linear, NpuLinear, QuantizedActivation
from engine.kernels.npu.soc import Soc
from engine.kernels.ops import Activation, AttentionMeta, GroupedWeight, LinearWeight
from engine.kernels.weight_groups import GroupLayout


class NpuOps:
    """Implements ``kernels.ops.Ops``. ``forms``: which form of each op runs; change them with ``use``."""

    def __init__(
        self, device: torch.device, dtype: torch.dtype, soc: Soc, *, int8: bool = False, int4: bool = False
    ) -> None:
        self.device = device
        self.dtype = dtype
        self.soc = soc
        self.int8, self.int4 = int8, int4
        self.forms = soc.forms
        self._linears: list[NpuLinear | NpuInt8Linear] = []
        self._mask: torch.Tensor | None = None
        self._rope_positions: torch.Tensor | None = None
        self._rope_factors: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def use(self, forms: Forms) -> None:
        """Compute as ``forms`` say from now on. Weights that must lie otherwise are laid so."""
        self.forms = forms
        for linear in self._linears:
            wanted = forms.product == TILED if isinstance(linear, NpuInt8Linear) else forms.weights == TILED_WEIGHTS
            if not wanted:
                linear.untile()

    def unpack(self, x: Activation) -> torch.Tensor:
        if isinstance(x, QuantizedActivation):
            return (x.values.float() * x.scales.unsqueeze(-1)).to(self.dtype)
        return x

    def of_layer(self, index: int) -> NpuOps:
        return self

    def of_qkv(self) -> NpuOps:
        return self

    def new_linear(self, out_features: int, in_features: int, *, bias: bool = False) -> LinearWeight:
        made: NpuLinear | NpuInt8Linear
        if self.int4:
            narrow = new_made(out_features, in_features, bias=bias, device=self.device, dtype=self.dtype)
            if narrow is not None:
                return narrow
        if self.int8:
            tile = self.forms.product == TILED
            made = NpuInt8Linear(out_features, in_features, bias=bias, device=self.device, tile=tile)
        else:
            tile = self.forms.weights == TILED_WEIGHTS
            made = NpuLinear(out_features, in_features, bias=bias, device=self.device, dtype=self.dtype, tile=tile)
        self._linears.append(made)
        return made

    def new_grouped_linear(
        self, out_features: int, in_features: int, layout: GroupLayout, *, bias: bool = False
    ) -> GroupedWeight | None:
        """Returns None unless 4 bits were asked for: with many rows the operator is no faster than plain weights."""
        if not (self.int4 and fits(out_features, in_features, layout)):
            return None
        return NpuGrouped(out_features, in_features, layout, bias=bias, device=self.device, dtype=self.dtype)

    def linear(self, x: Activation, weight: LinearWeight) -> torch.Tensor:
        if isinstance(weight, NpuLinear):
            return F.linear(x, weight.weight, weight.bias)
        if isinstance(weight, NpuGrouped):
            return GROUPED[self.forms.grouped](x, weight)
        assert isinstance(weight, NpuInt8Linear)
        quantized = self._quantize(x)
        return PRODUCT[self.forms.product](quantized, weight.weight, weight.scales, weight.bias, self.dtype)

    def linear_residual(
        self, x: Activation, weight: LinearWeight, residual: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        return self.linear(x, weight), residual  # npu_add_rms_norm adds

    def linear_swiglu(self, x: Activation, gate_up: LinearWeight) -> Activation:
        return self._swiglu(self.linear(x, gate_up))

    def _swiglu(self, gated: torch.Tensor) -> Activation:
        fused = self.forms.swiglu_quant != IN_STEPS and gated.shape[-1] <= SWIGLU_QUANT_MAX_FEATURES
        return swiglu_quant(gated) if self.int8 and fused else SWIGLU[self.forms.swiglu](gated)

    def linear_geglu(self, x: Activation, gate_up: LinearWeight, *, tanh: bool) -> Activation:
        # npu_gelu_mul would be one operator but stops at 1024 features.
        gate, up = self.linear(x, gate_up).chunk(2, dim=-1)
        return GELU[self.forms.gelu](gate, tanh) * up

    def linear_gelu(self, x: Activation, weight: LinearWeight, *, tanh: bool = False) -> Activation:
        return GELU[self.forms.gelu](self.linear(x, weight), tanh)

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> Activation:
        normed = RMS_NORM[self.forms.rms_norm](x, weight, eps)
        return self._quantize(normed) if self.int8 else normed

    def add_rms_norm(
        self, delta: torch.Tensor | None, residual: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> tuple[Activation, torch.Tensor]:
        if delta is None:
            return self.rms_norm(residual, weight, eps), residual
        if self.int8 and self.forms.add_rms_norm_quant != IN_STEPS:
            return add_rms_norm_quant(delta, residual, weight, eps)
        normed, total = ADD_RMS_NORM[self.forms.add_rms_norm](delta, residual, weight, eps)
        return self._quantize(normed) if self.int8 else normed, total

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
        q, k = self._head_norm(q, q_weight, eps), self._head_norm(k, k_weight, eps)
        q, k = self._rotate(q, k, *self._rope(cos, sin, positions))
        return q, k, v

    def _rotate(
        self, q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The last layer rotates queries and keys apart: one of them has no heads."""
        if self.forms.rotation == AT_ONCE and rotates_at_once(q.shape[1], k.shape[1], q.shape[2], q.dtype):
            return rotate_at_once(q, k, cos, sin)
        one = ROTATION_OF_ONE[self.forms.rotation_of_one]
        return (one(q, cos, sin) if q.shape[1] else q), (one(k, cos, sin) if k.shape[1] else k)

    def _head_norm(self, x: torch.Tensor, weight: torch.Tensor | None, eps: float) -> torch.Tensor:
        """(T, heads, H), a view into the fused projection -> a tensor of its own, which the rotation may change."""
        if weight is None or x.shape[1] == 0:
            return x.contiguous()
        return RMS_NORM[self.forms.rms_norm](x, weight, eps)

    def attention(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
        meta: AttentionMeta,
    ) -> Activation:
        if meta.window is not None or meta.score_cap is not None:  # no operator's contract was tried with either
            return self.attend("plain torch", q, k, v, k_cache, v_cache, meta)
        form = self.forms.attention
        if form is None:
            form = self.attention_forms(q.shape[1], k.shape[1], q.shape[2], causal=meta.causal)[0]
            self.forms = replace(self.forms, attention=form)
        return self.attend(form, q, k, v, k_cache, v_cache, meta)

    def attention_forms(
        self, num_heads: int, num_kv_heads: int, head_dim: int, *, causal: bool
    ) -> tuple[AttentionForm, ...]:
        """Those that are documented for these heads, best first."""
        if self.soc.is_inference_series:
            return "npu_prompt_flash_attention", "plain torch"
        if attention.can_use_fia(num_heads, num_kv_heads, head_dim, self.dtype, causal=causal):
            return "block table", "gathered", "npu_fusion_attention", "plain torch"
        return ("npu_fusion_attention", "plain torch") if head_dim <= FUSION_MAX_HEAD_DIM else ("plain torch",)

    def attend(
        self,
        form: AttentionForm,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
        meta: AttentionMeta,
    ) -> torch.Tensor:
        """Attention in a form. Raises ``NotCapturableError`` while a graph records another than ``block table``."""
        plan = meta.cache.get(attention.PLAN)
        if form != "block table" and plan is not None and plan.for_graph:
            raise attention.NotCapturableError(f"heads of {q.shape[-1]} in {q.dtype} need attention by {form}")
        if form == "plain torch":
            return reference_attention.attend(q, k, v, k_cache, v_cache, meta)
        if form == "npu_prompt_flash_attention":
            return attention_310p.attend(q, k, v, k_cache, v_cache, meta)
        if self._mask is None:
            self._mask = attention.compressed_mask(self.device)
        return attention.attend(q, k, v, k_cache, v_cache, meta, self._mask, form)

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
        return F.linear(RMS_NORM[self.forms.rms_norm](wide, norm_weight.float(), eps), head, bias)

    def _quantize(self, x: Activation) -> QuantizedActivation:
        return x if isinstance(x, QuantizedActivation) else QUANTIZE[self.forms.quantize](x)

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
