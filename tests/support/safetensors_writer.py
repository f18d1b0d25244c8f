"""Writes safetensors files tensor by tensor, so that a checkpoint of any size needs the memory of one tensor."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_DTYPES = {"float32": ("F32", 4), "float16": ("F16", 2), "bfloat16": ("BF16", 2)}


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is made when it is written."""

    name: str
    shape: tuple[int, ...]
    make: Callable[[], np.ndarray]

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))


def to_bytes(values: np.ndarray, dtype: str) -> bytes:
    """fp32 values in the file's dtype; bf16 is rounded to nearest even, as torch does."""
    values = np.ascontiguousarray(values, dtype=np.float32)
    if dtype == "bfloat16":
        bits = values.view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16).tobytes()
    return values.astype(dtype).tobytes()


def write_file(path: Path, tensors: list[LazyTensor], dtype: str) -> None:
    code, width = _DTYPES[dtype]
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        end = offset + tensor.size * width
        header[tensor.name] = {"dtype": code, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        for tensor in tensors:
            file.write(to_bytes(tensor.make(), dtype))


def write_checkpoint(folder: Path, tensors: list[LazyTensor], dtype: str, shards: int) -> None:
    """``model.safetensors``, or ``shards`` files with an index."""
    if shards <= 1:
        write_file(folder / "model.safetensors", tensors, dtype)
        return
    total = sum(tensor.size for tensor in tensors)
    groups: list[list[LazyTensor]] = [[] for _ in range(shards)]
    for i, tensor in enumerate(tensors):
        groups[i * shards // len(tensors)].append(tensor)
    weight_map = {}
    for index, group in enumerate(groups, 1):
        name = f"model-{index:05d}-of-{shards:05d}.safetensors"
        write_file(folder / name, group, dtype)
        weight_map.update({tensor.name: name for tensor in group})
    index_json = {"metadata": {"total_size": total * _DTYPES[dtype][1]}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index_json, indent=2))
