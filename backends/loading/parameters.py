"""Parameters of a model, and where each tensor of the checkpoint goes.

Building a model asks a ``Parameters`` for vectors, tables and linear weights under the names that the checkpoint uses.
It allocates them and notes a ``Destination`` for each tensor, so building the model *is* writing the table of weight
names; a fused projection is one linear weight with several destinations.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from engine.backends.loading.source import QuantizedTensor, Shaped
from engine.backends.tensor_parallel import TPGroup
from engine.kernels.ops import GroupedWeight, LinearWeight, Ops
from engine.kernels.weight_groups import GroupedRows, GroupLayout, common_layout


@dataclass(frozen=True, eq=False)
class Destination:
    """The place that a tensor of the checkpoint goes to. Several destinations may take from the same tensor."""

    name: str
    shape: tuple[int, ...]
    """Of the whole tensor in the file."""
    take: Callable[[int, Any], None]
    """Called with the number of the first row and a run of rows, until all rows have come."""
    only_rows: Sequence[int] | None = None
    """The rows that this destination wants; others may come as well. None: all of them."""
    columns: range | None = None
    """The only columns that ``take`` gets; None: all."""
    in_groups: bool = False
    """``take`` gets ``GroupedRows``."""
    is_scale: bool = False
    """A norm's weight: near 1, not near 0, when weights are made up."""


@dataclass(frozen=True)
class Rows:
    """Some rows of a checkpoint's linear weight: all of them, or a run of a fused one."""

    name: str
    """Without ``.weight``."""
    count: int
    """How many."""
    first: int = 0
    total: int | None = None
    """Rows of the whole tensor; None: ``count``."""

    def part(self, group: TPGroup, units: int) -> Rows:
        """The rows of this worker, of rows that are ``units`` blocks of equal size."""
        size, own = self.count // units, group.part(units)
        return Rows(self.name, len(own) * size, self.first + own.start * size, self.total or self.count)

    @property
    def wanted(self) -> range | None:
        """The rows that are read, as ``Destination.only_rows``."""
        all_of_them = self.total is None or self.total == self.count
        return None if all_of_them else range(self.first, self.first + self.count)


@dataclass(frozen=True, eq=False)
class WeightPart:
    """``rows`` of a tensor, in a weight from its row ``above`` on."""

    weight: LinearWeight
    rows: Rows
    above: int
    in_features: int
    """Of the whole tensor."""
    columns: range | None
    """Of them, those that the weight has; None: all."""


@dataclass(frozen=True)
class _Grouped:
    """A weight that stays in groups, its layout, and those of its parts in the file."""

    weight: GroupedWeight
    layout: GroupLayout
    of_parts: Sequence[GroupLayout]

    def loader(self, part: int) -> Callable[[int, GroupedRows], None]:
        own = self.of_parts[part]
        return lambda start, rows: self.weight.load_groups(start, rows.brought_to(self.layout, own))


class Parameters:
    """Makes the parameters of a model. ``tensors``: what the checkpoint holds; None when the weights are made up."""

    def __init__(
        self,
        ops: Ops,
        *,
        device: torch.device,
        dtype: torch.dtype,
        tensors: Mapping[str, Shaped] | None,
        keep_narrow_tables: bool = False,
        keep_groups: Collection[int] = (),
        group: TPGroup | None = None,
    ) -> None:
        self.ops = ops
        self.tp_group = group or TPGroup()
        self.device = device
        self.dtype = dtype
        self.destinations: list[Destination] = []
        self._made: list[torch.Tensor] = []
        self._linears: list[LinearWeight] = []
        self.parts: dict[str, list[WeightPart]] = {}
        """Where the rows of each linear tensor are, by its name without ``.weight``."""
        self._tensors = tensors
        self._keep_narrow_tables = keep_narrow_tables
        self._keep_groups = keep_groups
        self.num_grouped: Counter[int] = Counter()
        """Weights that stay in groups, by their bits."""

    @property
    def num_bytes(self) -> int:
        """The bytes of all that was made; exact once loaded: a linear weight may keep the file's narrower dtype."""
        return sum(tensor.nbytes for tensor in self._made) + sum(weight.num_bytes for weight in self._linears)

    @contextmanager
    def using(self, ops: Ops) -> Iterator[None]:
        """A context in which linear weights are made by these ops, those of a layer or of a part of it."""
        before, self.ops = self.ops, ops
        try:
            yield
        finally:
            self.ops = before

    def in_checkpoint(self, name: str) -> bool:
        return self._tensors is not None and name in self._tensors

    def lacks(self, name: str) -> bool:
        """Whether there is a checkpoint and it does not hold this tensor."""
        return self._tensors is not None and name not in self._tensors

    def shape_in_checkpoint(self, name: str) -> tuple[int, ...] | None:
        return self._tensors[name].shape if self._tensors is not None and name in self._tensors else None

    def scale(self, name: str, size: int, *, offset: float = 0.0) -> torch.Tensor:
        """A norm's weight (size,), with ``offset`` added (Gemma stores its weights minus one)."""
        vector = self._empty((size,), self.dtype)
        self.destinations.append(Destination(name, (size,), _copier(vector, offset), is_scale=True))
        return vector

    def bias(self, name: str, size: int) -> torch.Tensor:
        vector = self._empty((size,), self.dtype)
        self.destinations.append(Destination(name, (size,), _copier(vector)))
        return vector

    def table(self, name: str, num_rows: int, size: int, *, rows: range | None = None) -> torch.Tensor:
        """An embedding (num_rows, size), or some of its rows; it may stay in the file's dtype if narrower, and rows be
        converted later."""
        own = Rows(name, num_rows) if rows is None else Rows(name, len(rows), rows.start, num_rows)
        dtype = self.dtype
        if self._keep_narrow_tables and self._tensors is not None and name in self._tensors:
            stored = self._tensors[name].dtype
            dtype = stored if stored.is_floating_point and 2 <= stored.itemsize < dtype.itemsize else dtype
        table = self._empty((own.count, size), dtype)
        self.destinations.append(Destination(name, (num_rows, size), _shifted(_copier(table), own, 0), own.wanted))
        return table

    def linear(
        self, parts: Sequence[Rows], in_features: int, *, columns: range | None = None, bias: bool = False
    ) -> LinearWeight:
        """One weight whose rows are those of ``parts``, one below the other; of each row all, or ``columns``."""
        num_columns = in_features if columns is None else len(columns)
        num_rows = sum(rows.count for rows in parts)
        grouped = self._new_grouped(parts, num_rows, in_features, columns, bias=bias)
        weight = grouped.weight if grouped else self.ops.new_linear(num_rows, num_columns, bias=bias)
        self._linears.append(weight)
        above = 0
        for number, rows in enumerate(parts):
            total = rows.total or rows.count
            load = weight.load_rows if grouped is None else grouped.loader(number)
            take_rows, take_bias = _shifted(load, rows, above), _shifted(weight.load_bias, rows, above)
            shape = (total, in_features)
            in_groups = grouped is not None
            self.destinations.append(
                Destination(f"{rows.name}.weight", shape, take_rows, rows.wanted, columns, in_groups)
            )
            if bias:
                self.destinations.append(Destination(f"{rows.name}.bias", (total,), take_bias, rows.wanted))
            self.parts.setdefault(rows.name, []).append(WeightPart(weight, rows, above, in_features, columns))
            above += rows.count
        return weight

    def convolution(self, name: str, out_features: int, kernel: tuple[int, ...], *, bias: bool = True) -> LinearWeight:
        """A convolution over windows that do not overlap: one product, a window being a row."""
        weight = self.ops.new_linear(out_features, math.prod(kernel), bias=bias)
        self._linears.append(weight)

        def take(first: int, rows: torch.Tensor) -> None:
            weight.load_rows(first, rows.flatten(1))

        self.destinations.append(Destination(f"{name}.weight", (out_features, *kernel), take))
        if bias:
            self.destinations.append(Destination(f"{name}.bias", (out_features,), weight.load_bias))
        return weight

    def _new_grouped(
        self, parts: Sequence[Rows], num_rows: int, in_features: int, columns: range | None, *, bias: bool
    ) -> _Grouped | None:
        """A weight that stays in 4 or 8 bits, where all its parts are stored so and the device keeps such."""
        layouts = [self._layout(f"{rows.name}.weight") for rows in parts]
        found = [layout for layout in layouts if layout is not None]
        if not self._keep_groups or len(found) < len(layouts):
            return None
        common = common_layout(set(found), in_features)
        if common is None or common.bits not in self._keep_groups:
            return None
        if columns is not None and not all(layout.splits(columns, in_features) for layout in found):
            return None
        num_columns = in_features if columns is None else len(columns)
        weight = self.ops.new_grouped_linear(num_rows, num_columns, common, bias=bias)
        if weight is None:
            return None
        self.num_grouped[common.bits] += num_rows * num_columns
        return _Grouped(weight, common, found)

    def _layout(self, name: str) -> GroupLayout | None:
        source = self._tensors.get(name) if self._tensors is not None else None
        return source.layout if isinstance(source, QuantizedTensor) else None

    def skip(self, *prefixes: str) -> None:
        """Stored tensors that this model does not need, unless they have a destination already. Call it last."""
        placed = {destination.name for destination in self.destinations}
        for name, info in (self._tensors or {}).items():
            if name.startswith(prefixes) and name not in placed:
                self.destinations.append(Destination(name, info.shape, lambda first, run: None, only_rows=()))

    def exact(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """A small tensor kept in fp32 on the CPU as the file has it (score heads)."""
        tensor = torch.empty(shape, dtype=torch.float32)
        self.destinations.append(Destination(name, shape, _copier(tensor)))
        return tensor

    def exact_rows(self, name: str, shape: tuple[int, ...], rows: Sequence[int]) -> torch.Tensor:
        """Some rows of a large tensor, (len(rows), ...), in fp32 on the CPU; nothing else of it is kept."""
        picked = torch.empty(len(rows), *shape[1:], dtype=torch.float32)

        def take(first: int, run: torch.Tensor) -> None:
            for position, row in enumerate(rows):
                if first <= row < first + len(run):
                    picked[position].copy_(run[row - first])

        self.destinations.append(Destination(name, shape, take, only_rows=tuple(rows)))
        return picked

    def _empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        tensor = torch.empty(shape, dtype=dtype, device=self.device)
        self._made.append(tensor)
        return tensor


def _copier(target: torch.Tensor, offset: float = 0.0) -> Callable[[int, torch.Tensor], None]:
    def take(first: int, rows: torch.Tensor) -> None:
        target[first : first + len(rows)].copy_(rows.float() + offset if offset else rows)

    return take


def _shifted(load: Callable[[int, Any], None], rows: Rows, above: int) -> Callable[[int, Any], None]:
    """Takes runs of the whole tensor and passes on what lies in ``rows``: to row ``above`` and those after it."""

    def take(start: int, run: torch.Tensor | GroupedRows) -> None:
        count = len(run.codes if isinstance(run, GroupedRows) else run)
        first, last = max(start, rows.first), min(start + count, rows.first + rows.count)
        if first < last:
            own = slice(first - start, last - start)
            load(above + first - rows.first, run.part(own) if isinstance(run, GroupedRows) else run[own])

    return take
