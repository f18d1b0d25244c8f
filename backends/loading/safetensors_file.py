"""Checkpoint files: their headers checked before anything is read, then tensors read row by row into one buffer.

Files are read with ``pread`` and not mapped: mapped pages count as memory of the process, and the promise is that
loading never needs more than 1.2 times the weights in the dtype they run in. Only safetensors are read; formats that
run code when they are opened are refused. Format: 8 bytes with the length N of the header, N bytes of JSON, the data.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from engine.errors import ModelLoadError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
MAX_HEADER_BYTES = 100_000_000
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
BUFFER_BYTES = 8 << 20
CONVERSION_HINT = (
    "Only safetensors files are read, since opening the others can run code. Convert on a machine you trust: "
    "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder), which writes model.safetensors"
)


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of one file."""

    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    """First byte in the file."""

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def _bad(file: Path, problem: str) -> ModelLoadError:
    return ModelLoadError(f"{file} cannot be loaded: {problem}")


def _check_not_pointer(file: Path, start: bytes) -> None:
    if start.startswith(LFS_POINTER):
        size = re.search(rb"size (\d+)", start)
        expected = f" of {int(size[1]):,} bytes" if size else ""
        raise _bad(
            file, f"it is a git-LFS pointer to a file{expected}, not the weights; run `git lfs pull` in its folder"
        )


def read_header(file: Path) -> dict[str, TensorInfo]:
    """Tensors of ``file``, after checking that the file is whole."""
    actual = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(512)
        _check_not_pointer(file, start)
        if actual < 8:
            raise _bad(file, f"it has {actual} bytes, but a safetensors file has at least 8; download it again")
        header_bytes = int.from_bytes(start[:8], "little")
        if header_bytes > min(actual - 8, MAX_HEADER_BYTES):
            raise _bad(
                file,
                f"its header should have {header_bytes:,} bytes, but the whole file has {actual:,}; "
                "it is damaged or not a safetensors file",
            )
        stream.seek(8)
        raw = stream.read(header_bytes)
    try:
        header = json.loads(raw)
        header.pop("__metadata__", None)
        data_start = 8 + header_bytes
        tensors = {name: _tensor_info(file, name, entry, data_start) for name, entry in header.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _bad(file, f"its header is not valid ({error}); it is damaged or not a safetensors file") from error
    expected = max((info.offset + info.num_bytes for info in tensors.values()), default=data_start)
    if expected != actual:
        verb = "truncated" if actual < expected else "longer than its header says"
        raise _bad(file, f"it is {verb}: expected {expected:,} bytes, found {actual:,}; download it again")
    return tensors


def _tensor_info(file: Path, name: str, entry: Any, data_start: int) -> TensorInfo:
    dtype = DTYPES.get(entry["dtype"])
    if dtype is None:
        raise _bad(file, f"tensor {name!r} has the unknown dtype {entry['dtype']!r}")
    shape = tuple(entry["shape"])
    begin, end = entry["data_offsets"]
    if not all(isinstance(size, int) and size >= 0 for size in (*shape, begin, end)):
        raise ValueError(f"tensor {name!r} has a shape or an offset that is not a count")
    info = TensorInfo(file, dtype, shape, data_start + begin)
    if end - begin != info.num_bytes:
        raise ValueError(
            f"tensor {name!r} of shape {shape} needs {info.num_bytes} bytes, the header gives {end - begin}"
        )
    return info


def find_tensors(folder: Path) -> dict[str, TensorInfo]:
    """All tensors of the checkpoint in ``folder``: one file, or the shards that its index names."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return read_header(single)
    if index.is_file():
        return _find_sharded(folder, index)
    others = sorted(folder.glob("*.safetensors"))
    if len(others) == 1:
        return read_header(others[0])
    if others:
        raise ModelLoadError(
            f"{folder} has {len(others)} safetensors files ({others[0].name}, ...) but no {index.name} that says what "
            "is where; download the index file as well"
        )
    unsafe = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in folder.glob(pattern))
    if unsafe:
        raise ModelLoadError(f"{folder} has its weights in {unsafe[0]}. {CONVERSION_HINT}")
    raise ModelLoadError(f"{folder} has no model.safetensors and no {index.name}")


def _find_sharded(folder: Path, index: Path) -> dict[str, TensorInfo]:
    try:
        weight_map = dict(json.loads(index.read_bytes())["weight_map"])
        files = sorted(set(weight_map.values()))
    except (ValueError, TypeError, KeyError) as error:
        raise _bad(index, f"it is not a valid index of shards ({error!r})") from error
    for name in files:
        if not isinstance(name, str) or Path(name).name != name:
            raise _bad(index, f"it names the shard {name!r}, which is not a plain file name")
        if not (folder / name).is_file():
            raise _bad(index, f"shard {name} is missing ({len(files)} shards are named); download it again")
    tensors: dict[str, TensorInfo] = {}
    for name in files:
        tensors |= read_header(folder / name)
    if absent := [name for name in weight_map if name not in tensors]:
        raise _bad(index, f"tensor {absent[0]!r} is in no shard, though it should be in {weight_map[absent[0]]}")
    return tensors


class TensorReader:
    """Reads tensors in runs of rows into one reused buffer: a run is valid until the next one is read."""

    def __init__(self) -> None:
        self._buffer = torch.empty(BUFFER_BYTES, dtype=torch.uint8)
        self._file: Path | None = None
        self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def rows(
        self, info: TensorInfo, first: int = 0, last: int | None = None, columns: range | None = None
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Rows ``first : last`` in runs that fit the buffer, each with the number of its first row; of each row all, or
        ``columns``, and nothing else is read.

        A vector is a matrix of one column here, so that long and short tensors are read alike.
        """
        num_rows, row_shape = (info.shape[0], info.shape[1:]) if info.shape else (1, ())
        row_bytes = math.prod(row_shape) * info.dtype.itemsize
        skipped, taken, shape = 0, row_bytes, row_shape
        if columns is not None:
            skipped, taken = columns.start * info.dtype.itemsize, len(columns) * info.dtype.itemsize
            shape = (len(columns),)
        at_once = max(1, BUFFER_BYTES // max(1, taken))
        last = num_rows if last is None else last
        for start in range(first, last, at_once):
            stop = min(start + at_once, last)
            offset = info.offset + start * row_bytes + skipped
            if taken == row_bytes:
                raw = self._read(info.file, [offset], (stop - start) * row_bytes)
            else:
                raw = self._read(info.file, range(offset, offset + (stop - start) * row_bytes, row_bytes), taken)
            yield start, raw.view(info.dtype).view(stop - start, *shape)

    def _read(self, file: Path, offsets: Sequence[int], num_bytes: int) -> torch.Tensor:
        """``num_bytes`` from each of ``offsets``, one after the other."""
        if file != self._file:
            self._close()
            self._file, self._descriptor = file, os.open(file, os.O_RDONLY)
        total = len(offsets) * num_bytes
        if total > len(self._buffer):  # a single row longer than the buffer
            self._buffer = torch.empty(total, dtype=torch.uint8)
        view = memoryview(self._buffer.numpy().data)[:total]
        for place, offset in enumerate(offsets):
            self._fill(view[place * num_bytes : (place + 1) * num_bytes], offset)
        return self._buffer[:total]

    def _fill(self, view: memoryview, offset: int) -> None:
        done, num_bytes = 0, len(view)
        while done < num_bytes:
            count = os.preadv(self._descriptor, [view[done:]], offset + done)
            if count == 0:
                assert self._file is not None
                raise _bad(
                    self._file, f"it ended at byte {offset + done:,} while {num_bytes - done:,} more were expected"
                )
            done += count

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._file, self._descriptor = None, -1
