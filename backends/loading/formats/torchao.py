"""torchao's tensors of 8 bits in safetensors: w = (q - z) s, a scale a row, a tensor or a group of a row.

``X._weight_qdata``, ``X._weight_scale`` and perhaps ``X._weight_zero_point``; what they are, the header's metadata says
under ``X.weight`` (``torchao/prototype/safetensors``). The layouts of 4 bits are those of single kernels: refused.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from typing import Any

import torch

from engine.backends.loading.formats import scaled
from engine.backends.loading.formats.stored import Format, Stored
from engine.checkpoint.safetensors_header import read_metadata

KINDS = {"Float8Tensor": scaled.FP8, "Int8Tensor": torch.int8, "IntxUnpackedToInt8Tensor": torch.int8}
"""Type -> the dtype of its values."""


def read(stored: Stored) -> Format:
    """Take the quantised modules."""
    metadata_of = cache(read_metadata)
    found: Counter[str] = Counter()
    for module in stored.modules("_weight_qdata"):
        kind, details = _entry(stored, module, metadata_of(stored.left[f"{module}._weight_qdata"].file))
        if kind not in KINDS:
            raise stored.refuse(f"quantised with torchao's {kind} in {module}")
        for part in ("act_pre_scale", "act_quant_scale"):
            if f"{module}._weight_{part}" in stored.left:
                raise stored.refuse(f"quantised with torchao, with scales of activations ({module}._weight_{part})")
        weight = stored.matrix(module, "_weight_qdata", KINDS[kind])
        block = details.get("block_size")
        if not (isinstance(block, list) and len(block) == 2 and all(isinstance(side, int) for side in block)):
            raise stored.broken(f"the header gives no block_size of two sides for {module}: {block!r}")
        zero = "_weight_zero_point" if f"{module}._weight_zero_point" in stored.left else None
        whole = block[1] in (-1, weight.shape[1]) and block[0] in (1, weight.shape[0])
        scaled.take(
            stored, module, weight, "_weight_scale", block=None if whole else (block[0], block[1]), zero_name=zero
        )
        found[kind] += 1
    return Format(f"torchao, {' and '.join(sorted(found)) or 'nothing'}")


def _entry(stored: Stored, module: str, metadata: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Type and attributes of a module's weight."""
    for name in (f"{stored.prefix}{module}.weight", f"{module}.weight"):
        if name in metadata:
            entry = json.loads(metadata[name])
            details = entry.get("_data")
            return str(entry.get("_type")), details if isinstance(details, dict) else {}
    raise stored.broken(f"its header's metadata does not say what {module}._weight_qdata is")
