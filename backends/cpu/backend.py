"""The CPU backend: fp32 (bf16 and fp16 checkpoints are widened while read), as many threads as the process may use."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import torch

from engine.backends.base import Backend, Capabilities, MemoryFacts
from engine.config import DeviceConfig
from engine.errors import ConfigError
from engine.kernels.ops import Ops
from engine.kernels.reference import ReferenceOps

CGROUP = Path("/sys/fs/cgroup")


class CpuBackend(Backend):
    name = "cpu"
    dist_backend = "gloo"

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(dtypes=("float32", "bfloat16"), default_token_budget=4096, keeps_narrow_embedding=True)

    def why_unavailable(self) -> str | None:
        return None

    def device(self, rank: int) -> torch.device:
        return torch.device("cpu")

    def auto_dtype(self, checkpoint_dtype: str) -> str:
        return "float32"

    def set_up(self, config: DeviceConfig, rank: int) -> tuple[str, ...]:
        cpus = sorted(os.sched_getaffinity(0))
        num_threads = config.cpu_threads or usable_cpus()
        if config.cpu_pin:
            own = cpus[rank * num_threads : (rank + 1) * num_threads]
            if len(own) < num_threads:
                raise ConfigError(
                    f"cpu_pin needs {num_threads} cores of its own for worker {rank}, but only {len(cpus)} cores are "
                    "there for all workers; lower --cpu-threads"
                )
            os.sched_setaffinity(0, own)
        torch.set_num_threads(num_threads)
        pinned = ", pinned" if config.cpu_pin else ""
        return (f"{num_threads} threads on {len(cpus)} cores{pinned}",)

    def make_ops(self, device: torch.device, dtype: torch.dtype, quantization: str | None) -> tuple[Ops, str]:
        return ReferenceOps(device, dtype), "plain torch kernels"

    def memory(self, device: torch.device) -> MemoryFacts:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        total, free = (int(fields[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
        limits = [total]
        for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
            soft, _ = resource.getrlimit(kind)
            if soft != resource.RLIM_INFINITY:
                limits.append(soft)
        if (limit := _cgroup_value("memory.max")) is not None:
            limits.append(limit)
            free = min(free, limit - (_cgroup_value("memory.current") or 0))
        return MemoryFacts(min(limits), max(0, min(free, *limits)))

    def peak_memory_bytes(self, device: torch.device) -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def is_out_of_memory(self, error: BaseException) -> bool:
        return isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error)


def usable_cpus() -> int:
    """Cores that this process may use: its affinity, and a container's quota if that is less."""
    cpus = len(os.sched_getaffinity(0))
    try:
        quota, period = (CGROUP / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return cpus
    return cpus if quota == "max" else max(1, min(cpus, int(quota) // int(period)))


def _cgroup_value(name: str) -> int | None:
    try:
        text = (CGROUP / name).read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def backend() -> Backend:
    return CpuBackend()
