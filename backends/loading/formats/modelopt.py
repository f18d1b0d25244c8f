"""NVIDIA's Model Optimizer: NVFP4, MXFP4, fp8 and MXFP8, and integers of 4 bits after AWQ's search.

NVFP4: ``X.weight`` uint8 (N, K/2), ``X.weight_scale`` e4m3 (N, K/16), ``X.weight_scale_2`` one number: w = e2m1 s
scale_2. W4A16_AWQ: ``X.weight`` uint8 (N/2, K), row 2i in the low nibbles and 2i + 1 in the high ones, two's
complement. ``X.pre_quant_scale`` (K) multiplies the activations, which is the same as multiplying the columns of the
weight.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from engine.backends.loading.formats import fp4, scaled
from engine.backends.loading.formats.integers import IntegerGroups, Integers, ReadIntegers
from engine.backends.loading.formats.stored import Format, Stored
from engine.backends.loading.safetensors_file import TensorReader
from engine.backends.loading.source import Dequantize, QuantizedTensor

UNUSED = (".input_scale", ".k_scale", ".v_scale", ".q_scale", ".output_scale")
ROTATED = (".svdquant_lora_a", ".svdquant_lora_b", ".weight_quantizer._pre_quant_scale")


@dataclass(frozen=True, eq=False, kw_only=True)
class PairedRowsTensor(IntegerGroups):
    """Reads weights of ModelOpt. ``parts``: codes uint8 (N/2, K) and scales (N, K/group)."""

    def integers(self, reader: TensorReader) -> ReadIntegers:
        def read(first: int, last: int) -> Integers:
            pair = first // 2
            packed = self.read(reader, "codes", pair, -(-last // 2))
            signed = torch.stack([packed & 15, packed >> 4], dim=1).view(-1, self.shape[1])
            codes = signed[first - 2 * pair : last - 2 * pair] ^ 8  # two's complement as unsigned, 8 more
            scales = self.read_scales(reader, "scales", first, last)
            return Integers(codes, scales, torch.full_like(scales, 8.0))

        return read


@dataclass(frozen=True, eq=False, kw_only=True)
class ScaledColumns(QuantizedTensor):
    """Another tensor with a number for each column multiplied in; ``parts`` has ``columns`` beside those of
    ``inner``.
    """

    inner: QuantizedTensor

    def dequantizer(self, reader: TensorReader) -> Dequantize:
        factors, dequantize = self.read_scales(reader, "columns"), self.inner.dequantizer(reader)
        return lambda first, last: dequantize(first, last) * factors


def read(stored: Stored) -> Format:
    """Take the quantised modules."""
    settings = stored.settings
    algorithm = str(settings.get("quant_algo") or "as the tensors show")
    for name, _ in stored:
        if name.endswith(ROTATED):
            raise stored.refuse(f"quantised with modelopt and has {name}")
    stored.drop(*UNUSED)
    for module in stored.modules("weight_scale_2"):
        fp4.take(stored, module, "weight", group=16, global_name="weight_scale_2")
        _fold_columns(stored, module)
    for module in stored.modules("weight_scale"):
        _take(stored, module)
        _fold_columns(stored, module)
    return Format(f"modelopt {algorithm}", "fp8" if algorithm.startswith("FP8") and "PB" not in algorithm else None)


def _take(stored: Stored, module: str) -> None:
    weight, scale = stored.left.get(f"{module}.weight"), stored.left[f"{module}.weight_scale"]
    if weight is None:
        raise stored.broken(f"it holds {module}.weight_scale, but no {module}.weight")
    if weight.dtype == scaled.FP8:
        exponents = scale.dtype in (torch.uint8, scaled.E8M0)
        stored.take(f"{module}.weight")
        scaled.take(stored, module, weight, "weight_scale", block=(1, 32) if exponents else None)
    elif weight.dtype == torch.uint8 and scale.dtype in (torch.uint8, scaled.E8M0):
        fp4.take(stored, module, "weight", group=32)
    elif weight.dtype == torch.uint8:
        _take_paired(stored, module)
    else:
        raise stored.broken(f"it holds {module}.weight_scale, but {module}.weight is {weight.dtype}")


def _take_paired(stored: Stored, module: str) -> None:
    codes = stored.matrix(module, "weight", torch.uint8)
    shape = 2 * codes.shape[0], codes.shape[1]
    scales = stored.matrix(module, "weight_scale", *scaled.SCALES)
    if scales.shape[0] != shape[0] or shape[1] % scales.shape[1]:
        raise stored.broken(f"{module}.weight_scale has the shape {scales.shape}, which does not fit {shape}")
    parts, group = {"codes": codes, "scales": scales}, shape[1] // scales.shape[1]
    stored.put(
        module,
        PairedRowsTensor(label=stored.label(module), shape=shape, parts=parts, bits=4, group=group, symmetric=True),
    )


def _fold_columns(stored: Stored, module: str) -> None:
    info = stored.take(f"{module}.pre_quant_scale") or stored.take(f"{module}.input_quantizer._pre_quant_scale")
    if info is None:
        return
    inner = stored.sources[f"{module}.weight"]
    assert isinstance(inner, QuantizedTensor)
    if info.shape != (inner.shape[1],) or info.dtype not in scaled.SCALES:
        raise stored.broken(f"{module}.pre_quant_scale has the shape {info.shape}; expected {(inner.shape[1],)}")
    parts = {**inner.parts, "columns": info}
    stored.put(module, ScaledColumns(label=inner.label, shape=inner.shape, parts=parts, inner=inner))
