"""What the simulated device knows: its model, its memory, its queue, and what ran on it."""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


def require(condition: bool, op: str, message: str) -> None:
    """Fail as a device does when a documented constraint is broken."""
    if not condition:
        raise RuntimeError(f"{op}: {message}")


def _parse_broken(text: str) -> dict[str, str]:
    return dict(entry.split("=") for entry in text.split(",") if entry)


class _OfThread(threading.local):
    """Facts of a thread, as on a real device: a new thread starts on device 0."""

    current_device = 0
    inside_device = False
    """True while a kernel runs: an operator called on CPU tensors from outside must fail."""


@dataclass
class State:
    """One device per process, whichever number it has."""

    version: str = field(default_factory=lambda: os.environ.get("NPU_SIMULATOR_VERSION", "2.13.0"))
    """Of torch_npu."""
    cann_version: str = field(default_factory=lambda: os.environ.get("NPU_SIMULATOR_CANN", "9.1.0"))
    soc: str = field(default_factory=lambda: os.environ.get("NPU_SIMULATOR_SOC", "Ascend910B3"))
    memory_bytes: int = field(default_factory=lambda: int(os.environ.get("NPU_SIMULATOR_MEMORY", 4 << 30)))
    occupied_bytes: int = field(default_factory=lambda: int(os.environ.get("NPU_SIMULATOR_OCCUPIED", 0)))
    """What other processes hold of the memory."""
    busy: str | None = field(default_factory=lambda: os.environ.get("NPU_SIMULATOR_BUSY"))
    """The number with which the device refuses to be opened."""
    allow_internal_format: bool = False
    allocated_bytes: int = 0
    peak_bytes: int = 0
    log: list[str] | None = None
    graph: Any = None
    """The graph under capture."""
    graph_thread: int | None = None
    """The thread whose waiting would break the capture; None: any thread's."""
    thread: _OfThread = field(default_factory=_OfThread)
    lock: threading.RLock = field(default_factory=threading.RLock)
    queue: deque[tuple[int, Callable[[], object]]] = field(default_factory=deque)
    """Work that the host may not rely on before it synchronises, in order."""
    sequence: int = 0
    waiting_graph: Any = None
    """A replayed graph whose operators wait for their update; whatever waits for it meanwhile waits for ever."""
    num_waits: int = 0
    """How often the host waited for the stream: by synchronising, and by each copy that blocks."""
    lost: str | None = None
    """Number of the fault after which nothing works any more in this process."""
    capture_error: str | None = field(default_factory=lambda: os.environ.get("NPU_SIMULATOR_CAPTURE_ERROR"))
    """What the end of each capture raises."""
    replay_error: str | None = field(default_factory=lambda: os.environ.get("NPU_SIMULATOR_REPLAY_ERROR"))
    broken: dict[str, str] = field(default_factory=lambda: _parse_broken(os.environ.get("NPU_SIMULATOR_BROKEN", "")))
    """Operators that do not work here: ``error`` (the device refuses), ``wrong`` (it computes something else) or
    ``lost`` (it is lost over it). ``NAME:block_table`` means calls with that argument only."""
    pinned: weakref.WeakValueDictionary[int, torch.Tensor] = field(default_factory=weakref.WeakValueDictionary)

    @property
    def cann(self) -> tuple[int, int]:
        """(major, minor) of CANN; the newest known where it does not say."""
        numbers = self.cann_version.split(".")
        return (int(numbers[0]), int(numbers[1])) if numbers[0].isdigit() else (9, 1)

    @property
    def is_310p(self) -> bool:
        return self.soc.startswith("Ascend310P")

    def device_count(self) -> int:
        visible = os.environ.get("ASCEND_RT_VISIBLE_DEVICES")
        installed = int(os.environ.get("NPU_SIMULATOR_DEVICES", "8"))
        if visible is None:
            return installed
        return len([number for number in visible.split(",") if number.strip() and int(number) < installed])

    def enqueue(self, work: Callable[[], object]) -> None:
        with self.lock:
            self.sequence += 1
            self.queue.append((self.sequence, work))

    def finish(self, until: int | None = None) -> None:
        """Everything queued up to sequence number ``until`` is done; what was promised for then happens now."""
        if self.graph is not None and self.graph_thread in (None, threading.get_ident()):
            raise RuntimeError("the host waited for the device during graph capture")
        if self.waiting_graph is not None:
            raise RuntimeError("this waits for ever: a replay waits for the update of its attention lengths")
        self.num_waits += 1
        self._break_if_asked()
        self.check_alive()
        with self.lock, torch.inference_mode():  # targets may have been made in it
            while self.queue and (until is None or self.queue[0][0] <= until):
                self.queue.popleft()[1]()

    def check_alive(self) -> None:
        """After a fault every call fails with the number of the first one, until the process ends."""
        if self.lost is not None:
            raise RuntimeError(
                f"synchronize:NPUStream.cpp:87 NPU function error: aclrtSynchronizeStream, error code is {self.lost}\n"
                "[ERROR] The device of the simulator is lost"
            )

    def _break_if_asked(self) -> None:
        """A fault happens once, when the file named by the environment is there; it holds the fault's number."""
        name = os.environ.get("NPU_SIMULATOR_FAULT_FILE")
        if name and (file := Path(name)).exists():
            self.lost = file.read_text().strip()
            file.unlink()

    @contextmanager
    def kernel(self) -> Iterator[None]:
        before, self.thread.inside_device = self.thread.inside_device, True
        try:
            yield
        finally:
            self.thread.inside_device = before

    @contextmanager
    def recording(self) -> Iterator[list[str]]:
        """The names of all operators that reach the device meanwhile."""
        before, self.log = self.log, []
        try:
            yield self.log
        finally:
            self.log = before


state = State()


class Allocation:
    """Bytes of one storage; shared by a tensor and its views, given back with the last of them."""

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = 0
        if state.allocated_bytes + num_bytes > state.memory_bytes - state.occupied_bytes:
            raise torch.OutOfMemoryError(
                f"NPU out of memory. Tried to allocate {num_bytes / 2**20:.2f} MiB (NPU {state.thread.current_device}; "
                f"{state.memory_bytes / 2**30:.2f} GiB total capacity; {state.allocated_bytes / 2**30:.2f} GiB already "
                "allocated)"
            )
        self.num_bytes = num_bytes
        state.allocated_bytes += num_bytes
        state.peak_bytes = max(state.peak_bytes, state.allocated_bytes)

    def __del__(self) -> None:
        state.allocated_bytes -= self.num_bytes
