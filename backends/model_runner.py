"""Runs one step: plan -> tensors -> model and head -> values. It trusts the plan and judges nothing, not even NaN."""

from __future__ import annotations

import time

import numpy as np
import torch

from engine.backends.base import Backend, OutOfMemory
from engine.backends.kv_pool import KVPool, KVShape
from engine.backends.models import Model
from engine.backends.packed_batch import PackingRules, pack
from engine.model_spec import ModelSpec
from engine.step import ModelRunnerOutput, SchedulerOutput


class ModelRunner:
    """One model on one device with its pool of ``kv_capacity`` slots."""

    def __init__(
        self,
        model: Model,
        spec: ModelSpec,
        *,
        backend: Backend,
        device: torch.device,
        dtype: torch.dtype,
        kv_capacity: int,
    ) -> None:
        self.model, self.backend, self.device = model, backend, device
        self.pool = KVPool(model.kv_shape or KVShape(0, 0, 0), kv_capacity, dtype=dtype, device=device)
        self.rules = PackingRules(
            kv_capacity=kv_capacity,
            scale=model.scale,
            causal=spec.causal,
            read_first=spec.head.pooling == "cls",
            device=device,
        )

    def execute(self, plan: SchedulerOutput) -> ModelRunnerOutput:
        """Raises ``OutOfMemory`` if the step was too large; the device is then as it was before."""
        started = time.perf_counter()
        try:
            values = self._run(plan)
        except (MemoryError, RuntimeError) as error:
            if not self.backend.is_out_of_memory(error):
                raise
        else:
            return ModelRunnerOutput(plan.step_id, values, time.perf_counter() - started)
        # Only here, where the exception and with it the frames that hold tensors are gone, can the memory be returned.
        self.backend.empty_cache(self.device)
        raise OutOfMemory(f"a step of {plan.num_tokens} tokens did not fit into the memory of {self.device}")

    @torch.inference_mode()
    def _run(self, plan: SchedulerOutput) -> np.ndarray:
        values = self.model.forward(pack(plan, self.rules), self.pool)
        return values.float().cpu().numpy()

    def warm_up(self, num_tokens: int) -> None:
        """A step of the usual form, one parent and two children, so that libraries and kernels are ready."""
        parent = max(1, num_tokens // 2)
        lens = np.array([parent, max(1, num_tokens // 4), max(1, num_tokens // 4)], np.int32)
        plan = SchedulerOutput(
            step_id=-1,
            token_ids=np.zeros(int(lens.sum()), np.int32),
            segment_lens=lens,
            context_ids=np.array([-1, 0, 0], np.int32),
            context_indptr=np.array([0, 1], np.int32),
            context_ranges=np.array([[self.rules.kv_capacity, parent]], np.int32),
            keep_ranges=np.zeros((0, 3), np.int32),
            read_segments=np.array([1, 2], np.int32),
        )
        if not self.rules.causal:  # every pair is a segment of its own
            plan.context_ids = np.full(3, -1, np.int32)
        self.execute(plan)
