"""Tensors of a checkpoint's files, read row by row into one buffer; where they are, the checked headers say
(``engine/checkpoint/safetensors_header.py``).

Files are read with ``pread`` and not mapped: mapped pages count as memory of the process, and the promise is that
loading never needs more than 1.2 times the weights in the dtype they run in.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from engine.checkpoint import safetensors_header

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
BUFFER_BYTES = 8 << 20


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

    def rows(
        self, reader: TensorReader, first: int = 0, last: int | None = None, columns: range | None = None
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Reads rows as ``Source.rows`` does, in the dtype of the file."""
        return reader.rows(self, first, last, columns)


def find_tensors(folder: Path) -> dict[str, TensorInfo]:
    """All tensors of the checkpoint in ``folder``; raises ``ModelLoadError`` where its files are missing or damaged."""
    return {
        name: TensorInfo(stored.file, DTYPES[stored.dtype], stored.shape, stored.offset)
        for name, stored in safetensors_header.find_tensors(folder).items()
    }


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
        for position, offset in enumerate(offsets):
            self._fill(view[position * num_bytes : (position + 1) * num_bytes], offset)
        return self._buffer[:total]

    def _fill(self, view: memoryview, offset: int) -> None:
        done, num_bytes = 0, len(view)
        while done < num_bytes:
            count = os.preadv(self._descriptor, [view[done:]], offset + done)
            if count == 0:
                assert self._file is not None
                raise safetensors_header.bad_file(
                    self._file, f"it ended at byte {offset + done:,} while {num_bytes - done:,} more were expected"
                )
            done += count

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._file, self._descriptor = None, -1
