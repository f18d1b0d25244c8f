"""The CPU backend: fp32 (bf16 and fp16 checkpoints stay as narrow as they are), bf16 in the linear layers when asked
for; as many threads as the process may use."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from engine.backends.base import Backend, Capabilities, MemoryFacts
from engine.config import DeviceConfig
from engine.errors import ConfigError, DeviceError
from engine.kernels.cpu import INT16_LAYERS
from engine.kernels.cpu import available as kernels_obstacle
from engine.kernels.cpu.threads import check_num_threads, default_num_threads
from engine.kernels.ops import Ops
from engine.kernels.reference import ReferenceOps

if TYPE_CHECKING:
    from engine.kernels.cpu.ops import CpuOps

KERNELS_VARIABLE = "ENGINE_CPU_KERNELS"
"""``compiled`` or ``torch``; unset: compiled where they are built."""
# Measured on one AVX-512 core with the widths of the 0.6B model: the rate is at its best from 512 to 2,048 tokens and
# 3 to 5 % lower from 4,096 on, and small steps give scores sooner. More threads need more rows to share.
MIN_TOKEN_BUDGET, MAX_TOKEN_BUDGET, TOKENS_PER_THREAD = 1024, 8192, 256
CGROUP = Path("/sys/fs/cgroup")


QUANTIZATIONS = ("int16", "int8", "int4")


class CpuBackend(Backend):
    name = "cpu"
    dist_backend = "gloo"
    dist_interface_variable = "GLOO_SOCKET_IFNAME"

    def __init__(self) -> None:
        self._num_threads = default_num_threads()
        self._pin = False
        self._ops: CpuOps | None = None

    @property
    def capabilities(self) -> Capabilities:
        has_kernels = _obstacle(torch.float32, os.environ.get(KERNELS_VARIABLE, "")) is None
        return Capabilities(
            dtypes=("float32", "bfloat16"),
            quantizations=QUANTIZATIONS,
            default_token_budget=min(MAX_TOKEN_BUDGET, max(MIN_TOKEN_BUDGET, TOKENS_PER_THREAD * self._num_threads)),
            one_memory=True,
            warm_up_tokens=(8,),  # brings the weights' pages and the buffers; nothing is compiled
            quantizes_plain_inputs=True,
            reference_tolerance=1e-5,
            batch_tolerance=1e-6,
            keeps_narrow_embedding=True,
            kv_by_head=True,
            keeps_narrow_weights=has_kernels,
            keeps_groups={4: (None, *QUANTIZATIONS), 8: (None,)} if has_kernels else {},
            wider_parts={"int8": ("int16", INT16_LAYERS)},
        )

    def why_unavailable(self) -> str | None:
        return None

    def device(self, rank: int) -> torch.device:
        return torch.device("cpu")

    def auto_dtype(self, checkpoint_dtype: str) -> str:
        return "float32"

    def step_dtype(self, dtype: torch.dtype) -> torch.dtype:
        return torch.float32 if _obstacle(dtype, os.environ.get(KERNELS_VARIABLE, "")) is None else dtype

    def set_up(self, config: DeviceConfig, rank: int) -> tuple[str, ...]:
        cpus = sorted(os.sched_getaffinity(0))
        if config.cpu_threads is not None:
            try:
                self._num_threads = check_num_threads(config.cpu_threads)
            except ValueError as error:
                raise ConfigError(str(error), param="cpu_threads") from None
        elif config.tensor_parallel_size > 1:
            self._num_threads = max(1, default_num_threads() // config.tensor_parallel_size)
        self._pin = config.cpu_pin
        if not config.cpu_pin:
            return ()
        own = cpus[rank * self._num_threads : (rank + 1) * self._num_threads]
        if len(own) < self._num_threads:
            raise ConfigError(
                f"cpu_pin needs {self._num_threads} cores of its own for worker {rank}, but only {len(cpus)} cores "
                "are there for all workers; lower --cpu-threads"
            )
        os.sched_setaffinity(0, own)
        return (f"pinned to cores {', '.join(map(str, own))}",)

    def make_ops(self, device: torch.device, dtype: torch.dtype, quantization: str | None) -> tuple[Ops, str]:
        """The one place that chooses between the compiled kernels and plain torch.

        Raises ``ConfigError`` for a value of an environment variable that is none, and ``DeviceError`` for a
        quantisation without its kernels.
        """
        wanted = os.environ.get(KERNELS_VARIABLE, "")
        if wanted not in ("", "compiled", "torch"):
            raise ConfigError(f"{KERNELS_VARIABLE} is {wanted!r}; it can be compiled or torch")
        obstacle = _obstacle(dtype, wanted)
        if obstacle is None:
            from engine.kernels.cpu.ops import ISA_VARIABLE, CpuOps

            try:
                self._ops = CpuOps(self._num_threads, quantization, dtype=dtype, pin=self._pin)
            except ValueError as error:
                raise ConfigError(f"{ISA_VARIABLE}: {error}") from None
            return cast(Ops, self._ops), self._ops.description  # its methods take its own kind of weight only
        if quantization is not None or wanted == "compiled":
            raise DeviceError(f"{quantization or wanted} needs the compiled CPU kernels: {obstacle}")
        torch.set_num_threads(self._num_threads)
        return ReferenceOps(device, dtype), f"plain torch kernels, {self._num_threads} threads: {obstacle}"

    def tune(self, time_step: Callable[[Sequence[int]], float], largest: int) -> tuple[int, tuple[str, ...]]:
        from engine.backends.cpu.task_limits import choose_task_limits

        note = choose_task_limits(self._ops) if self._ops is not None else None
        return largest, (note,) if note else ()

    def ceilings(self, ops: Ops) -> dict[str, float]:
        if kernels_obstacle() is not None:
            return {}
        from engine.kernels.cpu.ops import CpuOps

        own: object = ops
        return {"linear": own.ceiling(), "attention": own.ceiling("float32")} if isinstance(own, CpuOps) else {}

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


def _obstacle(dtype: torch.dtype, wanted: str) -> str | None:
    """Why the compiled kernels do not run; None when they do."""
    if wanted == "torch":
        return f"{KERNELS_VARIABLE}=torch"
    if dtype not in (torch.float32, torch.bfloat16):
        return "the compiled kernels compute in float32 and bfloat16"
    return kernels_obstacle()


def _cgroup_value(name: str) -> int | None:
    try:
        text = (CGROUP / name).read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def backend() -> Backend:
    return CpuBackend()
