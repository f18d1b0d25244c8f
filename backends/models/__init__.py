"""One model family, one file, named by the ``model_type`` of config.json. There is no table to add a family to."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
from typing import Protocol, cast

import torch

from engine.backends.kv_cache import KVCache, KVShape
from engine.backends.loading.parameters import Parameters
from engine.backends.nn.adapters import AdaptableHead
from engine.backends.packed_batch import PackedBatch
from engine.errors import ModelLoadError
from engine.kernels.ops import LayerShape
from engine.model_spec import ModelSpec


class Model(Protocol):
    """A network with its score head."""

    kv_shape: KVShape | None
    """None for models that attend both ways: nothing of them can be shared or kept."""
    scale: float
    """Of the attention scores."""
    layer_shape: LayerShape
    """Of this worker's share of a layer."""
    num_outputs: int
    graphable: bool
    """A step is the same kernels whatever its lengths, all from ``Ops``, so a device may tune, record and replay it."""

    adaptable: bool
    """All that LoRA adapters change goes through ``Ops`` at each step, or is in ``head``."""
    head: AdaptableHead

    def finish(self) -> None:
        """Prepares the model once after the last tensor was read."""
        ...

    def forward(self, batch: PackedBatch, kv_cache: KVCache) -> torch.Tensor:
        """(R, num_outputs) fp32, in the order of the step's ``read_segments``."""
        ...


class ModelFamily(Protocol):
    """The functions and values that a file of this folder has."""

    CHECKPOINT_PREFIX: str
    """What stands before the body's tensor names when a head is saved with it, e.g. ``model.``"""

    def build(self, spec: ModelSpec, params: Parameters) -> Model:
        """The network of a checkpoint. Raises ``ModelLoadError`` for a setting of config.json that it does not have."""
        ...


def supported_families() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find_family(model_type: str) -> ModelFamily:
    """The module of a family. Raises ``ModelLoadError``, which names those that there are."""
    name = re.sub(r"\W", "_", model_type)
    if name not in supported_families():
        raise ModelLoadError(
            f"models of the type {model_type!r} are not supported; supported are {', '.join(supported_families())}"
        )
    return cast(ModelFamily, importlib.import_module(f"{__name__}.{name}"))
