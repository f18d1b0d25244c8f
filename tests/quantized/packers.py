"""Writers of the quantised formats, by their published layouts and apart from the reader: packing word by word.

Each takes a weight (N, K) and gives the stored tensors by their endings, the numbers that they stand for, and the
settings for ``quantization_config``. ``quantize_folder`` turns a plain checkpoint into such a one and a plain twin.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file

GROUP = 32


class Packed(NamedTuple):
    tensors: dict[str, torch.Tensor]
    """By what follows the module's name and a dot."""
    wide: torch.Tensor
    """(N, K) fp32."""
    settings: dict[str, Any]


def quantize_folder(folder: Path, pack: Callable[[torch.Tensor], Packed], *, and_head: bool = False) -> Path:
    """In place; returns a twin with the same numbers, plain. Linear weights only (with the lm_head if asked)."""
    narrow, wide, settings = {}, {}, {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        is_linear = tensor.ndim == 2 and "embed" not in name and (and_head or "lm_head" not in name)
        if not is_linear or not name.startswith(("model.layers", "lm_head")):
            narrow[name] = wide[name] = tensor
            continue
        packed = pack(tensor)
        settings = packed.settings
        module = name.removesuffix(".weight")
        narrow |= {f"{module}.{ending}": value.contiguous() for ending, value in packed.tensors.items()}
        wide[name] = packed.wide.contiguous()
    twin = folder.with_name(f"{folder.name}-wide")
    shutil.copytree(folder, twin)
    save_file(wide, twin / "model.safetensors", {"format": "pt"})
    save_file(narrow, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
    return twin


def pack_low_first(values: torch.Tensor, bits: int) -> torch.Tensor:
    """(n, K) unsigned -> (n, ceil(K bits / 32)) int32, bit by bit."""
    n, count = values.shape
    stream = ((values.long().unsqueeze(2) >> torch.arange(bits)) & 1).reshape(n, count * bits)
    stream = torch.nn.functional.pad(stream, (0, -stream.shape[1] % 32)).view(n, -1, 32)
    words = (stream << torch.arange(32)).sum(2)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).int()


def integers(
    weight: torch.Tensor, bits: int, group: int, dtype: torch.dtype, *, symmetric: bool, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes (N, K), scales (N, G) and zero points (N, G), all zero points in use where not symmetric."""
    rows = weight.unflatten(1, (-1, group))
    top = (1 << bits) - 1
    if symmetric:
        scales = (rows.abs().amax(2) / (top // 2)).to(dtype)
        zeros = torch.full(scales.shape, (top + 1) // 2)
    else:
        low, high = rows.amin(2).clamp(max=0), rows.amax(2).clamp(min=0)
        scales = ((high - low) / top).to(dtype)
        zeros = (-low / scales.float()).round().clamp(1, top).long()
    codes = (rows / scales.float().unsqueeze(2) + zeros.unsqueeze(2)).round().clamp(0, top).flatten(1)
    return codes.int(), scales, zeros


def numbers(codes: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    """(q - z) s with the group of each column."""
    return (codes - zeros[:, group]) * scales.float()[:, group]


def awq(weight: torch.Tensor, *, zeros_stored: bool = True) -> Packed:
    codes, scales, zeros = integers(weight, 4, GROUP, torch.float16, symmetric=not zeros_stored)
    order = [0, 2, 4, 6, 1, 3, 5, 7]  # nibble i of a word holds column order[i]

    def words(values: torch.Tensor) -> torch.Tensor:
        """(R, 8C) -> (R, C)."""
        return pack_low_first(values.unflatten(1, (-1, 8))[:, :, order].flatten(1), 4)

    tensors = {"qweight": words(codes.T), "scales": scales.T}
    if zeros_stored:
        tensors["qzeros"] = words(zeros.T)
    places = torch.arange(weight.shape[1]) // GROUP
    settings = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": zeros_stored, "version": "GEMM"}
    return Packed(tensors, numbers(codes, scales, zeros, places), settings)


def gptq(
    weight: torch.Tensor, *, bits: int = 4, layout: str = "gptq", act_order: bool = False, symmetric: bool = False
) -> Packed:
    codes, scales, zeros = integers(weight, bits, GROUP, torch.float16, symmetric=symmetric)
    num_columns = weight.shape[1]
    places = torch.arange(num_columns) // GROUP
    if act_order:
        places = places[torch.randperm(num_columns, generator=torch.Generator().manual_seed(1))]
    stored = zeros - 1 if layout == "gptq" else zeros
    tensors = {
        "qweight": pack_low_first(codes, bits).T,
        "qzeros": pack_low_first(stored.T, bits),
        "scales": scales.T,
        "g_idx": places.int(),
    }
    settings = {"quant_method": "gptq", "bits": bits, "group_size": GROUP, "desc_act": act_order, "sym": symmetric}
    if layout != "gptq":
        settings["checkpoint_format"] = layout
    return Packed(tensors, numbers(codes, scales, zeros, places), settings)


def auto_round(weight: torch.Tensor, *, layout: str = "auto_round:auto_gptq") -> Packed:
    packed = (awq if layout.endswith("awq") else gptq)(weight)
    tensors = dict(packed.tensors)
    tensors.pop("g_idx", None)
    if layout == "auto_round":
        tensors["qzeros"] = gptq(weight, layout="gptq_v2").tensors["qzeros"]
    settings = {"quant_method": "auto-round", "bits": 4, "group_size": GROUP, "sym": False, "packing_format": layout}
    return Packed(tensors, packed.wide, settings)


def block_fp8(weight: torch.Tensor, *, block: int = 128, exponents: bool = False) -> Packed:
    rows, columns = (-(-side // block) for side in weight.shape)
    padded = torch.zeros(rows * block, columns * block)
    padded[: weight.shape[0], : weight.shape[1]] = weight
    blocks = padded.view(rows, block, columns, block)
    scales = blocks.abs().amax((1, 3)) / 448
    if exponents:
        scales = torch.exp2(scales.log2().ceil())
    codes = (blocks / scales[:, None, :, None]).to(torch.float8_e4m3fn)
    wide = (codes.float() * scales[:, None, :, None]).view(padded.shape)[: weight.shape[0], : weight.shape[1]]
    codes = codes.view(padded.shape)[: weight.shape[0], : weight.shape[1]]
    stored = scales.to(torch.float8_e8m0fnu) if exponents else scales
    settings = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [block, block]}
    return Packed({"weight": codes, "weight_scale_inv": stored}, wide, settings)


def tensor_fp8(weight: torch.Tensor) -> Packed:
    scale = weight.abs().amax() / 448
    codes = (weight / scale).to(torch.float8_e4m3fn)
    tensors = {"weight": codes, "weight_scale": scale, "input_scale": torch.ones(())}
    return Packed(tensors, codes.float() * scale, {"quant_method": "fp8", "activation_scheme": "static"})


E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def nearest(values: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """Codes of the nearest levels, one row at a time."""
    return torch.stack([(row.unsqueeze(1) - levels).abs().argmin(1) for row in values])


def modelopt_nvfp4(weight: torch.Tensor) -> Packed:
    rows = weight.unflatten(1, (-1, 16))
    number = weight.abs().amax() / (6 * 448)
    scales = (rows.abs().amax(2) / 6 / number).to(torch.float8_e4m3fn)
    factors = (scales.float() * number).repeat_interleave(16, 1)
    codes = nearest(weight / factors, E2M1)
    packed = (codes[:, ::2] | codes[:, 1::2] << 4).to(torch.uint8)
    tensors = {"weight": packed, "weight_scale": scales, "weight_scale_2": number, "input_scale": torch.ones(())}
    return Packed(tensors, E2M1[codes] * factors, {"quant_method": "modelopt", "quant_algo": "NVFP4"})


def modelopt_awq(weight: torch.Tensor) -> Packed:
    factors = 1 + torch.arange(weight.shape[1]) / weight.shape[1]
    codes, scales, _ = integers(weight / factors, 4, GROUP, torch.float32, symmetric=True)
    signed = codes - 8
    nibbles = (signed & 15).to(torch.uint8)
    tensors = {"weight": nibbles[::2] | nibbles[1::2] << 4, "weight_scale": scales, "pre_quant_scale": factors}
    wide = signed * scales.repeat_interleave(GROUP, 1) * factors
    return Packed(tensors, wide, {"quant_method": "modelopt", "quant_algo": "W4A16_AWQ"})


def hqq(weight: torch.Tensor, *, axis: int = 1, bits: int = 4) -> Packed:
    grouped = weight.reshape(-1, GROUP) if axis == 1 else weight.reshape(GROUP, -1)
    low, high = grouped.amin(axis, keepdim=True), grouped.amax(axis, keepdim=True)
    scale = (high - low) / ((1 << bits) - 1)
    zero = -low / scale
    codes = (grouped / scale + zero).round().clamp(0, (1 << bits) - 1).to(torch.uint8)
    half = len(codes) // 2
    packed = codes if bits == 8 else codes[:half] << 4 | codes[half:]
    wide = ((codes - zero) * scale).view(weight.shape)
    tensors = {"W_q": packed, "scale": scale, "zero": zero, "shape": torch.tensor(weight.shape)}
    tensors |= {"nbits": torch.tensor(bits), "group_size": torch.tensor(GROUP), "axis": torch.tensor(axis)}
    params = {"nbits": bits, "group_size": GROUP, "axis": axis}
    return Packed(tensors, wide, {"quant_method": "hqq", "quant_config": {"weight_quant_params": params}})
