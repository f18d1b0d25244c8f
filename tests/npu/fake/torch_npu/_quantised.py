"""W8A8: dynamic quantisation per token, the int8 product, and their fusions."""

from __future__ import annotations

from typing import Any

import torch

from torch_npu._dense import check_gamma
from torch_npu._library import kernel
from torch_npu._state import require, state

_HALVES = (torch.float16, torch.bfloat16)
_BY_CODE = {1: torch.int8, 3: torch.int32, 5: torch.float16, 15: torch.bfloat16}
"""ScalarType numbers: the schema says ``int?`` and torch turns a dtype into its number."""


def _quantise(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = x.float().abs().amax(-1) / 127.0
    safe = torch.where(scale > 0, scale, torch.ones_like(scale))
    return torch.round(x.float() / safe[..., None]).clamp(-128, 127).to(torch.int8), scale


@kernel
def npu_dynamic_quant(
    input: torch.Tensor,
    *,
    smooth_scales: Any = None,
    group_index: Any = None,
    dst_type: int | None = None,
    quant_mode: str = "pertoken",
    dst_type_max: float = 0.0,
) -> Any:
    op = "npu_dynamic_quant"
    require(not state.is_310p, op, "not listed for this product")
    require(input.dtype in _HALVES, op, f"float16 and bfloat16 only, not {input.dtype}")
    require(input.dim() > 1, op, "at least 2 dimensions")
    require(smooth_scales is None and group_index is None and dst_type in (None, 1), op, "only plain int8 is simulated")
    return _quantise(input)


@kernel
def npu_add_rms_norm_dynamic_quant(
    x1: torch.Tensor, x2: torch.Tensor, gamma: torch.Tensor, *, epsilon: float = 1e-6, **optional: Any
) -> Any:
    op = "npu_add_rms_norm_dynamic_quant"
    require(not state.is_310p, op, "not listed for this product")
    require(x1.dtype in _HALVES, op, f"float16 and bfloat16 only, not {x1.dtype}")
    require(x1.shape == x2.shape and x1.dtype == x2.dtype, op, "x1 and x2 must agree in shape and dtype")
    require(x1.dim() >= 2 and x1.numel() > 0, op, "at least 2 dimensions, not empty")
    require(all(value is None for value in optional.values()), op, f"not simulated: {sorted(optional)}")
    check_gamma(op, x1, gamma)
    total = x1 + x2
    norm = total.float() * torch.rsqrt(total.float().pow(2).mean(-1, keepdim=True) + epsilon) * gamma.float()
    values, scale = _quantise(norm)
    # Without smooth_scale2 the second pair is undefined: nobody may read it.
    return values, torch.full_like(values, 99), total, scale, torch.full_like(scale, float("nan"))


@kernel
def npu_swiglu_quant(
    x: torch.Tensor,
    *,
    smooth_scales: Any = None,
    offsets: Any = None,
    group_index: Any = None,
    activate_left: bool = False,
    quant_mode: int = 0,
    group_list_type: int = 0,
    dst_type: Any = None,
) -> Any:
    op = "npu_swiglu_quant"
    require(not state.is_310p, op, "not listed for this product")
    require(x.dim() > 1 and x.shape[-1] % 2 == 0, op, "more than one dimension, even last axis")
    require(x.shape[-1] <= 8192, op, f"the last axis has {x.shape[-1]} elements, at most 8192 are supported")
    require(quant_mode == 1, op, "only dynamic quantisation (quant_mode=1) is simulated")
    require(smooth_scales is None and offsets is None and group_index is None, op, "only plain int8 is simulated")
    first, second = x.float().chunk(2, -1)
    active, other = (first, second) if activate_left else (second, first)
    return _quantise(torch.nn.functional.silu(active) * other)


@kernel
def npu_quant_matmul(
    x1: torch.Tensor,
    x2: torch.Tensor,
    scale: torch.Tensor,
    *,
    pertoken_scale: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    output_dtype: int | None = None,
    **optional: Any,
) -> torch.Tensor:
    op = "npu_quant_matmul"
    dtype = torch.int8 if output_dtype is None else _BY_CODE.get(output_dtype)
    require(dtype is not None, op, f"output_dtype {output_dtype} is not supported")
    require(x1.dtype == x2.dtype == torch.int8, op, "x1 and x2 must be int8")
    require(x1.dim() == x2.dim() == 2 and x1.shape[1] == x2.shape[0], op, f"({x1.shape}) times ({x2.shape})")
    require(x1.numel() > 0 and x1.is_contiguous(), op, "x1 must be contiguous and not empty")
    require(max(x1.shape[1], x2.shape[1]) <= 65535, op, "last axes are limited to 65535")
    require(scale.dim() == 1 and scale.shape[0] in (1, x2.shape[1]), op, "scale must be (1,) or (n,)")
    require(all(value is None for value in optional.values()), op, f"not simulated: {sorted(optional)}")
    require(not (state.is_310p and pertoken_scale is not None), op, "pertoken_scale is not supported on this product")
    _check_combination(op, dtype, scale, pertoken_scale, bias)
    out = (x1.float() @ x2.float()) * scale.float()
    if pertoken_scale is not None:
        require(tuple(pertoken_scale.shape) == (x1.shape[0],), op, "pertoken_scale must be (m,)")
        out = out * pertoken_scale[:, None]
    if bias is not None:
        require(tuple(bias.shape) == (x2.shape[1],), op, "bias must be (n,)")
        out = out + bias.float()
    return out.round().clamp(-128, 127).to(dtype) if dtype == torch.int8 else out.to(dtype)


@kernel
def npu_weight_quant_batchmatmul(
    x: torch.Tensor,
    weight: torch.Tensor,
    antiquant_scale: torch.Tensor,
    antiquant_offset: torch.Tensor | None = None,
    quant_scale: torch.Tensor | None = None,
    quant_offset: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    antiquant_group_size: int = 0,
    inner_precise: int = 0,
    weight_dtype: int | None = None,
) -> torch.Tensor:
    """int4, eight to an int32 along the outputs, in groups along K."""
    op, group = "npu_weight_quant_batchmatmul", antiquant_group_size
    require(not state.is_310p, op, "int4 is not listed for this product")
    require(x.dtype in _HALVES and x.dim() == 2 and x.is_contiguous(), op, f"x of {x.dtype} {tuple(x.shape)}")
    require(weight.dtype == torch.int32 and weight.dim() == 2, op, "int4 comes as int32, eight to a word")
    num_in, num_out = weight.shape[0], 8 * weight.shape[1]
    require(x.shape[1] == num_in and max(num_in, num_out) <= 65535, op, f"({x.shape}) times ({num_in}, {num_out})")
    require(group % 32 == 0 and 32 <= group <= num_in - 1, op, f"antiquant_group_size {group} of {num_in}")
    require(antiquant_scale.dtype == x.dtype, op, f"antiquant_scale is {antiquant_scale.dtype}, x {x.dtype}")
    require(tuple(antiquant_scale.shape) == (-(-num_in // group), num_out), op, "antiquant_scale must be (k / g, n)")
    require(antiquant_offset is None and quant_scale is None and quant_offset is None, op, "not simulated")
    require(
        weight_dtype is None and inner_precise in (0, 1) and not (inner_precise and len(x) > 16), op, "not simulated"
    )
    wanted = torch.float32 if x.dtype == torch.bfloat16 else x.dtype
    require(
        bias is None or (bias.dtype == wanted and tuple(bias.shape) == (num_out,)), op, f"bias must be {wanted} (n,)"
    )
    shifts = torch.arange(28, -1, -4, dtype=torch.int32)
    codes = ((weight.unsqueeze(2) << shifts) >> 28).reshape(num_in, num_out)
    wide = codes.to(x.dtype) * antiquant_scale.repeat_interleave(group, 0)[:num_in]
    out = x.float() @ wide.float()
    return (out if bias is None else out + bias.float()).to(x.dtype)


def _check_combination(op: str, dtype: Any, scale: torch.Tensor, pertoken: torch.Tensor | None, bias: Any) -> None:
    """Table 2 of the documentation page."""
    if dtype == torch.bfloat16:
        require(
            scale.dtype in (torch.float32, torch.bfloat16), op, f"bfloat16 out needs a float scale, not {scale.dtype}"
        )
    elif pertoken is not None:
        require(dtype == torch.float16 and scale.dtype == torch.float32, op, f"{dtype} out with pertoken_scale")
    else:
        require(scale.dtype in (torch.float32, torch.int64), op, f"scale {scale.dtype} for {dtype} out")
    require(pertoken is None or pertoken.dtype == torch.float32, op, "pertoken_scale must be float32")
    allowed = (
        (torch.int32,) if pertoken is None and dtype != torch.bfloat16 else (torch.int32, torch.bfloat16, torch.float32)
    )
    require(bias is None or bias.dtype in allowed, op, "bias dtype not allowed with this output")
