"""Small undamaged files of the quantised formats, which ``fuzz_files`` damages."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

MODULE = "model.layers.0.mlp.up_proj"


@dataclass(frozen=True)
class Sample:
    """One module in one format."""

    tensors: dict[str, torch.Tensor]
    """By what follows the module's name and a dot."""
    settings: dict[str, Any]
    metadata: dict[str, Any] = field(default_factory=dict)
    """Of the safetensors header, before it is made JSON in strings."""
    settings_file: str | None = None
    """Where the settings are; None: in config.json."""


def quantised() -> list[Sample]:
    """One small module in each format whose settings are in config.json, as random words in the right shapes."""
    generator = torch.Generator().manual_seed(0)

    def words(*shape: int) -> torch.Tensor:
        return torch.randint(-(1 << 31), (1 << 31) - 1, shape, generator=generator, dtype=torch.int64).int()

    def numbers(*shape: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
        return (torch.rand(shape, generator=generator) + 0.1).to(dtype)

    def packed(*shape: int) -> torch.Tensor:
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)

    def compressed(layout: str, **weights: Any) -> dict[str, Any]:
        group = {"targets": ["Linear"], "weights": {"symmetric": True, **weights}}
        return {"quant_method": "compressed-tensors", "format": layout, "config_groups": {"group_0": group}}

    fp8 = torch.float8_e4m3fn
    shape = torch.tensor([16, 64])
    grouped = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}
    found: list[tuple[dict[str, torch.Tensor], dict[str, Any]]] = [
        ({"qweight": words(64, 2), "qzeros": words(2, 2), "scales": numbers(2, 16)},
         {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}),
        ({"qweight": words(8, 16), "qzeros": words(2, 2), "scales": numbers(2, 16),
          "g_idx": torch.arange(64).int() // 32}, {"quant_method": "gptq", "bits": 4, "group_size": 32}),
        ({"weight_packed": words(16, 8), "weight_scale": numbers(16, 2), "weight_shape": shape},
         compressed("pack-quantized", **grouped)),
        ({"weight_packed": packed(16, 32), "weight_scale": numbers(16, 4).to(fp8),
          "weight_global_scale": numbers(1).float()},
         compressed("nvfp4-pack-quantized", num_bits=4, type="float", strategy="tensor_group", group_size=16)),
        ({"weight": numbers(16, 64).to(fp8), "weight_scale": numbers(16, 1)},
         compressed("float-quantized", num_bits=8, type="float", strategy="channel")),
        ({"weight": numbers(16, 64).to(fp8), "weight_scale_inv": numbers(1, 1).float()},
         {"quant_method": "fp8", "weight_block_size": [128, 128]}),
        ({"weight": packed(16, 32), "weight_scale": numbers(16, 4).to(fp8), "weight_scale_2": numbers().float()},
         {"quant_method": "modelopt", "quant_algo": "NVFP4"}),
        ({"W_q": packed(16, 32), "scale": numbers(32, 1), "zero": numbers(32, 1), "shape": shape},
         {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 32, "axis": 1}}}),
        ({"weight": packed(512, 1), "weight.absmax": numbers(16).float(), "weight.quant_map": numbers(16).float(),
          "weight.quant_state.bitsandbytes__nf4": torch.tensor(list(b'{"shape": [16, 64], "blocksize": 64}')).byte()},
         {"quant_method": "bitsandbytes", "load_in_4bit": True}),
    ]  # fmt: skip
    return [Sample(tensors, settings) for tensors, settings in found]


def torchao_files() -> list[Sample]:
    """Each type of 8 bits with a scale a row and with one for a group of a row."""
    generator = torch.Generator().manual_seed(1)
    samples = []
    for kind in ("Float8Tensor", "Int8Tensor", "IntxUnpackedToInt8Tensor"):
        for group in (64, 16):
            scales = torch.rand(16, 64 // group, generator=generator) + 0.1
            codes = torch.randint(-100, 100, (16, 64), generator=generator)
            stored = codes.float().to(torch.float8_e4m3fn) if kind == "Float8Tensor" else codes.to(torch.int8)
            tensors = {"_weight_qdata": stored, "_weight_scale": scales}
            if kind == "IntxUnpackedToInt8Tensor":
                tensors["_weight_zero_point"] = torch.zeros(scales.shape, dtype=torch.int8)
            entry = {"_type": kind, "_data": {"block_size": [1, group]}, "_tensor_data_names": ["qdata", "scale"]}
            metadata = {"tensor_names": [f"{MODULE}.weight"], f"{MODULE}.weight": entry}
            samples.append(Sample(tensors, {"quant_method": "torchao", "quant_type": {"default": {}}}, metadata))
    return samples


def modelslim_files() -> list[Sample]:
    """Static, of both kinds of scales, dynamic, and weights alone."""
    generator = torch.Generator().manual_seed(2)
    codes = torch.randint(-127, 128, (16, 64), generator=generator).to(torch.int8)
    scale = torch.rand(16, generator=generator) + 0.1
    of_weights = {"weight": codes, "weight_scale": scale.view(16, 1), "weight_offset": torch.zeros(16, 1)}
    static = {
        "weight": codes, "deq_scale": scale, "input_scale": torch.tensor([0.125]), "input_offset": torch.tensor([5.0]),
        "quant_bias": (-5 * codes.long().sum(1)).int(),
    }  # fmt: skip
    as_integers = static | {"deq_scale": scale.view(torch.int32).long()}
    kinds = [("W8A8_DYNAMIC", of_weights), ("W8A16", of_weights), ("W8A8", static), ("W8A8", as_integers)]
    return [
        Sample(
            tensors,
            {"model_quant_type": kind, "version": "1.0.0", **{f"{MODULE}.{name}": kind for name in tensors}},
            settings_file="quant_model_description.json",
        )
        for kind, tensors in kinds
    ]
