"""The workers that compute a model together, and what they tell one another inside a step.

A worker alone is a group of one: it has everything and says nothing. Sums are torch.distributed's, over the library
that the backend names (nccl, hccl, gloo). The workers meet at a file, so no address is agreed on; what sockets the
library then opens between them, it opens on the loopback interface. Every wait has a deadline.
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
from engine.step import Member

MEETING_TIMEOUT_S = 120.0
"""Between the start of the first worker and that of the last."""
LOADING_TIMEOUT_S = 1800.0
"""Between the first that has loaded its share and the last: they read the same files. A worker that *ends* while it
loads is noticed at once by the executor."""
LOOPBACK = "lo"


class Group:
    """Alone, unless made by ``meet``."""

    def __init__(self, index: int = 0, size: int = 1, store: Store | None = None) -> None:
        self.index, self.size = index, size
        self._store = store

    def part(self, units: int) -> range:
        """This worker's run of ``units`` things. When there are fewer than workers, neighbours have the same one."""
        first = self.index * units // self.size
        return range(first, max(first + 1, (self.index + 1) * units // self.size))

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        """Of all workers' ``x``, which is overwritten."""
        if self.size > 1:
            dist.all_reduce(x)
        return x

    def least(self, what: str, value: int, timeout_s: float) -> int:
        """The smallest of all workers' values; each ``what`` can be asked once. Not for use inside a step."""
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

    def leave(self) -> None:
        """May be called twice."""
        if self._store is not None:
            self._store = None
            dist.destroy_process_group()


def meet(member: Member, backend: Backend, timeout_s: float) -> Group:
    """The group of ``member``; its collectives fail after ``timeout_s``. Call it once the process has its device."""
    if member.size == 1:
        return Group()
    os.environ.setdefault(backend.dist_interface_variable, LOOPBACK)
    store = FileStore(member.meeting, member.size)
    group = Group(member.index, member.size, store)
    group.least("presence", 1, MEETING_TIMEOUT_S)
    dist.init_process_group(
        backend.dist_backend,
        store=PrefixStore("collectives", store),
        rank=member.index,
        world_size=member.size,
        timeout=timedelta(seconds=timeout_s),
    )
    return group
