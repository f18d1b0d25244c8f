"""Between host and device: everything a step needs goes up in one copy, and its values come back without a stop.

All arrays of a step, the rows that attention gathers included, are laid end to end as int64 in one pinned buffer. There
are a few such buffers in turn, because one may be rewritten only when its copy has been made, which an event tells.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch_npu

from engine.kernels.npu.attention import PLAN
from engine.kernels.npu.plan import index_arrays, plan_on_host, plan_with
from engine.kernels.ops import AttentionMeta

PINNED_VARIABLE = "ENGINE_NPU_PINNED_COPIES"
"""``0``: copies from pageable memory, each of which waits for the stream. Copies from pinned memory beside graphs and
collectives were reported to hang on CANN 9.1 (sglang #38971)."""
NUM_BUFFERS = 3
SMALLEST_BUFFER = 4096


def copies_are_pinned() -> bool:
    """Whether host buffers are pinned: unless ``ENGINE_NPU_PINNED_COPIES`` is ``0``."""
    return os.environ.get(PINNED_VARIABLE) != "0"


def host_buffer(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """A host tensor of this shape that copies can be made from and to, pinned if they may be."""
    buffer = torch.empty(tuple(shape), dtype=dtype)
    return buffer.pin_memory() if copies_are_pinned() else buffer


@dataclass
class _Buffer:
    host: torch.Tensor
    copied: torch_npu.npu.Event | None = None


class Uploader:
    def __init__(self) -> None:
        self._buffers = [_Buffer(torch.empty(0, dtype=torch.int64)) for _ in range(NUM_BUFFERS)]
        self._next = 0

    def upload(self, arrays: Sequence[np.ndarray], device: torch.device) -> list[torch.Tensor]:
        """Views of one new device tensor, in the lengths of ``arrays``."""
        sizes = [len(array) for array in arrays]
        total = sum(sizes)
        buffer = self._take(total)
        np.concatenate(arrays, out=buffer.host[:total].numpy(), casting="same_kind")
        on_device = torch.empty(total, dtype=torch.int64, device=device)
        on_device.copy_(buffer.host[:total], non_blocking=True)
        buffer.copied = torch_npu.npu.Event()
        buffer.copied.record()
        return list(on_device.split(sizes))

    def _take(self, num_items: int) -> _Buffer:
        """The next buffer in turn, once its last copy is made, grown when it is too small."""
        buffer = self._buffers[self._next]
        self._next = (self._next + 1) % len(self._buffers)
        if buffer.copied is not None:
            buffer.copied.synchronize()
        if len(buffer.host) < num_items:
            size = max(SMALLEST_BUFFER, 1 << (num_items - 1).bit_length())
            buffer.host = host_buffer((size,), torch.int64)
        return buffer


def upload_step(
    uploader: Uploader,
    arrays: Sequence[np.ndarray],
    metas: Sequence[AttentionMeta],
    device: torch.device,
    *,
    paged: bool,
) -> list[torch.Tensor]:
    """The arrays on the device, and the attention plans of ``metas`` in their caches."""
    hosts = [plan_on_host(meta) for meta in metas]
    layouts = [host.layout(paged=paged) for host in hosts]
    tables = [index_arrays(host, layout) for host, layout in zip(hosts, layouts, strict=True)]
    tensors = uploader.upload([*arrays, *(array for table in tables for array in table)], device)
    rest = iter(tensors[len(arrays) :])
    for meta, host, layout, table in zip(metas, hosts, layouts, tables, strict=True):
        meta.cache[PLAN] = plan_with(host, layout, [next(rest) for _ in table])
    return tensors[: len(arrays)]


def fetch(values: torch.Tensor) -> Callable[[], np.ndarray]:
    """Starts the copy of a step's values; the returned function waits for this copy only, not for the device."""
    host = host_buffer(values.shape, values.dtype)
    host.copy_(values, non_blocking=True)
    done = torch_npu.npu.Event()
    done.record()

    def wait() -> np.ndarray:
        done.synchronize()
        return host.numpy().copy()

    return wait
