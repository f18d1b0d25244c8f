"""Between host and device: everything a step needs goes up in one copy, and its values come back without a stop.

Small copies cost about ten microseconds each whatever their size, and a copy from ordinary memory waits for the device.
So all arrays of a step are laid end to end in one pinned buffer. There are a few such buffers in turn: one may be
rewritten only when its copy has been made, which an event tells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

ALIGNMENT = 16
"""Bytes; each array begins on such a boundary, so that kernels may load it in wide words."""
NUM_BUFFERS = 3
_TORCH_DTYPES = {np.dtype(np.int32): torch.int32, np.dtype(np.int64): torch.int64, np.dtype(np.float32): torch.float32}


def layout(arrays: Sequence[np.ndarray]) -> tuple[list[int], int]:
    """First byte of each array, and the bytes of all."""
    sizes = [-(-array.nbytes // ALIGNMENT) * ALIGNMENT for array in arrays]
    ends = np.cumsum([0, *sizes]).tolist()
    return ends[:-1], ends[-1]


@dataclass
class _Buffer:
    host: torch.Tensor
    copied: torch.cuda.Event | None = None


class Uploader:
    """On a CPU device it does the same with ordinary memory, which is how it is tested."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.is_cuda = device.type == "cuda"
        self._buffers = [_Buffer(torch.empty(0, dtype=torch.uint8)) for _ in range(NUM_BUFFERS)]
        self._next = 0

    def upload(self, arrays: Sequence[np.ndarray]) -> list[torch.Tensor]:
        """Views of one new device buffer, in the shapes and dtypes of ``arrays``."""
        starts, num_bytes = layout(arrays)
        buffer = self._take(num_bytes)
        host = buffer.host.numpy()
        for start, array in zip(starts, arrays, strict=True):
            host[start : start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        on_device = torch.empty(num_bytes, dtype=torch.uint8, device=self.device)
        on_device.copy_(buffer.host[:num_bytes], non_blocking=True)
        if self.is_cuda:
            buffer.copied = torch.cuda.Event()
            buffer.copied.record()
        return [
            on_device[start : start + array.nbytes].view(_TORCH_DTYPES[array.dtype]).view(array.shape)
            for start, array in zip(starts, arrays, strict=True)
        ]

    def _take(self, num_bytes: int) -> _Buffer:
        """The next buffer in turn, once its last copy is made, grown when it is too small."""
        buffer = self._buffers[self._next]
        self._next = (self._next + 1) % len(self._buffers)
        if buffer.copied is not None:
            buffer.copied.synchronize()
        if len(buffer.host) < num_bytes:
            size = 1 << max(num_bytes - 1, 4095).bit_length()
            buffer.host = torch.empty(size, dtype=torch.uint8, pin_memory=self.is_cuda)
        return buffer


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
