"""The model of one worker: the tensors of its checkpoint in a network of the device's ops, and notes for the log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import torch

from engine.backends.base import Backend
from engine.backends.library_model import LibraryModel
from engine.backends.loading.adapter_files import LoadedAdapters
from engine.backends.loading.checkpoint import Checkpoint, open_model
from engine.backends.loading.fit import check_fit
from engine.backends.loading.parameters import Parameters
from engine.backends.loading.source import Source
from engine.backends.loading.weights import check_tensors, load_weights, make_up_weights, open_modules
from engine.backends.models import Model, find_family
from engine.backends.nn.adapters import AdapterOps
from engine.backends.tensor_parallel import TPGroup
from engine.checkpoint.fingerprint import files_of, fingerprint, was_modified
from engine.config import EngineConfig
from engine.errors import ConfigError, DeviceError, ModelLoadError
from engine.kernels.ops import Ops
from engine.model_spec import ModelSpec
from engine.step import QUANTIZED_NOTE

NUM_NAMED = 5
"""Matrices named in a note."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is ready to compute."""

    model: Model
    dtype: torch.dtype
    """Of its steps: what is not quantised, and the KV cache."""
    num_bytes: int
    """Of its weights on this device."""
    adapters: LoadedAdapters | None = None
    """None: it was loaded without room for LoRA adapters."""
    notes: tuple[str, ...] = ()
    """What a user should know of how it was loaded."""

    @property
    def kv_bytes_per_token(self) -> int:
        """Memory of the keys and values of a token; 0 for a model that keeps none."""
        shape = self.model.kv_shape
        return shape.bytes_per_token(self.dtype) if shape else 0


@dataclass(frozen=True, kw_only=True)
class ModelLoader:
    """Loads a model onto a device; of a model that several workers share, this worker's part."""

    config: EngineConfig
    spec: ModelSpec
    backend: Backend
    device: torch.device
    dtype: torch.dtype
    group: TPGroup
    watch: Callable[[Ops], Ops] | None = None
    """Wraps the ops of a model that is profiled."""

    def load(self) -> LoadedModel:
        """The model, by its family's network or by the library's.

        Raises ``ModelLoadError`` for a checkpoint that cannot be served, ``ConfigError`` for settings that do not suit
        it, ``DeviceError`` where it does not fit.
        """
        self._check_files()
        return self._from_library() if self.spec.by_library else self._from_family()

    def _from_family(self) -> LoadedModel:
        family = find_family(self.spec.model_type)
        prefix = family.CHECKPOINT_PREFIX
        checkpoint = self._open_checkpoint(prefix)
        quantization = self._choose_quantization(checkpoint)
        tensors = None if checkpoint is None else {**checkpoint.tensors, **open_modules(self.spec.head)}
        if tensors is not None:
            self._check_fit(tensors, quantization)
        ops, ops_note = self.backend.make_ops(self.device, self.dtype, quantization)
        if self.watch is not None:
            ops = self.watch(ops)
        adapter_ops = AdapterOps(ops) if self._wants_adapters else None
        capabilities = self.backend.capabilities
        params = Parameters(
            cast(Ops, adapter_ops) if adapter_ops else ops,  # it passes on what it does not change
            device=self.device,
            dtype=self.backend.step_dtype(self.dtype),
            tensors=tensors,
            keep_narrow_tables=capabilities.keeps_narrow_embedding,
            keep_groups=[bits for bits, kept in capabilities.keeps_groups.items() if quantization in kept],
            group=self.group,
        )
        model = family.build(self.spec, params)
        self._fill(params, tensors)
        model.finish()
        adapters = self._load_adapters(adapter_ops, model, params, prefix) if adapter_ops else None
        notes = () if checkpoint is None else _quantization_notes(self.config, checkpoint, quantization, params)
        return LoadedModel(model, params.dtype, params.num_bytes, adapters, (*notes, ops_note))

    def _open_checkpoint(self, prefix: str) -> Checkpoint | None:
        """None where weights are made up."""
        if self.config.model.load_format == "dummy":
            return None
        return open_model(self.spec.path, self.spec.config, prefix)

    def _choose_quantization(self, checkpoint: Checkpoint | None) -> str | None:
        """As asked; else as the checkpoint is stored, if the device computes in that format."""
        asked = self.config.model.quantization
        stored = None if checkpoint is None or checkpoint.format is None else checkpoint.format.runs_in
        return asked if asked is not None or stored is None else self.backend.quantization_for(stored, self.dtype)

    def _check_fit(self, tensors: Mapping[str, Source], quantization: str | None) -> None:
        limit, capabilities = self.backend.memory(self.device).total_bytes, self.backend.capabilities
        name, device = self.spec.name, str(self.device)
        check_fit(name, tensors, self.dtype, quantization, limit, device, capabilities, self.group.size)

    def _fill(self, params: Parameters, tensors: Mapping[str, Source] | None) -> None:
        """Reads the weights into their places, or makes them up."""
        if tensors is None:
            draw_on = self.device if self.backend.capabilities.draws_random_numbers else "cpu"
            make_up_weights(params.destinations, self.config.model.seed, draw_on)
        else:
            check_tensors(self.spec.path, params.destinations, tensors)
            load_weights(params.destinations, tensors)
        params.destinations.clear()

    def _from_library(self) -> LoadedModel:
        if self.group.size > 1:
            raise ConfigError(
                "--tensor-parallel-size above 1 is not supported with --model-impl transformers",
                param="tensor_parallel_size",
            )
        if self.config.model.runtime_lora_folders:
            raise ConfigError(
                "LoRA adapters are not supported with --model-impl transformers", param="runtime_lora_folders"
            )
        model = LibraryModel(self.spec, device=self.device, dtype=self.dtype)
        return LoadedModel(model, self.dtype, model.num_bytes, notes=(model.description,))

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


def choose_dtype(config: EngineConfig, spec: ModelSpec, backend: Backend) -> str:
    """The name of the dtype that the model computes in: as asked, or what suits device and checkpoint.

    Raises ``DeviceError`` for a dtype or a quantisation that the device does not compute in.
    """
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
        kept = " and ".join(
            f"{count / 1e6:,.0f} M of them stay in {bits} bits" for bits, count in sorted(params.num_grouped.items())
        )
        how = f"{kept}, computed in {chosen or width}"
    elif could_run and not chosen:
        how += ", since this device does not compute in it"
    words = f"{checkpoint.format.words} ({checkpoint.bits_per_weight:.2f} bits a weight)"
    plain = checkpoint.left_plain
    more = ", ..." if len(plain) > NUM_NAMED else ""
    left = f"; not quantised are {', '.join(plain[:NUM_NAMED])}{more}" if plain else ""
    return (f"{QUANTIZED_NOTE}: {words}: {how}{left}",)
