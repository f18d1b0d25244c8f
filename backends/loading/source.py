"""What the loader sees of a checkpoint's tensors, whatever their format: a shape, and rows as numbers on demand.

A plain tensor is a ``TensorInfo``. A quantised one is a ``QuantizedTensor``: a weight whose codes, scales and zero
points are tensors of their own in the file, put together while its rows are read. Only the files of ``formats/`` know
how.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch

from engine.backends.loading.safetensors_file import TensorInfo, TensorReader
from engine.errors import ModelLoadError
from engine.kernels.weight_groups import GroupedRows, GroupLayout

CHUNK_BYTES = 8 << 20
"""Of the fp32 numbers that are made at once."""

Group = Callable[[int, int], GroupedRows]
"""(first row, last row + 1) -> these rows in 4 bits."""
Dequantize = Callable[[int, int], torch.Tensor]
"""(first row, last row + 1) -> these rows as fp32 numbers, (n, K)."""


class Shaped(Protocol):
    """The facts about a tensor before anything of it is read."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the rows."""
        ...


class Source(Shaped, Protocol):
    """A tensor of a checkpoint that can be read by rows."""

    @property
    def file(self) -> Path: ...

    @property
    def offset(self) -> int:
        """The place of its first byte in the file: tensors are read in this order."""
        ...

    @property
    def num_bytes(self) -> int:
        """The bytes that it has in the file."""
        ...

    def rows(
        self, reader: TensorReader, first: int = 0, last: int | None = None, columns: range | None = None
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Rows ``first : last`` in runs, each with the number of its first row; of each row all, or ``columns``.

        A run is valid until the next one is asked for. Raises ``ModelLoadError`` where the file ends too soon or holds
        scales that are no numbers.
        """
        ...


@dataclass(frozen=True, eq=False, kw_only=True)
class QuantizedTensor(ABC):
    """A linear weight (N, K) that is stored as codes with scales."""

    label: str
    """Its name and the folder, for messages."""
    shape: tuple[int, int]
    parts: Mapping[str, TensorInfo]
    """The stored tensors by what they are: codes, scales, zeros, ..."""
    dtype: torch.dtype = field(default=torch.float32, init=False)

    @abstractmethod
    def dequantizer(self, reader: TensorReader) -> Dequantize:
        """Begin a reading of rows. What several runs of rows need is read once here.

        Raises ``ModelLoadError`` for scales that cannot be right.
        """

    def rows(
        self, reader: TensorReader, first: int = 0, last: int | None = None, columns: range | None = None
    ) -> Iterator[tuple[int, torch.Tensor]]:
        last = self.shape[0] if last is None else last
        dequantize = self.dequantizer(reader)
        at_once = max(1, CHUNK_BYTES // (4 * self.shape[1]))
        for start in range(first, last, at_once):
            wide = dequantize(start, min(start + at_once, last))
            yield start, wide if columns is None else wide[:, columns.start : columns.stop]

    @property
    def layout(self) -> GroupLayout | None:
        """How it can stay in 4 bits; None where its format has other widths, or groups that are no runs of columns."""
        return None

    def grouper(self, reader: TensorReader) -> Group:
        """Begins a reading as ``dequantizer`` does, for tensors with a ``layout``.

        Raises ``TypeError`` for one without, and ``ModelLoadError`` where the stored groups are not what the settings
        say.
        """
        raise TypeError(f"{type(self).__name__} has no layout")

    def grouped(
        self, reader: TensorReader, first: int = 0, last: int | None = None, columns: range | None = None
    ) -> Iterator[tuple[int, GroupedRows]]:
        """Reads rows as ``rows`` does, in 4 bits. ``columns`` begin and end with groups."""
        assert self.layout is not None
        last = self.shape[0] if last is None else last
        read, group = self.grouper(reader), self.layout.group
        at_once = max(1, CHUNK_BYTES // (4 * self.shape[1]))
        for start in range(first, last, at_once):
            run = read(start, min(start + at_once, last))
            if columns is not None:
                groups = slice(columns.start // group, -(-columns.stop // group))
                offsets = None if run.offsets is None else run.offsets[:, groups]
                run = GroupedRows(run.codes[:, columns.start : columns.stop], run.scales[:, groups], offsets)
            yield start, run

    @property
    def _largest(self) -> TensorInfo:
        return max(self.parts.values(), key=lambda info: info.num_bytes)

    @property
    def file(self) -> Path:
        return self._largest.file

    @property
    def offset(self) -> int:
        return self._largest.offset

    @property
    def num_bytes(self) -> int:
        return sum(info.num_bytes for info in self.parts.values())

    def read(self, reader: TensorReader, part: str, first: int = 0, last: int | None = None) -> torch.Tensor:
        """Rows of a stored tensor, in memory of their own."""
        info = self.parts[part]
        runs = [run.clone() for _, run in reader.rows(info, first, last)]
        return torch.cat(runs) if runs else torch.empty((0, *info.shape[1:]), dtype=info.dtype)

    def read_scales(self, reader: TensorReader, part: str, first: int = 0, last: int | None = None) -> torch.Tensor:
        """The same of scales, as fp32, which must be numbers."""
        return self.check_finite(part, self.read(reader, part, first, last).float())

    def check_finite(self, part: str, values: torch.Tensor) -> torch.Tensor:
        """The same values. Raises ``ModelLoadError`` where one of them is infinite or NaN."""
        if not torch.isfinite(values).all():
            raise ModelLoadError(f"{self.label}: its {part} hold infinities or NaN; the file is damaged")
        return values


def spread(values: torch.Tensor, group: int, num_columns: int) -> torch.Tensor:
    """(n, G) values of groups of ``group`` columns -> (n, num_columns), one for each column."""
    if values.shape[1] == 1:
        return values.expand(-1, num_columns)
    return values.repeat_interleave(group, dim=1)[:, :num_columns]
