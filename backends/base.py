"""The contract of a backend: what a device family must say and do so that the rest never asks which one it is.

A backend lives in ``backends/<name>/backend.py``, which holds a function ``backend()`` that returns its instance. Only
that folder and ``kernels/`` know the device's own library. What is optional has a default here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch

from engine.backends.packed_batch import upload_each
from engine.config import DeviceConfig
from engine.errors import OutOfMemoryError as OutOfMemory
from engine.kernels.ops import AttentionMeta, LayerShape, Ops

__all__ = ["Backend", "Capabilities", "MemoryFacts", "OutOfMemory"]


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """Facts a backend states about itself."""

    dtypes: tuple[str, ...]
    """Dtypes it can compute in, the preferred one first."""
    quantizations: tuple[str, ...] = ()
    default_token_budget: int
    warm_up_tokens: tuple[int, ...] = (64,)
    """Sizes of the steps that are run before the first real one."""
    one_memory: bool = False
    """All workers of a machine share one memory, not each its device's."""
    keeps_narrow_embedding: bool = False
    """Rows are converted when they are looked up, so a bf16 embedding may stay bf16 beside fp32 weights."""
    keeps_narrow_weights: bool = False
    """Linear weights in 16 bits stay so and are converted while they are multiplied."""
    keeps_groups: Mapping[int, Collection[str | None]] = field(default_factory=dict)
    """By bits, 4 or 8: quantisations, None for the plain dtype, in which linear weights that come so, with a scale for
    each group, stay so, and are dequantised while they are multiplied."""
    wider_parts: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """By quantisation: the wider one of what is sensitive in it, which is the products to queries, keys and values of
    all layers, and everything in the first so many layers."""
    kv_by_head: bool = False
    """The KV cache's slots lie together head by head, which is how this device's attention reads them."""
    quantizes_plain_inputs: bool = False
    """A quantised linear layer takes a plain tensor as well as what a norm hands it."""
    reference_tolerance: float = 1e-4
    """Largest difference of a float32 score from transformers' on a CPU: a device adds in an order of its own."""
    batch_tolerance: float = 1e-4
    """Largest difference of a float32 score from that of the same pair alone."""
    records_steps: bool = False
    """``capture`` records steps for any use, those that keep nothing too: the KV cache has a slot more for them."""
    draws_random_numbers: bool = False
    """Made-up weights are drawn on the device, which for billions of them takes seconds instead of minutes."""


@dataclass(frozen=True)
class MemoryFacts:
    total_bytes: int
    """What this process may use at most: the device's memory, or the machine's under its limits."""
    free_bytes: int


class Backend(ABC):
    name: ClassVar[str]
    dist_backend: ClassVar[str]
    """Name for torch.distributed."""
    dist_interface_variable: ClassVar[str]
    """Which the library of the collectives reads for the network interface that it may use."""

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities: ...

    @abstractmethod
    def why_unavailable(self) -> str | None:
        """The reason why the device cannot be used and what to install, as a sentence; None if it is really there."""

    @abstractmethod
    def device(self, rank: int) -> torch.device:
        """The device of worker ``rank``. Raises ``DeviceError`` where this process sees too few devices."""
        ...

    @abstractmethod
    def set_up(self, config: DeviceConfig, rank: int) -> tuple[str, ...]:
        """Prepare this process (threads, current device); returns notes for the log.

        Raises ``ConfigError`` or ``DeviceError`` where the worker cannot have the cores or the device that it needs.
        """

    @abstractmethod
    def make_ops(self, device: torch.device, dtype: torch.dtype, quantization: str | None) -> tuple[Ops, str]:
        """The ops and one line on which they are and why.

        Raises ``DeviceError`` for a quantisation or dtype that the device cannot compute in, and ``ConfigError`` for a
        setting of the kernels that is none.
        """

    @abstractmethod
    def memory(self, device: torch.device) -> MemoryFacts: ...

    @abstractmethod
    def peak_memory_bytes(self, device: torch.device) -> int: ...

    def synchronize(self, device: torch.device) -> None:
        """Wait until the device has done all it was given."""
        return None

    def empty_cache(self, device: torch.device) -> None:
        """Give back memory that the allocator keeps for later."""
        return None

    def is_out_of_memory(self, error: BaseException) -> bool:
        return isinstance(error, MemoryError | torch.OutOfMemoryError)

    def is_lost(self, error: BaseException) -> bool:
        """Whether this process can no longer use its device after ``error``, so that only a new one helps."""
        return False

    def auto_dtype(self, checkpoint_dtype: str) -> str:
        """The dtype that ``dtype="auto"`` means for a checkpoint whose config names ``checkpoint_dtype``."""
        dtypes = self.capabilities.dtypes
        return checkpoint_dtype if checkpoint_dtype in dtypes else dtypes[0]

    def step_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Return the dtype of activations, norms, keys and values of a model whose products are in ``dtype``."""
        return dtype

    def quantization_for(self, stored: str, dtype: torch.dtype) -> str | None:
        """The quantisation to run a checkpoint in whose weights are ``stored`` in 8 bits; None: dequantise them."""
        return stored if stored in self.capabilities.quantizations else None

    def kv_tokens(self, device: torch.device, config: DeviceConfig, wanted: int, bytes_per_token: int) -> int:
        """How many slots the KV cache gets when ``wanted`` would be best; asked once the weights are there."""
        return wanted

    def capture(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """Graph capture of small steps, where the device has it; else the function as it is."""
        return forward

    def upload(
        self, arrays: Sequence[np.ndarray], metas: Sequence[AttentionMeta], device: torch.device
    ) -> list[torch.Tensor]:
        """The arrays of one step on the device. Also the place to prepare the step's ``metas`` for attention."""
        return upload_each(arrays, metas, device)

    def fetch(self, values: torch.Tensor) -> Callable[[], np.ndarray]:
        """A function that waits for a step's ``values``. A device that works on its own starts the copy here."""
        array = values.cpu().numpy()
        return lambda: array

    def ceilings(self, ops: Ops) -> dict[str, float]:
        """The rates that the instructions allow, in G(FL)OP/s of the device: of its ``linear`` layers, and of
        ``attention``. Empty where it cannot be measured."""
        return {}

    def self_test(self, shape: LayerShape) -> tuple[str, ...]:
        """Try the ops that ``make_ops`` made against plain torch, at the shapes of the model that was just loaded.

        Settles for other kernels where one is missing or wrong, and says so in the notes it returns. Raises
        ``DeviceError`` with op, shape and difference where nothing else computes it (``self_test.py``).
        """
        return ()

    def tune(self, time_step: Callable[[Sequence[int]], float], largest: int) -> tuple[int, tuple[str, ...]]:
        """Last act of loading: choose kernels and the token budget (at most ``largest``) by measurement, with notes.

        ``time_step`` runs a step of segments with these lengths, the first being the context of all others, and
        returns its seconds.
        """
        return largest, ()
