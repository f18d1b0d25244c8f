"""Between host and device: everything a step needs goes up in one copy, and its values come back without a stop.

Small copies cost about ten microseconds each whatever their size, and a copy from ordinary memory waits for the device.
So all arrays of a step are laid end to end in one pinned buffer: first rows (int64), then tables (int32), each on a
border of 16 bytes, so that kernels may load it in wide words and never meet an address that they were not compiled for.
There are a few such buffers in turn: one may be rewritten only when its copy has been made, which an event tells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

ALIGNMENT = 16
"""Bytes."""
ROW_BYTES, TABLE_BYTES = 8, 4
NUM_BUFFERS = 3
_MIN_BYTES = 1 << 16


def _round_up(count: int, item_bytes: int) -> int:
    multiple = ALIGNMENT // item_bytes
    return -(-count // multiple) * multiple


@dataclass(frozen=True)
class Layout:
    """How many items each array of a step may have, and what stands where it has fewer."""

    rows: tuple[int, ...]
    """Items (int64) of each array of rows, multiples of 2."""
    tables: tuple[int, ...]
    """Items (int32) of each table, multiples of 4."""
    fills: dict[int, int]
    """Array (rows first, then tables) -> what fills it up; others are filled with 0."""

    @classmethod
    def fitting(cls, rows: Sequence[int], tables: Sequence[int], fills: dict[int, int] | None = None) -> Layout:
        """Room for so many items in each, rounded up to the alignment."""
        return cls(
            tuple(_round_up(count, ROW_BYTES) for count in rows),
            tuple(_round_up(count, TABLE_BYTES) for count in tables),
            fills or {},
        )

    @cached_property
    def row_bytes(self) -> int:
        return ROW_BYTES * sum(self.rows)

    @cached_property
    def num_bytes(self) -> int:
        return self.row_bytes + TABLE_BYTES * sum(self.tables)

    def split(self, buffer: torch.Tensor) -> list[torch.Tensor]:
        """Flat views of a buffer of ``num_bytes``, rows first, each of its full size."""
        rows = buffer[: self.row_bytes].view(torch.int64).split(self.rows)
        return [*rows, *buffer[self.row_bytes : self.num_bytes].view(torch.int32).split(self.tables)]

    def write(self, host: np.ndarray, rows: Sequence[np.ndarray], tables: Sequence[np.ndarray]) -> None:
        """Lay the arrays into ``host``, (num_bytes,) uint8."""
        middle = self.row_bytes
        self._lay(host[:middle].view(np.int64), rows, self.rows, 0)
        self._lay(host[middle : self.num_bytes].view(np.int32), tables, self.tables, len(self.rows))

    def _lay(self, out: np.ndarray, arrays: Sequence[np.ndarray], sizes: Sequence[int], number: int) -> None:
        parts = []
        for offset, (array, size) in enumerate(zip(arrays, sizes, strict=True)):
            parts.append(array if array.ndim == 1 else array.reshape(-1))
            if array.size < size:
                parts.append(np.full(size - array.size, self.fills.get(number + offset, 0), out.dtype))
        if parts:
            np.concatenate(parts, out=out, casting="same_kind")


@dataclass
class _Buffer:
    host: torch.Tensor
    bytes: np.ndarray
    """The same memory."""
    copied: torch.cuda.Event | None = None


class Uploader:
    """Copies a step to the device from pinned memory; on a CPU device (the tests) from ordinary memory."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.is_cuda = device.type == "cuda"
        self._buffers = [self._new(_MIN_BYTES) for _ in range(NUM_BUFFERS)]
        self._next = 0

    def upload(
        self,
        rows: Sequence[np.ndarray],
        tables: Sequence[np.ndarray],
        layout: Layout | None = None,
        target: torch.Tensor | None = None,
    ) -> list[torch.Tensor]:
        """Views in the shapes of the arrays: int64 for ``rows`` (1-d), int32 for ``tables``.

        They lie in ``target``, (layout.num_bytes,) uint8 on the device, or in a new buffer.
        """
        if layout is None:
            layout = Layout.fitting([len(array) for array in rows], [table.size for table in tables])
        buffer = self._take(layout.num_bytes)
        layout.write(buffer.bytes, rows, tables)
        if target is None:
            target = torch.empty(layout.num_bytes, dtype=torch.uint8, device=self.device)
        target.copy_(buffer.host[: layout.num_bytes], non_blocking=True)
        if self.is_cuda:
            buffer.copied = torch.cuda.Event()
            buffer.copied.record()
        views = layout.split(target)
        return [_shaped(view, array.shape) for view, array in zip(views, (*rows, *tables), strict=True)]

    def _new(self, num_bytes: int) -> _Buffer:
        host = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=self.is_cuda)
        return _Buffer(host, host.numpy())

    def _take(self, num_bytes: int) -> _Buffer:
        """The next buffer in turn, once its last copy is made, grown when it is too small."""
        buffer = self._buffers[self._next]
        if buffer.copied is not None:
            buffer.copied.synchronize()
        if len(buffer.bytes) < num_bytes:
            buffer = self._buffers[self._next] = self._new(1 << (num_bytes - 1).bit_length())
        self._next = (self._next + 1) % len(self._buffers)
        return buffer


def _shaped(view: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """The beginning of a flat view in the shape of what was written there."""
    if len(shape) == 1:
        return view if len(view) == shape[0] else view[: shape[0]]
    return view[: shape[0] * shape[1]].view(shape)


def fetch(values: torch.Tensor) -> Callable[[], np.ndarray]:
    """Starts the copy of a step's values; the returned function waits for this copy only, not for the device."""
    if values.device.type != "cuda":
        array = values.numpy()
        return lambda: array
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    host.copy_(values, non_blocking=True)
    done = torch.cuda.Event()
    done.record()

    def wait() -> np.ndarray:
        done.synchronize()
        return host.numpy().copy()

    return wait
