"""A worker without a model: it keeps token ids where a real one keeps keys and values.

The "logit" of a pair is a hash of every token the segment can see, read through the plan's own context ranges and keep
ranges. So a plan that loses, duplicates or misplaces a single token gives a wrong score, and scheduler, core, clients
and server are tested to the last index without torch.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np

from engine.errors import ModelLoadError
from engine.executor import StepError
from engine.messages import AdapterChange, LoadAdapter
from engine.step import Blame, ModelRunnerOutput, SchedulerOutput, WorkerInfo


def fake_logit(token_ids: Sequence[int] | np.ndarray) -> float:
    """What the fake worker answers for a pair with these tokens."""
    return float(zlib.crc32(np.asarray(token_ids, np.int32).tobytes()) % 20011 - 10005) / 1000.0


def fake_info(kv_capacity: int = 512, budget: int = 64) -> WorkerInfo:
    return WorkerInfo(
        device="fake",
        dtype="float32",
        kv_capacity=kv_capacity,
        kv_bytes_per_token=4,
        max_num_batched_tokens=budget,
        num_outputs=1,
        weight_bytes=0,
        load_s=0.0,
    )


class FakeRunner:
    """Executes plans on token ids. ``poison`` tokens make a step fail."""

    def __init__(self, kv_capacity: int = 512, poison: int | None = None) -> None:
        self.kv_cache = np.full(kv_capacity, -1, np.int32)
        self.poison = poison
        self.device_s = 0.001
        self.plans: list[SchedulerOutput] = []

    def execute(self, scheduler_output: SchedulerOutput) -> ModelRunnerOutput:
        self.plans.append(scheduler_output)
        if self.poison is not None and self.poison in scheduler_output.token_ids:
            raise RuntimeError("poisoned step")
        ends = np.cumsum(scheduler_output.segment_lens)
        values = []
        for position in scheduler_output.read_segments:
            own = scheduler_output.token_ids[ends[position] - scheduler_output.segment_lens[position] : ends[position]]
            context = self.context(scheduler_output, int(scheduler_output.context_ids[position]))
            assert -1 not in context, "a slot is read that nobody wrote"
            values.append(fake_logit(np.concatenate([context, own])))
        for row, slot, length in scheduler_output.keep_ranges:
            self.kv_cache[slot : slot + length] = scheduler_output.token_ids[row : row + length]
        return ModelRunnerOutput(scheduler_output.step_id, np.array(values, np.float32).reshape(-1, 1), self.device_s)

    def context(self, scheduler_output: SchedulerOutput, context_id: int) -> np.ndarray:
        parts = [np.zeros(0, np.int32)]
        if context_id >= 0:
            lo, hi = scheduler_output.context_indptr[context_id : context_id + 2]
            for start, length in scheduler_output.context_ranges[lo:hi]:
                source, start = (
                    (self.kv_cache, start)
                    if start < len(self.kv_cache)
                    else (
                        scheduler_output.token_ids,
                        start - len(self.kv_cache),
                    )
                )
                parts.append(source[start : start + length])
        return np.concatenate(parts)


class FakeExecutor:
    """Runs steps at once, or when ``release`` is called (``hold=True``)."""

    def __init__(self, info: WorkerInfo, *, hold: bool = False, poison: int | None = None) -> None:
        self.info = info
        self.runner = FakeRunner(info.kv_capacity, poison)
        self.hold = hold
        self.queue: list[tuple[SchedulerOutput, Future[ModelRunnerOutput]]] = []
        self.num_recoveries = 0
        self.closed = False
        self.changes: list[tuple[AdapterChange, Future[None]]] = []
        """Changes of adapters, which ``hold`` leaves undone."""
        self.unloadable: set[str] = set()
        """Names of adapters whose files are no adapters."""
        self.asleep = False

    def submit(self, scheduler_output: SchedulerOutput) -> Future[ModelRunnerOutput]:
        future: Future[ModelRunnerOutput] = Future()
        self.queue.append((scheduler_output, future))
        if not self.hold:
            self.release()
        return future

    def release(self) -> None:
        while self.queue:
            scheduler_output, future = self.queue.pop(0)
            try:
                future.set_result(self.runner.execute(scheduler_output))
            except RuntimeError as error:
                from engine.errors import StepFailedError

                future.set_exception(StepError(StepFailedError(str(error)), worker_lost=True))
                for _, lost in self.queue:
                    lost.set_exception(StepError(StepFailedError(str(error)), worker_lost=True))
                self.queue.clear()

    def kill_hung(self) -> bool:
        return False

    def recover(self, failure: StepError, blame: Blame) -> None:
        self.num_recoveries += 1
        self.runner.kv_cache[:] = -1

    def change_adapters(self, change: AdapterChange) -> Future[None]:
        future: Future[None] = Future()
        self.changes.append((change, future))
        if not self.hold:
            self.change()
        return future

    def change(self) -> None:
        """Do, or refuse, the changes that were held."""
        for change, future in self.changes:
            if future.done():
                continue
            if isinstance(change, LoadAdapter) and change.name in self.unloadable:
                future.set_exception(ModelLoadError("this is no adapter"))
            else:
                future.set_result(None)

    def sleep(self) -> None:
        self.asleep = True

    def wake_up(self) -> None:
        self.asleep = False
        self.runner.kv_cache[:] = -1

    def close(self) -> None:
        self.closed = True
