"""Opens a checkpoint: every tensor of the model as a ``Source``, whatever format its weights are stored in."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.backends.loading.formats import (
    auto_round,
    awq,
    bitsandbytes,
    compressed_tensors,
    fp8,
    gptq,
    hqq,
    modelopt,
    modelslim,
    torchao,
)
from engine.backends.loading.formats.gguf import open_gguf
from engine.backends.loading.formats.stored import Format, Stored, refusal
from engine.backends.loading.source import QuantizedTensor, Source
from engine.backends.loading.weights import open_checkpoint
from engine.checkpoint.gguf.header import find_gguf
from engine.errors import ModelLoadError

FORMATS: dict[str, Callable[[Stored], Format]] = {
    "ascend": modelslim.read,
    "auto-round": auto_round.read,
    "intel/auto-round": auto_round.read,
    "awq": awq.read,
    "bitsandbytes": bitsandbytes.read,
    "compressed-tensors": compressed_tensors.read,
    "fbgemm_fp8": fp8.read,
    "fp8": fp8.read,
    "gptq": gptq.read,
    "hqq": hqq.read,
    "modelopt": modelopt.read,
    "modelopt_fp4": modelopt.read,
    "torchao": torchao.read,
}
"""By ``quant_method`` of the config."""
NOT_AS_EXPECTED = (
    TypeError, ValueError, KeyError, IndexError, AttributeError, ArithmeticError, RecursionError, re.error,
)  # fmt: skip
"""How settings of other types than expected show."""
FILES = {
    "quantize_config.json": "gptq",
    "quant_config.json": "awq",
    "hf_quant_config.json": "modelopt",
    "quant_model_description.json": "ascend",
    "quant_model_description_w8a8.json": "ascend",
    "quant_model_description_w8a8_dynamic.json": "ascend",
}
"""Where tools put their settings, beside config.json."""


@dataclass(frozen=True)
class Checkpoint:
    tensors: Mapping[str, Source]
    """By their names in the body."""
    format: Format | None = None
    """None: nothing is quantised."""

    @property
    def bits_per_weight(self) -> float:
        """The bits of a quantised weight, scales included."""
        quantized = [tensor for tensor in self.tensors.values() if isinstance(tensor, QuantizedTensor)]
        num_weights = sum(tensor.shape[0] * tensor.shape[1] for tensor in quantized)
        return 8 * sum(tensor.num_bytes for tensor in quantized) / max(1, num_weights)

    @property
    def left_plain(self) -> list[str]:
        """Matrices that are not quantised."""
        return [
            name.removesuffix(".weight")
            for name, tensor in self.tensors.items()
            if len(tensor.shape) == 2 and not isinstance(tensor, QuantizedTensor)
        ]


def open_model(folder: str, config: Mapping[str, Any], prefix: str) -> Checkpoint:
    """Opens a checkpoint. ``prefix``: what ``*ForCausalLM`` files put before the names of the body.

    Raises ``ModelLoadError`` for what is not understood to the last field; nothing of the weights has been read then.
    """
    if not any(Path(folder).glob("*.safetensors")) and (path := find_gguf(Path(folder))) is not None:
        return Checkpoint(*open_gguf(path, config))
    tensors = open_checkpoint(folder, prefix)
    settings = quantization_settings(folder, config)
    if settings is None:
        return Checkpoint(tensors)
    method = settings.get("quant_method")
    read = FORMATS.get(str(method))
    if read is None:
        raise refusal(folder, f"quantised with {method!r}, format {settings.get('format')!r}")
    stored = Stored(folder, settings, tensors, prefix)
    try:
        found = read(stored)
    except NOT_AS_EXPECTED as error:
        raise stored.broken(
            f"its quantization_config or the shapes of its tensors are not what {method} writes "
            f"({type(error).__name__}: {error})"
        ) from error
    return Checkpoint(stored.finish(), found)


def quantization_settings(folder: str, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The quantisation that the files state; None for a plain checkpoint.

    Raises ``ModelLoadError`` for one that is no object.
    """
    settings = config.get("quantization_config") or config.get("compression_config")
    if settings:
        if not isinstance(settings, dict):
            raise ModelLoadError(f"quantization_config of {folder} is no JSON object")
        if settings.get("quant_method") != "ascend":
            return settings
    for name, method in FILES.items():
        path = Path(folder) / name
        if path.is_file():
            return {"quant_method": method, **_read(path)}
    return settings or None


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ModelLoadError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise ModelLoadError(f"{path} must hold a JSON object")
    inner = found.get("quantization")  # modelopt's, beside "producer"
    return inner if isinstance(inner, dict) else found
