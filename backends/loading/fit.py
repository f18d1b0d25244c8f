"""Does the model fit? Arithmetic on the tensors of a checkpoint, before the first byte of them is read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch

from engine.backends.base import Capabilities
from engine.backends.loading.source import Shaped
from engine.errors import DeviceError

GB = 1e9
QUANTIZED_BYTES = {"int16": 2, "int8": 1, "fp8": 1, "w8a8": 1}
"""Bytes of a weight in each format; the scales, one a row, are not worth counting."""


def weight_bytes(
    tensors: Mapping[str, Shaped], dtype: torch.dtype, quantization: str | None, keeps_narrow: bool
) -> int:
    """What the weights take on the device. Embeddings and vectors stay in ``dtype``; of the lm_head two rows remain.

    ``keeps_narrow``: matrices stay as narrow as the file has them.
    """
    total = 0
    for name, info in tensors.items():
        if name == "lm_head.weight":
            continue
        is_linear = len(info.shape) == 2 and "embed" not in name
        each = QUANTIZED_BYTES[quantization] if quantization and is_linear else dtype.itemsize
        if keeps_narrow and len(info.shape) == 2 and info.dtype.itemsize >= 2:
            each = min(each, info.dtype.itemsize)
        total += math.prod(info.shape) * each
    return total


def check_fit(
    name: str,
    tensors: Mapping[str, Shaped],
    dtype: torch.dtype,
    quantization: str | None,
    limit: int,
    device: str,
    capabilities: Capabilities,
    num_workers: int = 1,
) -> None:
    """Refuse what cannot fit, and say what would. Of ``num_workers``, each on a device of its own has its share."""
    limit *= 1 if capabilities.one_memory else num_workers
    needed = weight_bytes(tensors, dtype, quantization, capabilities.keeps_narrow_weights)
    if needed <= limit:
        return
    fitting = [
        f"{flag} ({size / GB:.1f} GB)" for flag, size in _alternatives(tensors, dtype, capabilities) if size < limit
    ]
    per_parameter = needed / sum(math.prod(info.shape) for info in tensors.values())
    advice = (
        f"It would fit with {' or '.join(fitting)}"
        if fitting
        else f"A model of up to about {limit / per_parameter / 1e9:.1f} billion parameters would fit like this"
    )
    how = quantization or str(dtype).removeprefix("torch.")
    raise DeviceError(
        f"{name} needs {needed / GB:.1f} GB for its weights in {how}, but this process may use {limit / GB:.1f} GB on "
        f"{device}. {advice}"
    )


def _alternatives(
    tensors: Mapping[str, Shaped], dtype: torch.dtype, capabilities: Capabilities
) -> Iterator[tuple[str, int]]:
    keeps_narrow = capabilities.keeps_narrow_weights
    for other in capabilities.dtypes:
        if getattr(torch, other).itemsize < dtype.itemsize:
            yield f"--dtype {other}", weight_bytes(tensors, getattr(torch, other), None, keeps_narrow)
    for quantization in capabilities.quantizations:
        yield f"--quantization {quantization}", weight_bytes(tensors, dtype, quantization, keeps_narrow)
