"""Does the model fit? Arithmetic on the tensors of a checkpoint, before the first byte of them is read."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType

import torch

from engine.backends.base import Capabilities
from engine.backends.loading.source import QuantizedTensor, Shaped
from engine.config import BYTES_PER_NUMBER, grouped_bytes
from engine.errors import DeviceError

GB = 1e9
NOTHING_KEPT: Mapping[int, Collection[str | None]] = MappingProxyType({})


def weight_bytes(
    tensors: Mapping[str, Shaped],
    dtype: torch.dtype,
    quantization: str | None,
    keeps_narrow: bool,
    keeps_groups: Mapping[int, Collection[str | None]] = NOTHING_KEPT,
) -> int:
    """The bytes of the weights on the device. Embeddings and vectors stay in ``dtype``; of the lm_head two rows remain.

    ``keeps_narrow``: matrices stay as narrow as the file has them. ``keeps_groups``: also those of so many bits in
    these quantisations, if what is fused with them is in as many bits as well.
    """
    total = 0
    for name, info in tensors.items():
        if name == "lm_head.weight":
            continue
        is_linear = len(info.shape) == 2 and "embed" not in name
        each: float = BYTES_PER_NUMBER[quantization] if quantization and is_linear else dtype.itemsize
        if keeps_narrow and len(info.shape) == 2 and info.dtype.itemsize >= 2:
            each = min(each, info.dtype.itemsize)
        layout = info.layout if isinstance(info, QuantizedTensor) else None
        if is_linear and layout is not None and quantization in keeps_groups.get(layout.bits, ()):
            each = grouped_bytes(layout.group, layout.bits, has_offsets=layout.has_offsets)
        total += round(math.prod(info.shape) * each)
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
    """Refuse what cannot fit, and say what would. Of ``num_workers``, each on a device of its own has its share.

    Raises ``DeviceError`` with the settings that would fit.
    """
    limit *= 1 if capabilities.one_memory else num_workers
    narrow, groups = capabilities.keeps_narrow_weights, capabilities.keeps_groups
    needed = weight_bytes(tensors, dtype, quantization, narrow, groups)
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
    narrow, groups = capabilities.keeps_narrow_weights, capabilities.keeps_groups
    for other in capabilities.dtypes:
        if getattr(torch, other).itemsize < dtype.itemsize:
            yield f"--dtype {other}", weight_bytes(tensors, getattr(torch, other), None, narrow, groups)
    for quantization in capabilities.quantizations:
        yield f"--quantization {quantization}", weight_bytes(tensors, dtype, quantization, narrow, groups)
