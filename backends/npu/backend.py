"""Ascend NPUs as a backend: devices, dtypes, memory and waiting through ``torch_npu.npu``; its ops are ``kernels/npu``.

Nothing here imports torch_npu until it is asked for, so ``--device auto`` costs a machine without an NPU nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from engine.backends.base import Backend, Capabilities, MemoryFacts
from engine.backends.npu import faults, memory
from engine.backends.npu.data_sheets import KEEPS_GROUPS, TOKEN_BUDGET, TOKEN_BUDGET_310P
from engine.backends.npu.environment import (
    EXPANSION_MODE,
    VECTOR_CORES,
    VISIBLE_DEVICES,
    versions,
    why_cannot_open,
    why_unavailable,
)
from engine.backends.self_test import as_table, require_all
from engine.config import DeviceConfig
from engine.errors import DeviceError
from engine.kernels.ops import AttentionMeta, LayerShape, Ops

if TYPE_CHECKING:
    from engine.backends.npu.graphs import StepGraphs
    from engine.backends.npu.transfer import Uploader
    from engine.kernels.npu.ops import NpuOps
    from engine.kernels.npu.soc import Soc

TABLED = ("block table", "gathered", "npu_fusion_attention")
"""Forms of attention whose tables go up with the step."""


class NpuBackend(Backend):
    name = "npu"
    dist_backend = "hccl"
    dist_interface_variable = "HCCL_SOCKET_IFNAME"

    def __init__(self) -> None:
        self._config = DeviceConfig()
        self._graphs: StepGraphs | None = None
        self._ops: NpuOps | None = None

    @cached_property
    def _npu(self) -> Any:
        import torch_npu  # late: without CANN the import fails, and asking about the backend must not

        return torch_npu.npu

    @cached_property
    def _uploader(self) -> Uploader:
        from engine.backends.npu.transfer import Uploader

        return Uploader()

    @cached_property
    def _soc(self) -> Soc:
        from engine.kernels.npu.soc import Soc

        return Soc(self._npu.get_device_name())

    @property
    def capabilities(self) -> Capabilities:
        narrow = self._soc.is_inference_series
        return Capabilities(
            dtypes=self._soc.dtypes,
            quantizations=self._soc.quantizations,
            default_token_budget=TOKEN_BUDGET_310P if narrow else TOKEN_BUDGET,
            keeps_groups={} if narrow else KEEPS_GROUPS,
        )

    def auto_dtype(self, checkpoint_dtype: str) -> str:
        """float32 is for comparisons: it is computed only when asked for."""
        dtypes = [dtype for dtype in self.capabilities.dtypes if dtype != "float32"]
        return checkpoint_dtype if checkpoint_dtype in dtypes else dtypes[0]

    def why_unavailable(self) -> str | None:
        return why_unavailable()

    def device(self, rank: int) -> torch.device:
        return torch.device("npu", rank)

    def set_up(self, config: DeviceConfig, rank: int) -> tuple[str, ...]:
        count = self._npu.device_count()
        if rank >= count:
            raise DeviceError(
                f"worker {rank} needs an NPU of its own, but {count} are visible; lower --tensor-parallel-size or "
                f"--data-parallel-size, or extend {VISIBLE_DEVICES}"
            )
        try:
            self._npu.set_device(rank)
        except RuntimeError as error:
            raise DeviceError(why_cannot_open(error, rank, count)) from error
        if reason := self._soc.why_unsupported:
            raise DeviceError(reason)
        if not self._soc.is_inference_series:
            os.environ.setdefault(EXPANSION_MODE, VECTOR_CORES)  # read when the workers meet
        notes = [versions().note()]
        if not self._soc.is_known:
            notes.append(f"{self._soc.name} is a chip whose operators were not compared: the self-test decides")
        notes += self._settle()
        self._config = config
        limit = self.memory(self.device(rank)).total_bytes
        notes.append(f"{self._soc.name}, {count} visible, may use {limit / memory.GIB:.1f} GiB")
        free, total = self._npu.mem_get_info(self.device(rank))
        return (*notes, *memory.occupied_note(free, total), *self._why_no_graphs(), *_unpinned_note())

    def _settle(self) -> list[str]:
        """The choices that results and speed depend on. Where one is refused the start goes on, with a line."""
        notes = []

        def jit_off() -> None:
            self._npu.set_compile_mode(jit_compile=False)  # compiled per shape, every new step length would stall

        def formats_on() -> None:
            self._npu.config.allow_internal_format = True  # FRACTAL_NZ weights

        def exact_fp32() -> None:
            self._npu.matmul.allow_hf32 = False  # the score head is fp32 and must stay it

        for what, settle in (("jit_compile", jit_off), ("internal formats", formats_on), ("hf32", exact_fp32)):
            try:
                settle()
            except (RuntimeError, AttributeError) as error:
                notes.append(f"torch_npu refused to set {what} ({faults.first_line(error)}): left as it is")
        return notes

    def make_ops(self, device: torch.device, dtype: torch.dtype, quantization: str | None) -> tuple[Ops, str]:
        from engine.kernels.npu.ops import NpuOps

        if quantization is not None and dtype == torch.float32:
            raise DeviceError(f"quantization {quantization} computes in bfloat16 or float16; leave --dtype on auto")
        int8, int4 = quantization == "w8a8", quantization == "int4"
        ops = self._ops = NpuOps(device, dtype, self._soc, int8=int8, int4=int4)
        if self._soc.is_inference_series:
            return ops, "ops: torch_npu; attention npu_prompt_flash_attention on padded groups (310P has no packed one)"
        width = str(dtype).removeprefix("torch.")
        weights = "int8 weights in FRACTAL_NZ" if int8 else f"{width} weights"
        if int4:
            weights = f"weights of 4 bits where npu_weight_quant_batchmatmul takes them, else {width}"
        return ops, (
            f"ops: torch_npu, {weights}; attention npu_fused_infer_attention_score by block tables for causal models "
            "in float16 or bfloat16, else npu_fusion_attention"
        )

    def memory(self, device: torch.device) -> MemoryFacts:
        free, total = self._npu.mem_get_info(device)
        allocated, reserved = self._npu.memory_allocated(device), self._npu.memory_reserved(device)
        return memory.facts(memory.memory_limit(self._config, total), free, allocated, reserved)

    def peak_memory_bytes(self, device: torch.device) -> int:
        return int(self._npu.max_memory_allocated(device))

    def quantization_for(self, stored: str, dtype: torch.dtype) -> str | None:
        return super().quantization_for(stored, dtype) if dtype != torch.float32 else None

    def kv_tokens(self, device: torch.device, config: DeviceConfig, wanted: int, bytes_per_token: int) -> int:
        return memory.kv_cache_tokens(self.memory(device).free_bytes, wanted, bytes_per_token)

    def synchronize(self, device: torch.device) -> None:
        self._npu.synchronize(device)

    def empty_cache(self, device: torch.device) -> None:
        self._npu.empty_cache()

    def is_out_of_memory(self, error: BaseException) -> bool:
        return faults.is_out_of_memory(error)

    def is_lost(self, error: BaseException) -> bool:
        """After a fault of the device every later call of this process fails."""
        return faults.lost_code(error) is not None

    def upload(
        self, arrays: Sequence[np.ndarray], metas: Sequence[AttentionMeta], device: torch.device
    ) -> list[torch.Tensor]:
        if self._npu.current_device() != device.index:
            self._npu.set_device(device)  # a fact of each thread, and steps may be launched by another than loaded
        form = None if self._ops is None else self._ops.forms.attention
        if form not in TABLED:  # the very first step, or attention that makes tables of its own
            return self._uploader.upload(arrays, device)
        from engine.backends.npu.transfer import upload_step

        return upload_step(self._uploader, arrays, metas, device, paged=form == "block table")

    def fetch(self, values: torch.Tensor) -> Callable[[], np.ndarray]:
        from engine.backends.npu.transfer import fetch

        return fetch(values)

    def capture(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        if self._why_no_graphs():
            return forward
        from engine.backends.npu.graphs import StepGraphs

        self._graphs = StepGraphs(forward)
        return self._graphs

    def self_test(self, shape: LayerShape) -> tuple[str, ...]:
        from engine.backends.npu.self_test import try_ops

        assert self._ops is not None, "self_test before make_ops"
        forms, outcomes = try_ops(self._ops, shape)
        require_all(outcomes, self._soc.name)
        self._ops.use(forms)
        return as_table("self-test of the operators against plain torch (largest difference):", outcomes)

    def tune(self, time_step: Callable[[Sequence[int]], float], largest: int) -> tuple[int, tuple[str, ...]]:
        from engine.backends.npu.tuning import tune

        return tune(time_step, largest, self._graphs)

    def _why_no_graphs(self) -> tuple[str, ...]:
        if self._config.enforce_eager:
            return ("no ACL graphs, as asked",)
        if self._soc.is_inference_series:
            return ("no ACL graphs: the attention of 310P takes a mask that is made anew for each step",)
        if self._config.tensor_parallel_size > 1:
            return ("no ACL graphs: a collective inside a captured graph is not documented",)
        return ()


def _unpinned_note() -> tuple[str, ...]:
    from engine.backends.npu.transfer import PINNED_VARIABLE, copies_are_pinned

    if copies_are_pinned():
        return ()
    return (f"copies from pageable memory, as {PINNED_VARIABLE}=0 asks: each waits for the stream",)


def backend() -> Backend:
    return NpuBackend()
