"""``torch.npu``: devices, memory, streams, events, graphs; the names and signatures of torch_npu.npu."""

from __future__ import annotations

import sys
import time
import types
from typing import Any

import torch

from torch_npu._graphs import NPUGraph, graph, graph_pool_handle
from torch_npu._state import state
from torch_npu._tensor import NpuTensor

utils = types.ModuleType("torch_npu.npu.utils")
utils.get_cann_version = lambda module="CANN": "" if state.cann_version == "unknown" else state.cann_version  # type: ignore[attr-defined]
sys.modules[utils.__name__] = utils
matmul = types.SimpleNamespace(allow_hf32=False)


class _Config:
    """``torch.npu.config``: only the one switch that changes results here."""

    @property
    def allow_internal_format(self) -> bool:
        return state.allow_internal_format

    @allow_internal_format.setter
    def allow_internal_format(self, value: bool) -> None:
        state.allow_internal_format = value


config = _Config()


def is_available() -> bool:
    return state.device_count() > 0


def is_initialized() -> bool:
    return True


def _is_in_bad_fork() -> bool:
    return False


def _lazy_init() -> None:
    pass


def device_count() -> int:
    return state.device_count()


def current_device() -> int:
    return state.thread.current_device


def set_compile_mode(jit_compile: bool = False) -> None:
    if jit_compile:
        raise RuntimeError("compiling operators for each shape is not simulated")


def set_device(device: Any) -> None:
    index = device if isinstance(device, int) else torch.device(device).index or 0
    if not 0 <= index < state.device_count():
        raise RuntimeError(f"Invalid device id {index}: {state.device_count()} devices are visible (error code 107001)")
    if state.busy is not None:
        raise RuntimeError(f"NPU function error: c10_npu::SetDevice(device), error code is {state.busy}\n[ERROR] busy")
    state.thread.current_device = index


def get_device_name(device: Any = None) -> str:
    return state.soc


def is_bf16_supported(including_emulation: bool = False) -> bool:
    return not state.is_310p


def synchronize(device: Any = None) -> None:
    state.finish()


def mem_get_info(device: Any = None) -> tuple[int, int]:
    return state.memory_bytes - state.allocated_bytes - state.occupied_bytes, state.memory_bytes


def memory_allocated(device: Any = None) -> int:
    return state.allocated_bytes


def memory_reserved(device: Any = None) -> int:
    return state.allocated_bytes


def max_memory_allocated(device: Any = None) -> int:
    return state.peak_bytes


def reset_peak_memory_stats(device: Any = None) -> None:
    state.peak_bytes = state.allocated_bytes


def memory_stats(device: Any = None) -> dict[str, int]:
    return {"allocated_bytes.all.current": state.allocated_bytes, "allocated_bytes.all.peak": state.peak_bytes}


def empty_cache() -> None:
    pass


def manual_seed_all(seed: int) -> None:
    pass


def get_rng_state(device: Any = None) -> torch.Tensor:
    return torch.zeros(16, dtype=torch.uint8)


def set_rng_state(new_state: torch.Tensor, device: Any = None) -> None:
    pass


class Stream:
    """There is one queue, so every stream is that queue; what differs is only who is current."""

    def __init__(self, device: Any = None, priority: int = 0) -> None:
        self.device = device

    def synchronize(self) -> None:
        state.finish()

    def wait_stream(self, stream: Stream) -> None:
        pass

    def wait_event(self, event: Event) -> None:
        if event.sequence is None:
            raise RuntimeError("a stream waits for an event that was never recorded")

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event


class Event:
    def __init__(self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False) -> None:
        self.enable_timing = enable_timing
        self.sequence: int | None = None
        self.time_s = 0.0

    def record(self, stream: Stream | None = None) -> None:
        self.sequence, self.time_s = state.sequence, time.perf_counter()

    def wait(self, stream: Stream | None = None) -> None:
        (stream or current_stream()).wait_event(self)

    def query(self) -> bool:
        if self.sequence is None:
            return True
        done = not state.queue or state.queue[0][0] > self.sequence
        self.synchronize()  # work does finish while the host polls, but not before it has asked once
        return done

    def synchronize(self) -> None:
        if self.sequence is not None:
            state.finish(self.sequence)

    def elapsed_time(self, end: Event) -> float:
        if not (self.enable_timing and end.enable_timing):
            raise RuntimeError("both events need enable_timing=True")
        end.synchronize()
        return (end.time_s - self.time_s) * 1000.0


_default_stream = Stream()
_streams = [_default_stream]


def current_stream(device: Any = None) -> Stream:
    return _streams[-1]


def default_stream(device: Any = None) -> Stream:
    return _default_stream


def set_stream(stream: Stream) -> None:
    _streams[-1] = stream


class stream:
    """The current stream within a ``with``."""

    def __init__(self, stream: Stream | None) -> None:
        self.stream = stream or current_stream()

    def __enter__(self) -> None:
        _streams.append(self.stream)

    def __exit__(self, *error: Any) -> None:
        _streams.pop()


def _pin_memory(self: torch.Tensor, device: Any = None) -> torch.Tensor:
    if isinstance(self, NpuTensor):
        raise RuntimeError("only CPU tensors can be pinned")
    pinned = self.clone()
    state.pinned[pinned.untyped_storage().data_ptr()] = pinned
    return pinned


def _is_pinned(self: torch.Tensor, device: Any = None) -> bool:
    return self.untyped_storage().data_ptr() in state.pinned


def install() -> None:
    """Become ``torch.npu``; once per process."""
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    _setup_privateuseone_for_python_backend("npu", sys.modules[__name__])
    torch.Tensor.pin_memory = _pin_memory  # type: ignore[assignment,method-assign]
    torch.Tensor.is_pinned = _is_pinned  # type: ignore[assignment,method-assign]


__all__ = ["Event", "NPUGraph", "Stream", "graph", "graph_pool_handle"]
