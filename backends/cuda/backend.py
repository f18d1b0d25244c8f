"""NVIDIA GPUs as a backend: what is there, what fits, and the choices that are made by measuring at load.

Nothing here imports Triton until the device is known to be usable, so ``--device auto`` costs a machine without a GPU
nothing.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from engine.backends.base import Backend, Capabilities, MemoryFacts
from engine.backends.crash_records import CrashRecords, cache_folder
from engine.backends.cuda.data_sheets import KEEPS_GROUPS, TOKEN_BUDGET
from engine.backends.cuda.memory import kv_cache_tokens, memory_limit
from engine.backends.cuda.transfer import Uploader, fetch
from engine.backends.self_test import as_table, require_all
from engine.config import DeviceConfig
from engine.errors import DeviceError
from engine.extras import pip_install
from engine.kernels.ops import AttentionMeta, LayerShape, Ops

if TYPE_CHECKING:
    from engine.backends.cuda.graphs import GraphedForward
    from engine.backends.cuda.ops import CudaOps

OLDEST = (8, 0)
"""Compute capability: Ampere is the first with bf16 and FlashAttention."""
OLDEST_FP8 = (8, 9)


class CudaBackend(Backend):
    name = "cuda"
    dist_backend = "nccl"
    dist_interface_variable = "NCCL_SOCKET_IFNAME"

    def __init__(self) -> None:
        self.config = DeviceConfig()
        self.ops: CudaOps | None = None
        self.graphed: GraphedForward | None = None
        self._limit: int | None = None
        self._uploader: Uploader | None = None

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            dtypes=("bfloat16", "float16", "float32"),
            quantizations=("fp8", "int4"),
            keeps_groups=KEEPS_GROUPS,
            default_token_budget=TOKEN_BUDGET,
            warm_up_tokens=(64, 1024),
            records_steps=True,
            draws_random_numbers=True,
        )

    def auto_dtype(self, checkpoint_dtype: str) -> str:
        return "float16" if checkpoint_dtype == "float16" else "bfloat16"

    def quantization_for(self, stored: str, dtype: torch.dtype) -> str | None:
        """int8 products have no good path on NVIDIA GPUs: W8A8 checkpoints are dequantised."""
        can = self.compute_capability(torch.device("cuda", 0)) >= OLDEST_FP8 and dtype == torch.bfloat16
        return "fp8" if stored == "fp8" and can else None

    def why_unavailable(self) -> str | None:
        if torch.version.cuda is None:
            return "this torch is built without CUDA; install a CUDA build of torch"
        if not torch.cuda.is_available():
            return "torch finds no NVIDIA GPU or driver (does nvidia-smi work? is CUDA_VISIBLE_DEVICES empty?)"
        capability = self.compute_capability(torch.device("cuda", 0))
        if capability < OLDEST:
            return (
                f"{torch.cuda.get_device_name(0)} has compute capability {_dotted(capability)}, but "
                f"{_dotted(OLDEST)} (Ampere) or newer is needed"
            )
        if importlib.util.find_spec("triton") is None:
            return f"the package triton is missing: {pip_install('cuda')}"
        return None

    def device(self, rank: int) -> torch.device:
        num_devices = torch.cuda.device_count()
        if rank >= num_devices:
            raise DeviceError(
                f"worker {rank} needs a GPU of its own, but torch sees {num_devices}; lower --tensor-parallel-size or "
                f"--data-parallel-size, or let this process see more (is CUDA_VISIBLE_DEVICES set?)"
            )
        return torch.device("cuda", rank)

    def set_up(self, config: DeviceConfig, rank: int) -> tuple[str, ...]:
        self.config = config
        device = self.device(rank)
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("highest")
        free, total = torch.cuda.mem_get_info(device)
        self._limit, note = memory_limit(config, free, total)
        torch.cuda.set_per_process_memory_fraction(min(1.0, self._limit / total), device)
        capability = _dotted(self.compute_capability(device))
        return f"{torch.cuda.get_device_name(device)}, compute capability {capability}", note

    def compute_capability(self, device: torch.device) -> tuple[int, int]:
        return torch.cuda.get_device_capability(device)

    def make_ops(self, device: torch.device, dtype: torch.dtype, quantization: str | None) -> tuple[Ops, str]:
        if quantization == "fp8":
            capability = self.compute_capability(device)
            if capability < OLDEST_FP8:
                raise DeviceError(
                    f"fp8 needs compute capability {_dotted(OLDEST_FP8)} (Ada, Hopper or newer), this GPU has "
                    f"{_dotted(capability)}; run without --quantization fp8"
                )
            if dtype != torch.bfloat16:
                raise DeviceError(f"fp8 products give bfloat16, not {str(dtype)[6:]}: use --dtype bfloat16 with fp8")
        from engine.backends.cuda.ops import CudaOps

        self.ops = CudaOps(device, dtype, fp8=quantization == "fp8", int4=quantization == "int4")
        products = (
            "cuBLAS products in fp8 with row-wise scales" if self.ops.fp8 else f"cuBLAS products in {str(dtype)[6:]}"
        )
        if self.ops.int4:
            products += " with weights of 4 bits"
        return self.ops, f"{products}, Triton kernels"

    # -- memory --------------------------------------------------------------------------------------------------

    def memory(self, device: torch.device) -> MemoryFacts:
        free, total = torch.cuda.mem_get_info(device)
        limit = total if self._limit is None else self._limit
        reserved = torch.cuda.memory_reserved(device)
        return MemoryFacts(limit, max(0, min(free + reserved, limit) - torch.cuda.memory_allocated(device)))

    def peak_memory_bytes(self, device: torch.device) -> int:
        return torch.cuda.max_memory_allocated(device)

    def kv_tokens(self, device: torch.device, config: DeviceConfig, wanted: int, bytes_per_token: int) -> int:
        return kv_cache_tokens(self.memory(device).free_bytes, wanted, bytes_per_token)

    def synchronize(self, device: torch.device) -> None:
        torch.cuda.synchronize(device)

    def empty_cache(self, device: torch.device) -> None:
        torch.cuda.empty_cache()

    def is_out_of_memory(self, error: BaseException) -> bool:
        text = str(error)
        return super().is_out_of_memory(error) or "out of memory" in text or "CUBLAS_STATUS_ALLOC_FAILED" in text

    def is_lost(self, error: BaseException) -> bool:
        """A fault in a kernel (an illegal address, say) leaves a context in which every later call fails."""
        return isinstance(error, torch.AcceleratorError) and not self.is_out_of_memory(error)

    # -- steps ---------------------------------------------------------------------------------------------------

    def upload(
        self, arrays: Sequence[np.ndarray], metas: Sequence[AttentionMeta], device: torch.device
    ) -> list[torch.Tensor]:
        """One copy for the step's rows and its ``metas``' attention tables, into a graph's buffer where one fits."""
        from engine.backends.cuda.attention import CACHE, PreparedAttention, step_tables
        from engine.backends.cuda.graphs import GRAPH

        if self._uploader is None:
            self._uploader = Uploader(device)
        heads = None if self.ops is None else self.ops.head_shape
        if self.ops is None or heads is None:  # the very first step: attention makes its own tables
            return self._uploader.upload(arrays, [])
        form = self.ops.form_for(metas[0])
        tables, numbers = step_tables(form, metas, heads[0] // heads[1])
        static = None if self.graphed is None else self.graphed.static_for(form, arrays, tables)
        if static is None:
            tensors = self._uploader.upload(arrays, tables)
        else:
            tensors = self._uploader.upload(arrays, tables, static.layout, static.buffer)
            metas[0].cache[GRAPH] = static
        on_device = tensors[len(arrays) :]
        for meta, own in zip(metas, numbers, strict=True):
            meta.cache[CACHE] = PreparedAttention(form, [on_device[number] for number in own])
        return tensors[: len(arrays)]

    def fetch(self, values: torch.Tensor) -> Callable[[], np.ndarray]:
        return fetch(values)

    def capture(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        from engine.backends.cuda.graphs import GraphedForward

        self.graphed = GraphedForward(forward)
        return self.graphed

    def self_test(self, shape: LayerShape) -> tuple[str, ...]:
        from engine.backends.cuda.self_test import try_ops

        assert self.ops is not None, "self_test before make_ops"
        name = self.name_of(self.ops.device)
        crash_records = CrashRecords(
            cache_folder("self-test", f"{name} torch {torch.__version__} triton {version('triton')}")
        )
        outcomes = try_ops(self.ops, shape, self.is_lost, crash_records)
        require_all(outcomes, name)
        return as_table("self-test of the kernels against plain torch (largest difference):", outcomes)

    def name_of(self, device: torch.device) -> str:
        return torch.cuda.get_device_name(device)

    def tune(self, time_step: Callable[[Sequence[int]], float], largest: int) -> tuple[int, tuple[str, ...]]:
        from engine.backends.cuda.tuning import Tuner

        assert self.ops is not None
        return Tuner(self, self.ops, self.graphed, time_step, eager=self.config.enforce_eager).run(largest)


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))


def backend() -> Backend:
    return CudaBackend()
