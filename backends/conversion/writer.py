"""Writes a safetensors file tensor by tensor, from rows that come in runs: never more than a run is in memory."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

NAMES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
ALIGNMENT = 8


@dataclass(frozen=True)
class Entry:
    """A tensor to be written."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    runs: Callable[[], Iterable[torch.Tensor]]
    """Its rows, first to last."""

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def write_safetensors(path: Path, entries: Sequence[Entry]) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for entry in entries:
        span = [at, at + entry.num_bytes]
        header[entry.name] = {"dtype": NAMES[entry.dtype], "shape": list(entry.shape), "data_offsets": span}
        at += entry.num_bytes
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % ALIGNMENT)
    with path.open("wb") as out:
        out.write(len(raw).to_bytes(8, "little"))
        out.write(raw)
        for entry in entries:
            written = 0
            for run in entry.runs():
                data = run.to(entry.dtype).contiguous().reshape(-1).view(torch.uint8).numpy()
                out.write(data.tobytes())
                written += data.nbytes
            assert written == entry.num_bytes, f"{entry.name}: {written} bytes instead of {entry.num_bytes}"
