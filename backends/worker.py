"""A worker: one device, one model on it. Loads it, says what it is, and runs the steps it is given.

How steps reach it (a call in the same process, a socket) is not known here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from engine.backends.base import Backend, OutOfMemory
from engine.backends.loading.adapter_files import LoadedAdapters
from engine.backends.measure.profiler import Profiler
from engine.backends.model_loading import LoadedModel, ModelLoader, choose_dtype
from engine.backends.model_runner import ModelRunner
from engine.backends.registry import choose_backend
from engine.backends.tensor_parallel import LOADING_TIMEOUT_S, TPGroup, join_tp_group
from engine.checkpoint.fingerprint import fingerprint
from engine.config import EngineConfig
from engine.errors import ConfigError, DeviceError, ModelLoadError
from engine.messages import AdapterChange, LoadAdapter
from engine.model_spec import ModelSpec
from engine.step import ModelRunnerOutput, SchedulerOutput, TPRank, WorkerInfo
from engine.step_limits import StepLimits, check_kv_cache, resolve_limits


class Worker:
    """``load`` first, then ``execute`` any number of times, then ``close``."""

    def __init__(self, config: EngineConfig, spec: ModelSpec, rank: int = 0, tp_rank: TPRank | None = None) -> None:
        """``rank``: the number of the device; ``tp_rank``: which share of the model it has (None: all of it)."""
        self.config, self.spec, self.rank, self.tp_rank = config, spec, rank, tp_rank or TPRank()
        self.tp_group = TPGroup()
        self.runner: ModelRunner | None = None
        self._backend: Backend | None = None
        self.profiler: Profiler | None = None

    def load(self) -> WorkerInfo:
        """Loads the model, and gets ready for steps.

        Raises ``ConfigError``, ``ModelLoadError``, or ``DeviceError`` where the model does not fit.
        """
        started = time.perf_counter()
        size = self.config.device.tensor_parallel_size
        if size != self.tp_rank.size:
            raise ConfigError(f"tensor_parallel_size is {size}, but this worker is one of {self.tp_rank.size}")
        backend, device, notes = self._set_up_device()
        dtype = choose_dtype(self.config, self.spec, backend)
        limits = self._wanted_limits(backend)
        self.tp_group = group = join_tp_group(self.tp_rank, backend, self.config.device.step_timeout_s)
        with _memory_named(backend, f"{self.spec.name} does not fit into the memory of {device}"):
            loaded = self._load_model(backend, device, getattr(torch, dtype))
            budget = group.all_reduce_min("token budget", limits.token_budget, LOADING_TIMEOUT_S)
            runner = self.runner = self._make_runner(loaded, backend, device, limits.kv_tokens)
            budget, tuning_notes = self._get_ready(runner, budget)
        if self.profiler is not None:
            self.profiler.reset()
        return WorkerInfo(
            device=str(device),
            dtype=dtype,
            kv_capacity=runner.kv_capacity,
            kv_bytes_per_token=loaded.kv_bytes_per_token,
            max_num_batched_tokens=budget,
            num_outputs=loaded.model.num_outputs,
            weight_bytes=loaded.num_bytes,
            load_s=time.perf_counter() - started,
            peak_memory_bytes=backend.peak_memory_bytes(device),
            notes=(*notes, *loaded.notes, *tuning_notes),
            fingerprint=self.spec.fingerprint,
        )

    def _set_up_device(self) -> tuple[Backend, torch.device, list[str]]:
        """The backend and its device, profiled if that is wanted, and the notes on them."""
        self._backend, reason = choose_backend(self.config.device.device)
        notes = [reason, *self._backend.set_up(self.config.device, self.rank)]
        device = self._backend.device(self.rank)
        folder = self.config.device.profile
        if folder is not None:
            self.profiler = Profiler(folder, self.rank, self._backend, device)
            notes.append(f"profiled into {folder}: ops wait for each other, no graphs")
        return self._backend, device, notes

    def _wanted_limits(self, backend: Backend) -> StepLimits:
        return resolve_limits(
            self.config.scheduler,
            causal=self.spec.causal,
            max_model_len=self.spec.max_model_len,
            default_token_budget=backend.capabilities.default_token_budget,
        )

    def _load_model(self, backend: Backend, device: torch.device, dtype: torch.dtype) -> LoadedModel:
        """The model; its device has passed its self-test for the shape of the layers."""
        loaded = ModelLoader(
            config=self.config,
            spec=self.spec,
            backend=backend,
            device=device,
            dtype=dtype,
            group=self.tp_group,
            watch=None if self.profiler is None else self.profiler.watch,
        ).load()
        if self.spec.by_library or self.config.device.skip_self_test:
            return loaded
        return replace(loaded, notes=(*loaded.notes, *backend.self_test(loaded.model.layer_shape)))

    def _make_runner(self, loaded: LoadedModel, backend: Backend, device: torch.device, kv_tokens: int) -> ModelRunner:
        """The runner, with a KV cache of ``kv_tokens`` slots, or as many as every worker has room for."""
        capacity = self._kv_capacity(backend, device, kv_tokens, loaded.kv_bytes_per_token)
        return ModelRunner(
            loaded.model,
            self.spec,
            backend=backend,
            device=device,
            dtype=loaded.dtype,
            kv_capacity=self.tp_group.all_reduce_min("room for keys", capacity, LOADING_TIMEOUT_S),
            adapters=loaded.adapters,
            graphs=self.tp_group.size == 1 and self.profiler is None,
        )

    def _get_ready(self, runner: ModelRunner, budget: int) -> tuple[int, tuple[str, ...]]:
        """Warms the device up and tunes it; the token budget that suits it, if none was asked for, and the notes."""
        backend = runner.backend
        for num_tokens in () if self.spec.by_library else backend.capabilities.warm_up_tokens:
            runner.warm_up(min(num_tokens, budget))
        best, notes = self._tune(runner, backend, budget) if runner.model.graphable else (budget, ())
        is_free = self.spec.causal and self.config.scheduler.max_num_batched_tokens is None
        return best if is_free else budget, notes

    def _tune(self, runner: ModelRunner, backend: Backend, budget: int) -> tuple[int, tuple[str, ...]]:
        """Workers of a group must run the same steps, and measuring would lead each to its own."""
        if self.tp_group.size == 1:
            return backend.tune(runner.time_step, budget)
        return budget, (
            f"one of {self.tp_group.size} workers that share the model, over {backend.dist_backend}: nothing is tuned, "
            "and no step is recorded as a graph",
        )

    def execute(self, scheduler_output: SchedulerOutput) -> ModelRunnerOutput:
        return self.launch(scheduler_output)()

    def launch(self, scheduler_output: SchedulerOutput) -> Callable[[], ModelRunnerOutput]:
        """Start a step; the returned function waits for its result. Steps are launched in order by one thread."""
        assert self.runner is not None, "launch before load"
        result = self.runner.launch(scheduler_output)
        return self.profiler.step(scheduler_output, result) if self.profiler is not None else result

    def change_adapters(self, change: AdapterChange) -> None:
        """Load or forget a LoRA adapter, between two launches.

        Raises ``ConfigError`` where the model was loaded without room for adapters, ``ModelLoadError`` or
        ``DeviceError``; then nothing has changed.
        """
        assert self.runner is not None, "change_adapters before load"
        adapters = self.runner.adapters
        if not isinstance(adapters, LoadedAdapters):
            raise ConfigError("this model was loaded without room for adapters", param="runtime_lora_folders")
        if not isinstance(change, LoadAdapter):
            adapters.drop(change.name)
            return
        if change.fingerprint and fingerprint([change.folder]) != change.fingerprint:
            raise ModelLoadError(
                f"the files of the adapter {change.name!r} in {change.folder} are no longer those that were asked for"
            )
        try:
            adapters.load(change.name, change.folder)
        except (MemoryError, RuntimeError) as error:
            if not self.runner.backend.is_out_of_memory(error):
                raise
            raise DeviceError(f"the adapter {change.name!r} does not fit into the memory of the device") from error

    def is_lost(self, error: BaseException) -> bool:
        """Whether ``error`` means that no later step can succeed in this process."""
        return self._backend is not None and self._backend.is_lost(error)

    def close(self) -> None:
        """Give the device back, and leave the group. May be called twice."""
        self.tp_group.destroy()
        if self.profiler is not None:
            self.profiler.save()
            self.profiler = None
        if self.runner is not None:
            backend, device = self.runner.backend, self.runner.device
            self.runner = None
            backend.empty_cache(device)

    def _kv_capacity(self, backend: Backend, device: torch.device, wanted: int, bytes_per_token: int) -> int:
        """The slots of the KV cache: as many as wanted, or as the memory beside the weights has room for."""
        if not bytes_per_token:
            return 0
        capacity = backend.kv_tokens(device, self.config.device, wanted, bytes_per_token)
        check_kv_cache(capacity, self.spec.max_model_len, f"lower --max-model-len, or give {device} more memory")
        return capacity


@contextmanager
def _memory_named(backend: Backend, words: str) -> Iterator[None]:
    """Turns what a device raises when its memory is full into a ``DeviceError`` that begins with these words."""
    try:
        yield
    except (MemoryError, RuntimeError, OutOfMemory) as error:
        if not (isinstance(error, OutOfMemory) or backend.is_out_of_memory(error)):
            raise
        raise DeviceError(f"{words}: {error}") from error
