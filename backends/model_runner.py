"""Runs one step: arrays -> tensors -> model and head -> values. It trusts the arrays and judges nothing, nor NaN."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from engine.backends.base import Backend, OutOfMemory
from engine.backends.kv_cache import KVCache, KVShape
from engine.backends.models import Model
from engine.backends.nn.adapters import Adapters
from engine.backends.packed_batch import PackingRules, pack
from engine.model_spec import ModelSpec
from engine.step import ModelRunnerOutput, SchedulerOutput


class ModelRunner:
    """One model on one device with its KV cache of ``kv_capacity`` slots."""

    def __init__(
        self,
        model: Model,
        spec: ModelSpec,
        *,
        backend: Backend,
        device: torch.device,
        dtype: torch.dtype,
        kv_capacity: int,
        adapters: Adapters | None = None,
        graphs: bool = True,
    ) -> None:
        """``graphs``: small steps may be recorded; not where they wait for other workers, or are profiled."""
        self.model, self.backend, self.device = model, backend, device
        self.max_model_len = spec.max_model_len
        self.kv_capacity = kv_capacity
        by_head = backend.capabilities.kv_by_head
        recorded = model.graphable and graphs and backend.capabilities.records_steps
        self.kv_cache = KVCache(
            model.kv_shape or KVShape(0, 0, 0),
            kv_capacity,
            dtype=dtype,
            device=device,
            by_head=by_head,
            spare=recorded,
        )
        self.rules = PackingRules(
            kv_capacity=kv_capacity,
            scale=model.scale,
            causal=spec.causal,
            read_first=spec.head.pooling == "cls",
            device=device,
            upload=backend.upload,
        )
        self.forward = backend.capture(model.forward) if model.graphable and graphs else model.forward
        self.adapters = adapters
        self._last_done_s = 0.0

    def execute(self, scheduler_output: SchedulerOutput) -> ModelRunnerOutput:
        return self.launch(scheduler_output)()

    def launch(self, scheduler_output: SchedulerOutput) -> Callable[[], ModelRunnerOutput]:
        """Hand a step to the device; the returned function waits for its values, so the next can be packed meanwhile.

        Raises ``OutOfMemory`` if the step was too large; the device is then as it was before.
        """
        started = time.perf_counter()
        try:
            fetch = self._launch(scheduler_output)
        except (MemoryError, RuntimeError) as error:
            if not self.backend.is_out_of_memory(error):
                raise
        else:
            return lambda: self._finish(scheduler_output.step_id, started, fetch)
        # Only here, where the exception and with it the frames that hold tensors are gone, can the memory be returned.
        self.backend.empty_cache(self.device)
        raise OutOfMemory(
            f"a step of {scheduler_output.num_tokens} tokens did not fit into the memory of {self.device}"
        )

    @torch.inference_mode()
    def _launch(self, scheduler_output: SchedulerOutput) -> Callable[[], np.ndarray]:
        if self.adapters is not None:
            self.adapters.use(scheduler_output.adapter)
        # What was captured is the base model alone, on words alone.
        plain = scheduler_output.adapter is None and scheduler_output.position_shifts is None
        forward = self.forward if plain else self.model.forward
        return self.backend.fetch(forward(pack(scheduler_output, self.rules), self.kv_cache).float())

    def _finish(self, step_id: int, started_s: float, fetch: Callable[[], np.ndarray]) -> ModelRunnerOutput:
        values = fetch()
        done_s = time.perf_counter()
        busy_s, self._last_done_s = done_s - max(started_s, self._last_done_s), done_s
        return ModelRunnerOutput(step_id, values, busy_s)

    def warm_up(self, num_tokens: int) -> None:
        """A step of the usual form, one parent and two children, so that libraries and kernels are ready."""
        self.time_step([max(1, num_tokens // 2), max(1, num_tokens // 4), max(1, num_tokens // 4)])

    def time_step(self, lengths: Sequence[int]) -> float:
        """Seconds of a step whose first segment is the context of all others (of none in an encoder); all are read.

        Segments that would be longer than the model takes are cut; the step has as many tokens as was asked for.
        """
        lengths = self._cut(lengths)
        children = len(lengths) - 1 if self.rules.causal else 0
        scheduler_output = SchedulerOutput(
            step_id=-1,
            token_ids=np.zeros(sum(lengths), np.int32),
            segment_lens=np.array(lengths, np.int32),
            context_ids=np.array([-1] * (len(lengths) - children) + [0] * children, np.int32),
            context_indptr=np.array([0, 1], np.int32),
            context_ranges=np.array([[self.rules.kv_capacity, lengths[0]]], np.int32),
            keep_ranges=np.zeros((0, 3), np.int32),
            read_segments=np.arange(len(lengths), dtype=np.int32),
        )
        started = time.perf_counter()
        self.execute(scheduler_output)
        return time.perf_counter() - started

    def _cut(self, lengths: Sequence[int]) -> list[int]:
        """The same number of tokens in segments that end within the model's longest pair."""
        first = min(lengths[0], max(1, self.max_model_len // 2)) if self.rules.causal else 0
        longest = max(1, self.max_model_len - first)
        rest = [lengths[0] - first, *lengths[1:]]
        pieces = [min(longest, length - start) for length in rest for start in range(0, length, longest)]
        return [first, *pieces] if first else pieces
