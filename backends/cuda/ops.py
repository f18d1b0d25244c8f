"""The op set on an NVIDIA GPU. In fp8, norms and gated activations hand quantised rows straight to the next product."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from engine.backends.cuda.attention import CACHE, AttentionForm, PreparedAttention, RangeForm
from engine.backends.cuda.forms import GATE, NORM, ROTATION, SCORE, Forms
from engine.backends.cuda.grouped import CudaGrouped, CudaMadeInt4, GroupedProducts
from engine.backends.cuda.linear import CudaLinear, Fp8Activation, Fp8Linear
from engine.errors import ConfigError
from engine.kernels.ops import Activation, AttentionMeta, GroupedWeight, LinearWeight
from engine.kernels.reference_attention import attend as plain_attention
from engine.kernels.triton.attention import default_config
from engine.kernels.triton.gated_activation import Gate
from engine.kernels.triton.grouped import fits
from engine.kernels.triton.launch import MAX_ROW
from engine.kernels.weight_groups import MADE, GroupLayout


def _activation(values: torch.Tensor, scales: torch.Tensor | None) -> Activation:
    return values if scales is None else Fp8Activation(values, scales)


class CudaOps:
    """Implements ``kernels.ops.Ops``."""

    def __init__(self, device: torch.device, dtype: torch.dtype, *, fp8: bool = False, int4: bool = False) -> None:
        self.device = device
        self.dtype = dtype
        self.fp8 = fp8
        self.int4 = int4
        """Linear weights are brought to 4 bits while they are loaded."""
        self.grouped = GroupedProducts(dtype)
        self.forms = Forms()
        self.small_form: AttentionForm | None = None
        self.large_form: AttentionForm | None = None
        """Of steps up to ``small_tokens`` and above; the backend measures which, until then a default runs."""
        self.small_tokens = 0
        self.head_shape: tuple[int, int, int] | None = None
        """(query heads, key heads, head size), known after the first step."""

    def unpack(self, x: Activation) -> torch.Tensor:
        return (x.values.float() * x.scales).to(self.dtype) if isinstance(x, Fp8Activation) else x

    def of_layer(self, index: int) -> CudaOps:
        return self

    def of_qkv(self) -> CudaOps:
        return self

    def new_linear(self, out_features: int, in_features: int, *, bias: bool = False) -> LinearWeight:
        if in_features > MAX_ROW:
            raise ConfigError(f"the kernels take rows of up to {MAX_ROW} features, this model has {in_features}")
        if self.int4 and fits(in_features, MADE):
            made = CudaMadeInt4(out_features, in_features, bias=bias, device=self.device, dtype=self.dtype)
            self.grouped.add(made)
            return made
        kind = Fp8Linear if self.fp8 else CudaLinear
        return kind(out_features, in_features, bias=bias, device=self.device, dtype=self.dtype)

    def new_grouped_linear(
        self, out_features: int, in_features: int, layout: GroupLayout, *, bias: bool = False
    ) -> GroupedWeight | None:
        """Returns None, so that the weight is dequantised at load: in fp8, and where the kernels take no such rows."""
        if self.fp8 or in_features > MAX_ROW or not fits(in_features, layout):
            return None
        weight = CudaGrouped(out_features, in_features, layout, bias=bias, device=self.device, dtype=self.dtype)
        self.grouped.add(weight)
        return weight

    def linear(self, x: Activation, weight: LinearWeight) -> torch.Tensor:
        if isinstance(weight, CudaGrouped):
            return self.grouped.product(x, weight, self.forms)
        assert isinstance(weight, CudaLinear | Fp8Linear)
        return weight.product(x)

    def linear_residual(
        self, x: Activation, weight: LinearWeight, residual: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        if isinstance(weight, CudaGrouped):
            return self.grouped.product_onto(x, weight, residual, self.forms), residual
        assert isinstance(weight, CudaLinear | Fp8Linear)
        return weight.product_onto(x, residual), residual

    def linear_swiglu(self, x: Activation, gate_up: LinearWeight) -> Activation:
        return self._gated(x, gate_up, "silu")

    def linear_geglu(self, x: Activation, gate_up: LinearWeight, *, tanh: bool) -> Activation:
        return self._gated(x, gate_up, "gelu_tanh" if tanh else "gelu")

    def _gated(self, x: Activation, gate_up: LinearWeight, gate: Gate) -> Activation:
        return _activation(*GATE[self.forms.gate](self.linear(x, gate_up), gate, quantize=self.fp8))

    def linear_gelu(self, x: Activation, weight: LinearWeight, *, tanh: bool = False) -> Activation:
        return F.gelu(self.linear(x, weight), approximate="tanh" if tanh else "none")

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> Activation:
        return _activation(*NORM[self.forms.norm](None, x, weight, eps, quantize=self.fp8))

    def add_rms_norm(
        self, delta: torch.Tensor | None, residual: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> tuple[Activation, torch.Tensor]:
        return _activation(*NORM[self.forms.norm](delta, residual, weight, eps, quantize=self.fp8)), residual

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
        rotation = ROTATION[self.forms.rotation]
        return rotation(qkv, q_weight, k_weight, eps, cos, sin, positions, num_heads, num_kv_heads, head_dim)

    def attention(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
        meta: AttentionMeta,
    ) -> Activation:
        if self.head_shape is None:
            self.head_shape = (q.shape[1], k.shape[1], q.shape[2])
        limited = meta.window is not None or meta.score_cap is not None
        prepared: PreparedAttention | None = meta.cache.get(CACHE)
        form = self.form_for(meta) if prepared is None else prepared.form
        if limited and not isinstance(form, RangeForm):  # only that form has both, and the self-test found it wrong
            return plain_attention(q, k, v, k_cache, v_cache, meta)
        if prepared is None:
            arrays = form.tables(meta, q.shape[1] // k.shape[1])
            prepared = PreparedAttention(form, [torch.from_numpy(array).to(self.device) for array in arrays])
            meta.cache[CACHE] = prepared
        return prepared.form.attend(q, k, v, k_cache, v_cache, meta, prepared.tables)

    def attend_by(self, form: AttentionForm) -> None:
        """All steps by one form, until the backend has measured which is the fastest."""
        self.small_form = self.large_form = form

    def form_for(self, meta: AttentionMeta) -> AttentionForm:
        form = self.small_form if meta.own_lens.sum() <= self.small_tokens else self.large_form
        if form is None:
            head_dim = 0 if self.head_shape is None else self.head_shape[2]
            form = RangeForm(default_config(self.dtype, head_dim))
        return form

    def score(
        self,
        delta: torch.Tensor | None,
        residual: torch.Tensor,
        norm_weight: torch.Tensor,
        eps: float,
        head: torch.Tensor,
        bias: torch.Tensor | None,
    ) -> torch.Tensor:
        return SCORE[self.forms.score](delta, residual, norm_weight, eps, head, bias)
