"""A worker: one device, one model on it. Loads it, says what it is, and runs the steps it is given.

How steps reach it (a call in the same process, a socket) is not known here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import cast

import torch

from engine.backends.base import Backend, OutOfMemory
from engine.backends.group import LOADING_TIMEOUT_S, TPGroup, join_tp_group
from engine.backends.library_model import LibraryModel
from engine.backends.loading.adapter_files import LoadedAdapters
from engine.backends.loading.checkpoint import Checkpoint, open_model
from engine.backends.loading.fit import check_fit
from engine.backends.loading.parameters import Parameters
from engine.backends.loading.weights import check_tensors, load_weights, make_up_weights, open_modules
from engine.backends.measure.profiler import Profiler
from engine.backends.model_runner import ModelRunner
from engine.backends.models import Model, find_family
from engine.backends.nn.adapters import AdapterOps
from engine.backends.registry import choose_backend
from engine.checkpoint.fingerprint import files_of, fingerprint, was_modified
from engine.config import EngineConfig
from engine.errors import ConfigError, DeviceError, ModelLoadError
from engine.kernels.ops import Ops
from engine.messages import AdapterChange, LoadAdapter
from engine.model_spec import ModelSpec
from engine.step import QUANTIZED_NOTE, ModelRunnerOutput, SchedulerOutput, TPRank, WorkerInfo
from engine.step_limits import check_kv_cache, resolve_limits

NUM_NAMED = 5
"""Matrices named in a note."""


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
        """Load the model onto the device.

        Raises ``ModelLoadError``, ``DeviceError`` where it does not fit, and ``ConfigError`` for settings that exclude
        each other.
        """
        started = time.perf_counter()
        size = self.config.device.tensor_parallel_size
        if size != self.tp_rank.size:
            raise ConfigError(f"tensor_parallel_size is {size}, but this worker is one of {self.tp_rank.size}")
        backend, reason = choose_backend(self.config.device.device)
        self._backend = backend
        notes = [reason, *backend.set_up(self.config.device, self.rank)]
        device = backend.device(self.rank)
        dtype_name = _choose_dtype(self.config, self.spec, backend)
        dtype = getattr(torch, dtype_name)
        step_dtype = dtype if self.spec.by_library else backend.step_dtype(dtype)
        if self.config.device.profile is not None:
            self.profiler = Profiler(self.config.device.profile, self.rank, backend, device)
            notes.append(f"profiled into {self.config.device.profile}: ops wait for each other, no graphs")
        limits = resolve_limits(
            self.config.scheduler,
            causal=self.spec.causal,
            max_model_len=self.spec.max_model_len,
            default_token_budget=backend.capabilities.default_token_budget,
        )
        self.tp_group = group = join_tp_group(self.tp_rank, backend, self.config.device.step_timeout_s)
        try:
            num_bytes, model, adapters, ops_notes = self._load_model(backend, device, dtype)
            own = not self.spec.by_library
            if own and not self.config.device.skip_self_test:
                ops_notes = (*ops_notes, *backend.self_test(model.layer_shape))
            budget = group.all_reduce_min("token budget", limits.token_budget, LOADING_TIMEOUT_S)
            bytes_per_token = model.kv_shape.bytes_per_token(step_dtype) if model.kv_shape else 0
            kv_capacity = self._kv_capacity(backend, device, limits.kv_tokens, bytes_per_token)
            kv_capacity = group.all_reduce_min("room for keys", kv_capacity, LOADING_TIMEOUT_S)
            self.runner = ModelRunner(
                model,
                self.spec,
                backend=backend,
                device=device,
                dtype=step_dtype,
                kv_capacity=kv_capacity,
                adapters=adapters,
                graphs=group.size == 1 and self.profiler is None,
            )
            for num_tokens in backend.capabilities.warm_up_tokens if own else ():
                self.runner.warm_up(min(num_tokens, budget))
            best, tuning_notes = self._tune(self.runner, backend, budget) if model.graphable else (budget, ())
            if self.spec.causal and self.config.scheduler.max_num_batched_tokens is None:
                budget = best
        except (MemoryError, RuntimeError, OutOfMemory) as error:
            if not (isinstance(error, OutOfMemory) or backend.is_out_of_memory(error)):
                raise
            raise DeviceError(f"{self.spec.name} does not fit into the memory of {device}: {error}") from error
        if self.profiler is not None:
            self.profiler.reset()
        return WorkerInfo(
            device=str(device),
            dtype=dtype_name,
            kv_capacity=kv_capacity,
            kv_bytes_per_token=bytes_per_token,
            max_num_batched_tokens=budget,
            num_outputs=model.num_outputs,
            weight_bytes=num_bytes,
            load_s=time.perf_counter() - started,
            peak_memory_bytes=backend.peak_memory_bytes(device),
            notes=(*notes, *ops_notes, *tuning_notes),
            fingerprint=self.spec.fingerprint,
        )

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

    def _load_model(
        self, backend: Backend, device: torch.device, dtype: torch.dtype
    ) -> tuple[int, Model, LoadedAdapters | None, tuple[str, ...]]:
        """Bytes of the weights, the model, its adapters, and what there is to say."""
        if self.spec.by_library:
            return self._load_from_library(device, dtype)
        family = find_family(self.spec.model_type)
        self._check_files()
        checkpoint = None
        if self.config.model.load_format != "dummy":
            checkpoint = open_model(self.spec.path, self.spec.config, family.CHECKPOINT_PREFIX)
        quantization = _choose_quantization(self.config, checkpoint, backend, dtype)
        tensors = None if checkpoint is None else {**checkpoint.tensors, **open_modules(self.spec.head)}
        if tensors is not None:
            limit, capabilities = backend.memory(device).total_bytes, backend.capabilities
            size = self.tp_group.size
            check_fit(self.spec.name, tensors, dtype, quantization, limit, str(device), capabilities, size)
        ops, ops_note = backend.make_ops(device, dtype, quantization)
        if self.profiler is not None:
            ops = self.profiler.watch(ops)
        adapter_ops = AdapterOps(ops) if self._wants_adapters else None
        params = Parameters(
            cast(Ops, adapter_ops) if adapter_ops else ops,  # it passes on what it does not change
            device=device,
            dtype=backend.step_dtype(dtype),
            tensors=tensors,
            keep_narrow_tables=backend.capabilities.keeps_narrow_embedding,
            keep_groups=quantization in backend.capabilities.keeps_groups,
            group=self.tp_group,
        )
        model = family.build(self.spec, params)
        if tensors is None:
            draw_on = device if backend.capabilities.draws_random_numbers else "cpu"
            make_up_weights(params.destinations, self.config.model.seed, draw_on)
        else:
            check_tensors(self.spec.path, params.destinations, tensors)
            load_weights(params.destinations, tensors)
        params.destinations.clear()
        model.finish()
        adapters = self._load_adapters(adapter_ops, model, params, family.CHECKPOINT_PREFIX) if adapter_ops else None
        notes = () if checkpoint is None else _quantization_notes(self.config, checkpoint, quantization, params)
        return params.num_bytes, model, adapters, (*notes, ops_note)

    def _load_from_library(self, device: torch.device, dtype: torch.dtype) -> tuple[int, Model, None, tuple[str, ...]]:
        self._check_files()
        if self.tp_group.size > 1:
            raise ConfigError(
                "--tensor-parallel-size above 1 is not supported with --model-impl transformers",
                param="tensor_parallel_size",
            )
        if self.config.model.runtime_lora_folders:
            raise ConfigError(
                "LoRA adapters are not supported with --model-impl transformers", param="runtime_lora_folders"
            )
        model = LibraryModel(self.spec, device=device, dtype=dtype)
        return model.num_bytes, model, None, (model.description,)

    def _check_files(self) -> None:
        """The files are still those that were understood at start; raises ``ModelLoadError`` where they are others."""
        spec = self.spec
        if not spec.fingerprint:
            return
        folders = files_of(spec.path, spec.head, self.config.model.lora_modules.values())
        found = fingerprint(folders)
        if found != spec.fingerprint:
            raise ModelLoadError(
                f"the files of {spec.name} are no longer those that were served (fingerprint {spec.fingerprint}, now "
                f"{found}): scores would change without a word. Restart the server to serve what is there now"
            )
        if was_modified(spec.written, folders):
            raise ModelLoadError(
                f"the files of {spec.name} were written again since they were first read; their samples are the same "
                f"(fingerprint {found}), but whether everything is, nobody knows. Restart the server to serve what is "
                "there now"
            )

    @property
    def _wants_adapters(self) -> bool:
        return bool(self.config.model.lora_modules or self.config.model.runtime_lora_folders)

    def _load_adapters(self, ops: AdapterOps, model: Model, params: Parameters, prefix: str) -> LoadedAdapters:
        folders = self.config.model.lora_modules
        if not model.adaptable:
            merge = f": merge {', '.join(folders)} into the model and serve that" * bool(folders)
            raise ConfigError(
                f"LoRA adapters on {self.spec.model_type} models are not supported{merge}",
                param="lora_modules" if folders else "runtime_lora_folders",
            )
        return LoadedAdapters(folders, ops, model.head, params, prefix)

    def _kv_capacity(self, backend: Backend, device: torch.device, wanted: int, bytes_per_token: int) -> int:
        """The slots of the KV cache: as many as wanted, or as the memory beside the weights has room for."""
        if not bytes_per_token:
            return 0
        capacity = backend.kv_tokens(device, self.config.device, wanted, bytes_per_token)
        check_kv_cache(capacity, self.spec.max_model_len, f"lower --max-model-len, or give {device} more memory")
        return capacity


def _choose_quantization(
    config: EngineConfig, checkpoint: Checkpoint | None, backend: Backend, dtype: torch.dtype
) -> str | None:
    """As asked; else as the checkpoint is stored, if the device computes in that format."""
    asked = config.model.quantization
    stored = None if checkpoint is None or checkpoint.format is None else checkpoint.format.runs_in
    return asked if asked is not None or stored is None else backend.quantization_for(stored, dtype)


def _quantization_notes(
    config: EngineConfig, checkpoint: Checkpoint, chosen: str | None, params: Parameters
) -> tuple[str, ...]:
    """What the checkpoint is stored in, and what became of it."""
    if checkpoint.format is None:
        return ()
    width = str(params.dtype).removeprefix("torch.")
    could_run = checkpoint.format.runs_in is not None and config.model.quantization is None
    how = f"computed in {chosen}" if chosen else f"dequantised to {width}"
    if params.num_grouped:
        how = f"{params.num_grouped / 1e6:,.0f} M of them stay in 4 bits, computed in {chosen or width}"
    elif could_run and not chosen:
        how += ", since this device does not compute in it"
    words = f"{checkpoint.format.words} ({checkpoint.bits_per_weight:.2f} bits a weight)"
    plain = checkpoint.left_plain
    more = ", ..." if len(plain) > NUM_NAMED else ""
    left = f"; not quantised are {', '.join(plain[:NUM_NAMED])}{more}" if plain else ""
    return (f"{QUANTIZED_NOTE}: {words}: {how}{left}",)


def _choose_dtype(config: EngineConfig, spec: ModelSpec, backend: Backend) -> str:
    capabilities, quantization = backend.capabilities, config.model.quantization
    if quantization is not None and quantization not in capabilities.quantizations:
        known = ", ".join(capabilities.quantizations) or "none"
        raise DeviceError(f"quantization {quantization!r} is not available on {backend.name}; available: {known}")
    asked = config.model.dtype
    if asked == "auto":
        stored = spec.config.get("dtype") or spec.config.get("torch_dtype") or "float32"
        return backend.auto_dtype(str(stored).removeprefix("torch."))
    if asked not in capabilities.dtypes:
        raise DeviceError(
            f"dtype {asked} is not available on {backend.name}; available: {', '.join(capabilities.dtypes)}"
        )
    return asked
