"""Writes safetensors files tensor by tensor, so that a checkpoint of any size needs the memory of one tensor."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

BLOCK = 4 << 20
STRIDE = 10_007
"""Prime, so that rotated rows never fall on one another."""
_DTYPES = {"float32": ("F32", 4), "float16": ("F16", 2), "bfloat16": ("BF16", 2)}


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is made when it is written."""

    name: str
    shape: tuple[int, ...]
    make: Callable[[int], np.ndarray]
    """The first n of its elements, in fp32."""

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))


def stored(values: np.ndarray, dtype: str) -> np.ndarray:
    """fp32 values as the file has them; bf16 is rounded to nearest even, as torch does."""
    values = np.ascontiguousarray(values, dtype=np.float32)
    if dtype == "bfloat16":
        bits = values.view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return values.astype(dtype)


def blocks(tensor: LazyTensor, dtype: str) -> Iterator[np.ndarray]:
    """The tensor's elements. Beyond the first block of random numbers they are the same ones, rotated: a gigabyte of
    fresh ones would take a minute, and no row repeats this way either."""
    base = stored(tensor.make(min(tensor.size, BLOCK)), dtype)
    for i, start in enumerate(range(0, tensor.size, BLOCK)):
        yield np.roll(base, i * STRIDE)[: tensor.size - start]


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
            for block in blocks(tensor, dtype):
                file.write(block.data)


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
