"""The workers that compute a model together, and what they tell one another inside a step.

A worker alone is a group of one: it has the whole model and sends nothing. Sums are torch.distributed's, over the
library that the backend names (nccl, hccl, gloo). The workers find each other through a rendezvous file, so no address
is agreed on; what sockets the library then opens between them, it opens on the loopback interface. Every wait has a
deadline.
"""

from __future__ import annotations

import os
import time
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import FileStore, PrefixStore, Store  # type: ignore[attr-defined]  # public, but not declared

from engine.backends.base import Backend
from engine.errors import DeviceError
from engine.step import TPRank

RENDEZVOUS_TIMEOUT_S = 120.0
"""Between the start of the first worker and that of the last."""
LOADING_TIMEOUT_S = 1800.0
"""Between the first that has loaded its share and the last: they read the same files. A worker that *ends* while it
loads is noticed at once by the executor."""
LOOPBACK = "lo"


class TPGroup:
    """The tensor-parallel group of one worker: of this worker alone, unless made by ``join_tp_group``."""

    def __init__(self, index: int = 0, size: int = 1, store: Store | None = None) -> None:
        self.index, self.size = index, size
        self._store = store

    def part(self, units: int) -> range:
        """This worker's run of ``units`` things. When there are fewer than workers, neighbours have the same one."""
        first = self.index * units // self.size
        return range(first, max(first + 1, (self.index + 1) * units // self.size))

    def all_reduce_sum(self, x: torch.Tensor) -> torch.Tensor:
        """The sum of all workers' ``x``, element by element, in place of ``x``."""
        if self.size > 1:
            dist.all_reduce(x)
        return x

    def all_reduce_min(self, what: str, value: int, timeout_s: float) -> int:
        """The smallest of all workers' values; each ``what`` can be asked once. Not for use inside a step.

        Raises ``DeviceError`` where a worker has not told its value after ``timeout_s``.
        """
        if self._store is None:
            return value
        names = [f"{what} {index}" for index in range(self.size)]
        self._store.set(names[self.index], str(value))
        started = time.monotonic()
        try:
            self._store.wait(names, timedelta(seconds=timeout_s))
        except RuntimeError as error:
            waited_s = time.monotonic() - started
            raise DeviceError(
                f"worker {self.index} of {self.size} waited {waited_s:.0f} s for the others to tell their {what}: see "
                "their lines in the log for what holds them up"
            ) from error
        return min(int(self._store.get(name)) for name in names)

    def destroy(self) -> None:
        """End the process group of torch.distributed. May be called twice."""
        if self._store is not None:
            self._store = None
            dist.destroy_process_group()


def join_tp_group(tp_rank: TPRank, backend: Backend, timeout_s: float) -> TPGroup:
    """The group of ``tp_rank``; its collectives fail after ``timeout_s``. Call it once the process has its device.

    Raises ``DeviceError`` where the other workers do not come.
    """
    if tp_rank.size == 1:
        return TPGroup()
    os.environ.setdefault(backend.dist_interface_variable, LOOPBACK)
    store = FileStore(tp_rank.rendezvous_file, tp_rank.size)
    group = TPGroup(tp_rank.index, tp_rank.size, store)
    group.all_reduce_min("presence", 1, RENDEZVOUS_TIMEOUT_S)
    dist.init_process_group(
        backend.dist_backend,
        store=PrefixStore("collectives", store),
        rank=tp_rank.index,
        world_size=tp_rank.size,
        timeout=timedelta(seconds=timeout_s),
    )
    return group
