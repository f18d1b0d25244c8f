"""Tensors of GGUF with what the converter changed undone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from engine.backends.loading.formats.gguf_tensor import BlockTensor
from engine.backends.loading.safetensors_file import TensorReader
from engine.backends.loading.source import Dequantize, Group, QuantizedTensor, Source
from engine.kernels.weight_groups import GroupLayout


@dataclass(frozen=True, eq=False)
class Changed:
    """A tensor whose rows are put back as they were before the conversion. Implements ``Source``."""

    inner: Source
    dtype: torch.dtype = field(default=torch.float32, init=False)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.inner.shape

    @property
    def file(self) -> Path:
        return self.inner.file

    @property
    def offset(self) -> int:
        return self.inner.offset

    @property
    def num_bytes(self) -> int:
        return self.inner.num_bytes

    def rows(
        self, reader: TensorReader, first: int = 0, last: int | None = None, columns: range | None = None
    ) -> Iterator[tuple[int, torch.Tensor]]:
        last = self.shape[0] if last is None else last
        if first < last:
            yield first, self.changed(reader, first, last, columns)

    def changed(self, reader: TensorReader, first: int, last: int, columns: range | None) -> torch.Tensor:
        return self.read(reader, first, last, columns)

    def read(self, reader: TensorReader, first: int, last: int, columns: range | None = None) -> torch.Tensor:
        runs = [run.float().clone() for _, run in self.inner.rows(reader, first, last, columns)]
        return torch.cat(runs) if runs else torch.empty(0, *self.inner.shape[1:])


@dataclass(frozen=True, eq=False)
class MinusOne(Changed):
    """Gemma's norms, which the model adds one to."""

    def changed(self, reader: TensorReader, first: int, last: int, columns: range | None) -> torch.Tensor:
        return self.read(reader, first, last, columns) - 1


@dataclass(frozen=True, eq=False)
class Halved(Changed):
    """Rows of q and k: dimension j of a head's first half lies at 2j in the file, of its second half at 2j + 1."""

    head: int

    def rows(
        self, reader: TensorReader, first: int = 0, last: int | None = None, columns: range | None = None
    ) -> Iterator[tuple[int, torch.Tensor]]:
        last = self.shape[0] if last is None else last
        for start in range(first // self.head * self.head, last, self.head):  # a head at a time
            whole = self.read(reader, start, start + self.head, columns)
            halves = whole.unflatten(0, (self.head // 2, 2)).transpose(0, 1).flatten(0, 1)
            begin, end = max(first, start), min(last, start + self.head)
            yield begin, halves[begin - start : end - start]


@dataclass(frozen=True, eq=False, kw_only=True)
class HalvedBlocks(QuantizedTensor):
    """The same of quantised rows, which are moved as they are."""

    inner: BlockTensor
    head: int

    @property
    def layout(self) -> GroupLayout | None:
        return self.inner.layout

    def dequantizer(self, reader: TensorReader) -> Dequantize:
        whole = self.inner.dequantizer(reader)
        return lambda first, last: whole(*self._heads(first, last))[self._places(first, last)]

    def grouper(self, reader: TensorReader) -> Group:
        whole = self.inner.grouper(reader)
        return lambda first, last: whole(*self._heads(first, last)).picked(self._places(first, last))

    def _heads(self, first: int, last: int) -> tuple[int, int]:
        """The rows of all heads that these are of."""
        return first // self.head * self.head, -(-last // self.head) * self.head

    def _places(self, first: int, last: int) -> torch.Tensor:
        """Of these rows among those of ``_heads``."""
        begin, end = self._heads(first, last)
        moved = torch.arange(end - begin).view(-1, self.head // 2, 2).transpose(1, 2).flatten()
        return moved[first - begin : last - begin]


@dataclass(frozen=True, eq=False)
class WithRowsBefore(Changed):
    """RoBERTa's positions, with the first rows, which no token has, put back as zeros."""

    count: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.inner.shape[0] + self.count, *self.inner.shape[1:]

    def changed(self, reader: TensorReader, first: int, last: int, columns: range | None) -> torch.Tensor:
        width = self.shape[1] if columns is None else len(columns)
        zeros = torch.zeros(max(0, min(last, self.count) - first), width)
        return torch.cat([zeros, self.read(reader, max(0, first - self.count), max(0, last - self.count), columns)])


@dataclass(frozen=True, eq=False)
class Score(Changed):
    """The one row of a yes/no head: relevant minus not; or the only label's."""

    positive: int

    @property
    def shape(self) -> tuple[int, ...]:
        return 1, self.inner.shape[1]

    def changed(self, reader: TensorReader, first: int, last: int, columns: range | None) -> torch.Tensor:
        labels = self.read(reader, 0, self.inner.shape[0], columns)
        if len(labels) == 1:
            return labels
        return (labels[self.positive] - labels[1 - self.positive]).unsqueeze(0)
