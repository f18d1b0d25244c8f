"""A device that answers at once: plans are packed as for a GPU, and the values are made up without computing anything.

``install`` puts it in the place of the real worker in this process. Packing is the real one, with the tables of the
Triton attention kernel for the heads of Qwen3-Reranker-0.6B where Triton is installed; only the copy to the device and
the model itself are missing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from engine.backends.packed_batch import PackingRules, pack, upload_each
from engine.config import EngineConfig
from engine.executor.base import StepError
from engine.model_spec import ModelSpec
from engine.step import ModelRunnerOutput, SchedulerOutput, TPRank, WorkerInfo

TOKEN_BUDGET = 16_384
KV_CAPACITY = 65_536
HEADS = (16, 8, 128)
"""Query heads, key heads, head size."""


def info(packing: str) -> WorkerInfo:
    return WorkerInfo(
        device="instant",
        dtype="bfloat16",
        kv_capacity=KV_CAPACITY,
        kv_bytes_per_token=1,
        max_num_batched_tokens=TOKEN_BUDGET,
        num_outputs=1,
        weight_bytes=0,
        load_s=0.0,
        notes=(packing,),
    )


def packing_rules() -> tuple[PackingRules, str]:
    """Those of a GPU, but for where the tensors lie; and which ones, in words."""
    upload, said = gpu_upload()
    device = torch.device("cpu")
    rules = PackingRules(
        kv_capacity=KV_CAPACITY, scale=HEADS[2] ** -0.5, causal=True, read_first=False, device=device, upload=upload
    )
    return rules, said


def gpu_upload() -> tuple[Callable[..., list[torch.Tensor]], str]:
    try:
        from engine.backends.cuda.backend import CudaBackend
        from engine.backends.cuda.ops import CudaOps
    except ImportError:
        return upload_each, "packed without attention tables: Triton is not installed"
    backend = CudaBackend()
    backend.ops = CudaOps(torch.device("cpu"), torch.bfloat16)
    backend.ops.head_shape = HEADS
    return backend.upload, "packed with the tables of the Triton attention kernel"


def answer(plan: SchedulerOutput) -> ModelRunnerOutput:
    values = plan.segment_lens[plan.read_segments].astype(np.float32).reshape(-1, 1) / np.float32(1000)
    return ModelRunnerOutput(plan.step_id, values, 1e-6)


class InstantWorker:
    """In the place of ``engine.backends.worker.Worker``."""

    def __init__(self, config: EngineConfig, spec: ModelSpec, rank: int = 0, tp_rank: TPRank | None = None) -> None:
        self._rules, self._packing = packing_rules()

    def load(self) -> WorkerInfo:
        return info(self._packing)

    def launch(self, plan: SchedulerOutput) -> Callable[[], ModelRunnerOutput]:
        with torch.inference_mode():
            pack(plan, self._rules)
        return lambda: answer(plan)

    def is_lost(self, error: BaseException) -> bool:
        return False

    def close(self) -> None:
        """Nothing is held."""


def install() -> None:
    """From now on workers of this process are instant ones."""
    from engine.backends import worker

    torch.set_num_threads(1)
    worker.Worker = InstantWorker  # type: ignore[assignment, misc]


@dataclass
class InstantExecutor:
    """Packs and answers in the calling thread; ``pack_s`` adds up what packing cost."""

    rules: PackingRules
    info: WorkerInfo
    pack_s: float = 0.0
    num_steps: int = 0

    @classmethod
    def new(cls) -> InstantExecutor:
        torch.set_num_threads(1)  # a second thread that copies a kilobyte would be waited for
        rules, packing = packing_rules()
        return cls(rules, info(packing))

    def submit(self, plan: SchedulerOutput) -> Future[ModelRunnerOutput]:
        started = time.thread_time()
        with torch.inference_mode():
            pack(plan, self.rules)
        self.pack_s += time.thread_time() - started
        self.num_steps += 1
        future: Future[ModelRunnerOutput] = Future()
        future.set_result(answer(plan))
        return future

    def kill_hung(self) -> bool:
        return False

    def recover(self, failure: StepError) -> None:
        raise failure

    def close(self) -> None:
        """Nothing is held."""


def processor_us(run: Callable[[], Any]) -> float:
    """Processor time of all threads of this process while ``run`` runs, in microseconds."""
    started = time.process_time()
    run()
    return (time.process_time() - started) * 1e6
