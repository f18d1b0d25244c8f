"""Checkpoints quantised to 8 bits by llm-compressor ("compressed-tensors"), read as the numbers that they stand for.

Such a file holds ``X.weight`` in e4m3 or int8 and ``X.weight_scale``, one number a row or one for all. Rows are widened
while they are read; a backend that computes in the same format quantises them again, which gives back the very same
values where the scale is that of the row's largest element, as llm-compressor chooses it for a scale a row. Scales of
activations in the file are not used: every token gets its own at run time, which is finer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from engine.backends.loading.safetensors_file import TensorInfo, TensorReader
from engine.errors import ModelLoadError

FORMATS = ("float-quantized", "int-quantized", "naive-quantized")
STORED = {"float": torch.float8_e4m3fn, "int": torch.int8}
UNUSED_ENDINGS = (".input_scale", ".k_scale", ".v_scale", ".q_scale")


@dataclass(frozen=True)
class CompressedScheme:
    """What config.json says of the weights."""

    quantization: Literal["fp8", "w8a8"]
    """The run-time format of the same name."""
    stored: torch.dtype


def read_scheme(folder: str, config: Mapping[str, Any]) -> CompressedScheme | None:
    """None for a checkpoint that is not quantised; refuses every format that is not understood to the last field."""
    settings = config.get("quantization_config") or config.get("compression_config")
    if not settings:
        return None
    method, layout = settings.get("quant_method"), settings.get("format")
    if method != "compressed-tensors" or layout not in FORMATS:
        raise _refusal(folder, f"quantised with {method!r}, format {layout!r}")
    if (settings.get("sparsity_config") or {}).get("format", "dense") != "dense":
        raise _refusal(folder, "sparse")
    weights = [group.get("weights") or {} for group in (settings.get("config_groups") or {}).values()]
    kinds = {(w.get("num_bits"), w.get("type"), w.get("strategy"), w.get("symmetric", True)) for w in weights}
    if not kinds or any(
        bits != 8 or kind not in STORED or strategy not in ("channel", "tensor") or not symmetric
        for bits, kind, strategy, symmetric in kinds
    ):
        raise _refusal(folder, f"quantised with weights of (bits, type, strategy, symmetric) {sorted(kinds, key=str)}")
    types = {kind for _, kind, _, _ in kinds}
    if len(types) > 1:
        raise _refusal(folder, "quantised partly to float and partly to int")
    is_float = types == {"float"}
    return CompressedScheme("fp8" if is_float else "w8a8", STORED["float" if is_float else "int"])


def _refusal(folder: str, what: str) -> ModelLoadError:
    return ModelLoadError(
        f"{folder} is {what}, which is not supported; supported are compressed-tensors checkpoints with 8-bit "
        "symmetric weights and a scale a row or a tensor (FP8, W8A8). Use one of those, or the original checkpoint"
    )


class Dequantizer:
    """Scales of a checkpoint's weights, in memory; ``weights`` are its tensors without them. No scheme: no scales."""

    def __init__(self, folder: str, scheme: CompressedScheme | None, tensors: Mapping[str, TensorInfo]) -> None:
        self.weights = dict(tensors)
        self.scales: dict[str, torch.Tensor] = {}
        if scheme is not None:
            self._separate(folder, scheme, tensors)

    def _separate(self, folder: str, scheme: CompressedScheme, tensors: Mapping[str, TensorInfo]) -> None:
        kept = {name: info for name, info in tensors.items() if not name.endswith(UNUSED_ENDINGS)}
        scales = {name: info for name, info in kept.items() if name.endswith(".weight_scale")}
        self.weights = {name: info for name, info in kept.items() if name not in scales}
        with TensorReader() as reader:
            for name, info in self.weights.items():
                if info.dtype != scheme.stored or len(info.shape) != 2:
                    continue
                scale = scales.pop(f"{name}_scale", None)
                if scale is None:
                    raise ModelLoadError(f"{folder} holds {name} in 8 bits, but no {name}_scale to read it with")
                self.scales[name] = _read_scale(reader, folder, f"{name}_scale", scale, info.shape[0])
        if scales:
            raise ModelLoadError(f"{folder} holds {next(iter(scales))}, but no 8-bit weight of that name")

    def widen(self, name: str, first: int, rows: torch.Tensor) -> torch.Tensor:
        """A run of rows as numbers: fp32 where they were quantised, else as they are."""
        scale = self.scales.get(name)
        return rows if scale is None else rows.float() * scale[first : first + len(rows)]


def _read_scale(reader: TensorReader, folder: str, name: str, info: TensorInfo, num_rows: int) -> torch.Tensor:
    """(num_rows, 1) fp32, whatever of the published shapes it has."""
    if info.shape not in ((), (1,), (num_rows,), (num_rows, 1)):
        raise ModelLoadError(f"{folder}: {name} has the shape {info.shape}; expected one number, or one a row")
    scale = torch.cat([run.reshape(-1).float() for _, run in reader.rows(info)])
    if not (torch.isfinite(scale) & (scale > 0)).all():
        raise ModelLoadError(f"{folder}: {name} holds values that are not positive numbers")
    return scale.expand(num_rows).unsqueeze(1) if len(scale) == 1 else scale.unsqueeze(1)
