"""LoRA adapters (Hu et al. 2021, arXiv 2106.09685): a few models that differ from one base by products of low rank.

The base weights stay as they are. While an adapter is in use, each product x W^T gets (x A^T) B^T added, with the scale
folded into B; heads are small, so each adapter has its own. The scheduler sees to it that a step uses one at most.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from engine.kernels.ops import Activation, LinearWeight, Ops

GATES = {False: "none", True: "tanh"}


@dataclass(frozen=True, eq=False)
class Side:
    """The addition of an adapter to some columns of a product. r rank, D inputs, C columns."""

    down: torch.Tensor
    """(r, D)."""
    up: torch.Tensor
    """(C, r), scaled."""
    first: int
    """Column of the product where the C begin."""


Sides = Mapping[int, Sequence[Side]]
"""By the id of the weight."""


class AdapterOps:
    """``Ops`` that add the active adapter's products; everything else is the base's."""

    def __init__(self, base: Ops, whole: AdapterOps | None = None) -> None:
        """``whole``: the model's, where these are the ops of one layer."""
        self.base = base
        self._whole = whole or self
        self._active: Sides = {}

    @property
    def active(self) -> Sides:
        return self._whole._active

    @active.setter
    def active(self, sides: Sides) -> None:
        self._whole._active = sides

    def of_layer(self, index: int) -> AdapterOps:
        return AdapterOps(self.base.of_layer(index), self._whole)

    def of_qkv(self) -> AdapterOps:
        return AdapterOps(self.base.of_qkv(), self._whole)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.base, name)

    def linear(self, x: Activation, weight: LinearWeight) -> torch.Tensor:
        y = self.base.linear(x, weight)
        return self._add(y, x, weight)

    def linear_residual(
        self, x: Activation, weight: LinearWeight, residual: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        delta, residual = self.base.linear_residual(x, weight, residual)
        if delta is None:
            return None, self._add(residual, x, weight)
        return self._add(delta, x, weight), residual

    def linear_swiglu(self, x: Activation, gate_up: LinearWeight) -> Activation:
        if id(gate_up) not in self.active:
            return self.base.linear_swiglu(x, gate_up)
        gate, up = self.linear(x, gate_up).chunk(2, dim=-1)
        return (F.silu(gate.float()) * up).to(gate.dtype)

    def linear_geglu(self, x: Activation, gate_up: LinearWeight, *, tanh: bool) -> Activation:
        if id(gate_up) not in self.active:
            return self.base.linear_geglu(x, gate_up, tanh=tanh)
        gate, up = self.linear(x, gate_up).chunk(2, dim=-1)
        return (F.gelu(gate.float(), approximate=GATES[tanh]) * up).to(gate.dtype)

    def linear_gelu(self, x: Activation, weight: LinearWeight, *, tanh: bool = False) -> Activation:
        if id(weight) not in self.active:
            return self.base.linear_gelu(x, weight, tanh=tanh)
        y = self.linear(x, weight)
        return F.gelu(y.float(), approximate=GATES[tanh]).to(y.dtype)

    def _add(self, y: torch.Tensor, x: Activation, weight: LinearWeight) -> torch.Tensor:
        sides = self.active.get(id(weight))
        if sides:
            plain = self.base.unpack(x)
            for side in sides:
                y[:, side.first : side.first + len(side.up)] += F.linear(F.linear(plain, side.down), side.up)
        return y


class AdaptableHead(ABC):
    """A head that adapters may change: fp32 tensors by name, and what is computed from them once."""

    tensors: dict[str, torch.Tensor]
    """The head's tensors by the names that adapters use, in fp32 on the CPU."""
    rows: tuple[int, ...] | None = None
    """The rows of the checkpoint's tensor that each of them keeps; None: all."""
    state: Any

    @abstractmethod
    def derive(self, tensors: Mapping[str, torch.Tensor]) -> Any:
        """The value of ``state`` that these tensors make."""


@dataclass(frozen=True, eq=False)
class Adapter:
    sides: Sides
    head_state: Any


class Adapters:
    """All adapters of a worker; ``use`` chooses before each step."""

    def __init__(self, ops: AdapterOps, head: AdaptableHead, adapters: Mapping[str, Adapter]) -> None:
        self._ops, self._head = ops, head
        self._adapters: dict[str | None, Adapter] = {None: Adapter({}, head.state)} | dict(adapters.items())

    def put(self, name: str, adapter: Adapter) -> None:
        """Adds an adapter, in place of one that has its name."""
        self._adapters[name] = adapter

    def drop(self, name: str) -> None:
        """Forgets an adapter; one that is not there is no error."""
        self._adapters.pop(name, None)

    def use(self, name: str | None) -> None:
        adapter = self._adapters[name]
        self._ops.active = adapter.sides
        self._head.state = adapter.head_state
