"""Parameters of a model, and where each tensor of the checkpoint goes.

Building a model asks a ``Parameters`` for vectors, tables and linear weights under the names that the checkpoint uses.
It allocates them and notes a ``Slot`` for each tensor, so building the model *is* writing the table of weight names;
a fused projection is one linear weight with several slots.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from engine.backends.safetensors_file import TensorInfo
from engine.kernels.ops import LinearWeight, Ops


@dataclass(frozen=True, eq=False)
class Slot:
    """One checkpoint tensor's destination. Several slots may share a name."""

    name: str
    shape: tuple[int, ...]
    """Of the whole tensor in the file."""
    take: Callable[[int, torch.Tensor], None]
    """Called with the number of the first row and a run of rows, until all rows have come."""
    only_rows: tuple[int, ...] | None = None
    """The rows that this slot wants, one at a time; None: all of them."""
    is_scale: bool = False
    """A norm's weight: near 1, not near 0, when weights are made up."""


class Parameters:
    """``tensors``: what the checkpoint holds; None when the weights are made up."""

    def __init__(
        self,
        ops: Ops,
        *,
        device: torch.device,
        dtype: torch.dtype,
        tensors: Mapping[str, TensorInfo] | None,
        keep_narrow_tables: bool = False,
    ) -> None:
        self.ops = ops
        self.device = device
        self.dtype = dtype
        self.slots: list[Slot] = []
        self._made: list[torch.Tensor] = []
        self._linears: list[LinearWeight] = []
        self._tensors = tensors
        self._keep_narrow_tables = keep_narrow_tables

    @property
    def num_bytes(self) -> int:
        """Of all that was made here; exact once loaded, since a linear weight may keep the file's narrower dtype."""
        return sum(tensor.nbytes for tensor in self._made) + sum(weight.num_bytes for weight in self._linears)

    def in_checkpoint(self, name: str) -> bool:
        return self._tensors is not None and name in self._tensors

    def lacks(self, name: str) -> bool:
        """There is a checkpoint, and it does not hold this tensor."""
        return self._tensors is not None and name not in self._tensors

    def shape_in_checkpoint(self, name: str) -> tuple[int, ...] | None:
        return self._tensors[name].shape if self._tensors is not None and name in self._tensors else None

    def scale(self, name: str, size: int, *, offset: float = 0.0) -> torch.Tensor:
        """A norm's weight (size,), with ``offset`` added (Gemma stores its weights minus one)."""
        vector = self._empty((size,), self.dtype)
        self.slots.append(Slot(name, (size,), _copier(vector, offset), is_scale=True))
        return vector

    def bias(self, name: str, size: int) -> torch.Tensor:
        vector = self._empty((size,), self.dtype)
        self.slots.append(Slot(name, (size,), _copier(vector)))
        return vector

    def table(self, name: str, num_rows: int, size: int) -> torch.Tensor:
        """An embedding (num_rows, size); it may stay in the file's dtype if narrower, and rows be widened later."""
        dtype = self.dtype
        if self._keep_narrow_tables and self._tensors is not None and name in self._tensors:
            stored = self._tensors[name].dtype
            dtype = stored if stored.is_floating_point and 2 <= stored.itemsize < dtype.itemsize else dtype
        table = self._empty((num_rows, size), dtype)
        self.slots.append(Slot(name, (num_rows, size), _copier(table)))
        return table

    def linear(self, parts: Sequence[tuple[str, int]], in_features: int, *, bias: bool = False) -> LinearWeight:
        """One weight whose rows are those of ``parts`` (name without ``.weight``, rows), one below the other."""
        weight = self.ops.new_linear(sum(rows for _, rows in parts), in_features, bias=bias)
        self._linears.append(weight)
        above = 0
        for name, rows in parts:
            self.slots.append(Slot(f"{name}.weight", (rows, in_features), _shifted(weight.load_rows, above)))
            if bias:
                self.slots.append(Slot(f"{name}.bias", (rows,), _shifted(weight.load_bias, above)))
            above += rows
        return weight

    def exact(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """A small tensor kept in fp32 on the CPU as the file has it (score heads)."""
        tensor = torch.empty(shape, dtype=torch.float32)
        self.slots.append(Slot(name, shape, _copier(tensor)))
        return tensor

    def exact_rows(self, name: str, shape: tuple[int, ...], rows: Sequence[int]) -> torch.Tensor:
        """Some rows of a large tensor, (len(rows), ...), in fp32 on the CPU; nothing else of it is kept."""
        picked = torch.empty(len(rows), *shape[1:], dtype=torch.float32)

        def take(first: int, run: torch.Tensor) -> None:
            for place, row in enumerate(rows):
                if first <= row < first + len(run):
                    picked[place].copy_(run[row - first])

        self.slots.append(Slot(name, shape, take, only_rows=tuple(rows)))
        return picked

    def _empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        tensor = torch.empty(shape, dtype=dtype, device=self.device)
        self._made.append(tensor)
        return tensor


def _copier(target: torch.Tensor, offset: float = 0.0) -> Callable[[int, torch.Tensor], None]:
    def take(first: int, rows: torch.Tensor) -> None:
        target[first : first + len(rows)].copy_(rows.float() + offset if offset else rows)

    return take


def _shifted(load: Callable[[int, torch.Tensor], None], above: int) -> Callable[[int, torch.Tensor], None]:
    return lambda first, rows: load(above + first, rows)
