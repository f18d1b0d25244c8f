"""The same by the packages that own the formats: compressed-tensors and bitsandbytes write, and say what they wrote."""

from __future__ import annotations

from typing import Any

import torch
from bitsandbytes import functional as bnb
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme, QuantizationStatus

from tests.quantized.packers import Packed

COMPRESSED = {
    "pack-quantized": {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32},
    "pack-quantized-asymmetric": {"num_bits": 4, "symmetric": False, "strategy": "group", "group_size": 32},
    "pack-quantized-3": {"num_bits": 3, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32},
    "pack-quantized-8": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"},
    "pack-quantized-row": {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "channel"},
    "int-quantized": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"},
    "int-quantized-4": {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32},
    "int-quantized-asymmetric": {"num_bits": 8, "type": "int", "symmetric": False, "strategy": "channel"},
    "float-quantized": {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel"},
    "float-quantized-block": {
        "num_bits": 8, "type": "float", "symmetric": True, "strategy": "block", "block_structure": [32, 32],
    },
    "nvfp4-pack-quantized": {
        "num_bits": 4, "type": "float", "symmetric": True, "strategy": "tensor_group", "group_size": 16,
    },
    "mxfp4-pack-quantized": {"num_bits": 4, "type": "float", "symmetric": True, "strategy": "group", "group_size": 32},
    "mxfp8-quantized": {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "group", "group_size": 32},
}  # fmt: skip
"""Schemes by the format's name, to which an addition may be made after the last word that belongs to it."""
FORMATS = ("pack-quantized", "int-quantized", "float-quantized", "nvfp4-pack-quantized", "mxfp4-pack-quantized")


def format_of(case: str) -> str:
    return next((name for name in FORMATS if case.startswith(name)), case)


def compressed(weight: torch.Tensor, case: str, dtype: torch.dtype = torch.float32) -> Packed:
    """By compressed-tensors; ``wide`` in the dtype that it gives back."""
    args = QuantizationArgs(**COMPRESSED[case])
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    state = {"weight": weight.to(dtype), **_scales(weight, COMPRESSED[case], format_of(case), dtype)}
    compressor = BaseCompressor.get_value_from_registry(format_of(case))
    stored = compressor.compress(state, scheme)
    wide = compressor.decompress(dict(stored), scheme)["weight"]
    settings = {
        "quant_method": "compressed-tensors",
        "format": format_of(case),
        "quantization_status": QuantizationStatus.COMPRESSED.value,
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": COMPRESSED[case]}},
        "ignore": ["lm_head"],
    }
    return Packed({name: value.data for name, value in stored.items() if value is not None}, wide, settings)


def _scales(weight: torch.Tensor, args: dict[str, Any], layout: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    strategy = args["strategy"]
    if strategy == "block":
        rows, columns = args["block_structure"]
        blocks = weight.view(weight.shape[0] // rows, rows, weight.shape[1] // columns, columns)
        return {"weight_scale": (blocks.abs().amax((1, 3)) / 448).to(dtype)}
    grouped = weight.unflatten(1, (-1, args.get("group_size") or weight.shape[1]))
    low, high = grouped.amin(2).clamp(max=0), grouped.amax(2).clamp(min=0)
    largest = torch.maximum(-low, high)
    if layout == "nvfp4-pack-quantized":
        number = 448 * 6 / weight.abs().max().reshape(1)
        return {"weight_scale": (largest / 6 * number).to(torch.float8_e4m3fn).to(dtype), "weight_global_scale": number}
    if layout.startswith("mx"):
        top = 6 if args["num_bits"] == 4 else 448
        return {"weight_scale": torch.exp2((largest / top).log2().ceil()).to(dtype)}
    if args.get("type") == "float":
        return {"weight_scale": (largest / 448).to(dtype)}
    top, half = (1 << args["num_bits"]) - 1, 1 << (args["num_bits"] - 1)
    if args["symmetric"]:
        return {"weight_scale": (largest / (top / 2)).to(dtype), "weight_zero_point": torch.zeros_like(low).char()}
    scale = ((high - low) / top).to(dtype)
    zeros = (-low / scale.float() - half).round().clamp(-half, half - 1)
    return {"weight_scale": scale, "weight_zero_point": zeros.char()}


def four_bits(weight: torch.Tensor, kind: str, *, double: bool = True, dtype: torch.dtype = torch.float32) -> Packed:
    """nf4 or fp4 by bitsandbytes."""
    codes, state = bnb.quantize_4bit(
        weight.to(dtype), blocksize=64, quant_type=kind, compress_statistics=double, quant_storage=torch.uint8
    )
    wide = bnb.dequantize_4bit(codes, state)
    details = state.as_dict(packed=True)
    tensors = {"weight": codes} | {f"weight.{name.removeprefix('weight.')}": value for name, value in details.items()}
    settings = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": kind}
    return Packed(tensors, wide, settings)


def eight_bits(weight: torch.Tensor) -> Packed:
    """int8 by bitsandbytes' arithmetic: it quantises on a GPU only, and dequantises anywhere."""
    largest = weight.abs().amax(1)
    codes = (weight * 127 / largest.unsqueeze(1)).round().to(torch.int8)
    wide = bnb.int8_vectorwise_dequant(codes, largest)
    tensors = {"weight": codes, "SCB": largest, "weight_format": torch.tensor(0, dtype=torch.uint8)}
    return Packed(tensors, wide, {"quant_method": "bitsandbytes", "load_in_8bit": True})
