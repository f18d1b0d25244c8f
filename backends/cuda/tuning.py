"""What is decided by measuring once the model is loaded: attention form, graphs, step time, token budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

from engine.backends.base import Backend
from engine.backends.cuda.attention import (
    AttentionForm,
    GatherForm,
    RangeForm,
    choose_form,
    measure_forms,
    sample_step,
)
from engine.backends.cuda.graphs import BUCKETS, GraphedForward, GraphRecorder, Recorder
from engine.backends.cuda.memory import GIB
from engine.backends.cuda.ops import CudaOps
from engine.backends.cuda.planner import StepSample, choose_token_budget, fit_step_time
from engine.errors import OutOfMemoryError
from engine.kernels.triton.attention import candidate_configs

SMALL_STEP = 2048
SIZES = (512, 1024, 2048, 4096, 8192, 16_384, 32_768)
SHORT, LONG = 128, 2048
"""Tokens of the segments that steps are measured with."""
REPEATS = 3
ATTENTION_REPEATS = 10
ATTENTION_STEPS = {"small": [(90, [180] * 4)], "large": [(90, [180] * 32), (16, [LONG] * 2)]}
"""Parent and children of the steps in which attention forms are compared."""


class Tuner:
    def __init__(
        self,
        backend: Backend,
        ops: CudaOps,
        graphed: GraphedForward | None,
        time_step: Callable[[Sequence[int]], float],
        *,
        eager: bool,
    ) -> None:
        """``eager``: no graphs, as ``enforce_eager`` asks."""
        self.backend = backend
        self.eager = eager
        self.ops = ops
        self.graphed = graphed
        self.time_step = time_step

    def run(self, largest: int) -> tuple[int, tuple[str, ...]]:
        notes = list(self._choose_attention(largest))
        if self.ops.grouped.examples:
            notes.append(self.ops.grouped.choose(self.ops.forms, largest, self._seconds_of, self.backend.is_lost))
        notes += self._capture(largest)
        try:
            budget, more = self._choose_budget(largest)
        except Exception as error:
            if self.backend.is_lost(error) or isinstance(error, OutOfMemoryError):
                raise
            reason = " ".join(str(error).split())[:200]
            budget = min(largest, SMALL_STEP)
            more = [f"token budget {budget}, not measured: {type(error).__name__}: {reason}"]
        return budget, (*notes, *more)

    def _choose_attention(self, largest: int) -> list[str]:
        """Small steps and large ones may prefer different forms."""
        assert self.ops.head_shape is not None, "tuning comes after the first step"
        scale = self.ops.head_shape[2] ** -0.5
        plain: list[AttentionForm] = [] if self.ops.dtype == torch.float32 else [GatherForm()]
        forms = [*plain, *map(RangeForm, candidate_configs(self.ops.dtype, self.ops.head_shape[2]))]
        notes = []
        for name, steps in ATTENTION_STEPS.items():
            metas = [sample_step(prefix, lengths, self.ops.device, scale) for prefix, lengths in steps]
            measured = measure_forms(
                forms,
                metas,
                self.ops.head_shape,
                dtype=self.ops.dtype,
                seconds_of=self._seconds_of,
                is_lost=self.backend.is_lost,
            )
            if name == "small" and not self.eager:  # graphs replay the range kernel only
                measured = [row for row in measured if isinstance(row.form, RangeForm) and row.agrees] or measured
            form, note = choose_form(measured)
            setattr(self.ops, f"{name}_form", form)
            notes.append(f"{name} steps: {note}")
        self.ops.small_tokens = min(SMALL_STEP, largest)
        return notes

    def _seconds_of(self, run: Callable[[], object]) -> float:
        """One call on the device, from a graph of several: the host's launches take longer than a small kernel."""
        if self.ops.device.type != "cuda":
            started = time.perf_counter()
            run()
            return time.perf_counter() - started

        def several() -> None:
            for _ in range(ATTENTION_REPEATS):
                run()

        replay = several
        try:
            replay = GraphRecorder()(several)
            replay()
        except RuntimeError as error:  # a form that cannot be recorded is timed with its launches
            if self.backend.is_lost(error):
                raise
            replay = several
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        replay()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / ATTENTION_REPEATS

    def _capture(self, largest: int) -> list[str]:
        """Graphs of every size below the largest that gains by one; lines for the log."""
        if self.graphed is None or self.eager:
            return ["no CUDA graphs, as asked"]
        if not isinstance(self.ops.small_form, RangeForm):
            return ["no CUDA graphs: the attention form of small steps reads lengths on the host"]
        before = torch.cuda.memory_allocated(self.ops.device)
        sizes = [size for size in BUCKETS if size <= largest] or [largest]
        least = min(sizes)  # a sample that every graph has room for
        self.time_step([least - least // 2, least // 4, least // 4] if least >= 4 else [least])
        try:
            notes = self._capture_sizes(sizes)
        except Exception as error:
            if self.backend.is_lost(error):
                raise
            self.graphed.forget()
            return [f"no CUDA graphs: {type(error).__name__}: {' '.join(str(error).split())[:200]}"]
        if not self.graphed.sizes:
            return [*notes, "no CUDA graphs: no step is faster with one"]
        used, count = torch.cuda.memory_allocated(self.ops.device) - before, len(self.graphed.sizes)
        top = self.graphed.sizes[-1]
        return [*notes, f"CUDA graphs for steps up to {top} tokens ({count} sizes, {used / GIB:.2f} GiB)"]

    def _capture_sizes(self, sizes: Sequence[int]) -> list[str]:
        """The largest first, so that all share its memory; of those, every doubling is tried until one gains."""
        assert self.graphed is not None
        record, notes = GraphRecorder(), []
        doublings = {size for size in sizes if size & (size - 1) == 0} | {min(sizes)}
        for size in sorted(sizes, reverse=True):
            if not self.graphed.sizes and size not in doublings:
                continue
            try:
                eager_s = None if self.graphed.sizes else self._fastest(size)
                if not self._record(size, record):
                    continue
                if eager_s is not None and (replayed_s := self._fastest(size)) > eager_s:
                    self.graphed.drop(size)
                    notes.append(
                        f"a graph of {size} tokens takes {replayed_s * 1e3:.2f} ms, launches {eager_s * 1e3:.2f}"
                    )
            except Exception as error:
                if self.backend.is_lost(error) or not self._is_out_of_memory(error):
                    raise
                self.graphed.drop(size)
                notes.append(f"a graph of {size} tokens does not fit into the memory")
        return notes

    def _record(self, size: int, record: Recorder) -> bool:
        """Whether there is a form of attention for that size that a graph can hold."""
        form = self.ops.small_form if size <= self.ops.small_tokens else self.ops.large_form
        if not isinstance(form, RangeForm) or self.ops.head_shape is None or self.graphed is None:
            return False
        heads, kv_heads, _ = self.ops.head_shape
        self.graphed.capture(size, form, heads // kv_heads, record)
        return True

    def _is_out_of_memory(self, error: Exception) -> bool:
        return isinstance(error, OutOfMemoryError) or self.backend.is_out_of_memory(error)

    def _fastest(self, size: int) -> float:
        """Seconds of a step of so many tokens, in segments of usual length."""
        lengths = [SHORT] * (size // SHORT) or [size]
        self.time_step(lengths)
        return min(self.time_step(lengths) for _ in range(REPEATS))

    def _choose_budget(self, largest: int) -> tuple[int, list[str]]:
        """Measure steps of growing size until one is too large; then the smallest that is nearly as good as any."""
        device, samples, sizes, notes = self.ops.device, [], [], []
        step_bytes = 0
        for size in [size for size in SIZES if size <= largest] or [largest]:
            base = torch.cuda.memory_allocated(device)
            torch.cuda.reset_peak_memory_stats(device)
            try:
                samples.append(self._measure([SHORT] * (size // SHORT) or [size]))
                if size >= 2 * LONG:
                    samples.append(self._measure([LONG] * (size // LONG)))
            except OutOfMemoryError:
                notes.append(f"a step of {size} tokens does not fit: memory limits the token budget")
                break
            sizes.append(size)
            step_bytes = torch.cuda.max_memory_allocated(device) - base
        if not sizes:
            raise OutOfMemoryError(f"not even a step of {min(SIZES)} tokens fits beside the weights and the KV cache")
        step_time = fit_step_time(samples)
        budget = choose_token_budget(step_time, sizes, SHORT)
        self.backend.empty_cache(device)
        held, allowed = torch.cuda.memory_allocated(device), self.backend.memory(device).total_bytes
        notes.append(f"step time {step_time}; token budget {budget}")
        notes.append(
            f"memory: {held / GIB:.2f} GiB for weights, KV cache and graphs, {step_bytes / GIB:.2f} GiB measured for a "
            f"step of {sizes[-1]} tokens, {allowed / GIB:.2f} GiB allowed"
        )
        return budget, notes

    def _measure(self, lengths: list[int]) -> StepSample:
        self.time_step(lengths)
        seconds = min(self.time_step(lengths) for _ in range(REPEATS))
        first, *others = lengths
        work = first * first // 2 + sum(length * first + length * length // 2 for length in others)
        return StepSample(sum(lengths), work, seconds)
