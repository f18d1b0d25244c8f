"""GGUF: tensors by their names in the network, with what the converter changed undone.

It permutes the rows of q and k for llama's interleaved rotation, adds one to Gemma's norms, cuts RoBERTa's first rows
of positions, and keeps a yes/no head as two rows of labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from engine.backends.loading.formats.gguf_blocks import DECODERS, E2M1_DOUBLED, IQ4, Groups
from engine.backends.loading.formats.stored import Format
from engine.backends.loading.safetensors_file import TensorInfo, TensorReader
from engine.backends.loading.source import Dequantize, Group, QuantizedTensor, Source
from engine.checkpoint.gguf.config import positive_row
from engine.checkpoint.gguf.header import GgufFile, GgufTensor, find_gguf, read_gguf
from engine.checkpoint.gguf.names import SCORE, name_in_body
from engine.errors import ModelLoadError
from engine.kernels.weight_groups import INT4, INT8, UINT4, GroupedRows, GroupLayout

PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
LAYOUTS = {
    "Q2_K": GroupLayout(16, UINT4, has_offsets=True),
    "Q3_K": GroupLayout(16, INT4, has_offsets=False),
    "Q4_0": GroupLayout(32, INT4, has_offsets=False),
    "Q4_1": GroupLayout(32, UINT4, has_offsets=True),
    "Q4_K": GroupLayout(32, UINT4, has_offsets=True),
    "IQ4_NL": GroupLayout(32, tuple(map(float, IQ4)), has_offsets=False),
    "IQ4_XS": GroupLayout(32, tuple(map(float, IQ4)), has_offsets=False),
    "MXFP4": GroupLayout(32, tuple(map(float, E2M1_DOUBLED)), has_offsets=False),
    "Q5_0": GroupLayout(32, INT8, has_offsets=False),
    "Q5_1": GroupLayout(32, INT8, has_offsets=True),
    "Q5_K": GroupLayout(32, INT8, has_offsets=True),
    "Q6_K": GroupLayout(16, INT8, has_offsets=False),
    "Q8_0": GroupLayout(32, INT8, has_offsets=False),
}
"""In 4 bits types of at most 16 levels, in 8 the others."""


@dataclass(frozen=True, eq=False, kw_only=True)
class BlockTensor(QuantizedTensor):
    """Reads blocks of GGUF. ``parts``: blocks uint8 (N, bytes of a row)."""

    type: str
    values: int
    """Of a block."""

    def groups(self, reader: TensorReader, first: int, last: int) -> Groups:
        raw = self.read(reader, "blocks", first, last)
        found = DECODERS[self.type](raw.view(len(raw), self.shape[1] // self.values, -1))
        self.check_finite("scales", found.scales)
        return found

    @property
    def layout(self) -> GroupLayout | None:
        return LAYOUTS[self.type]

    def grouper(self, reader: TensorReader) -> Group:
        found = LAYOUTS[self.type]
        code_of = torch.zeros(256, dtype=torch.uint8)
        code_of[torch.tensor(found.levels).long()] = torch.arange(len(found.levels)).to(
            torch.uint8
        )  # negative ones from the end

        def grouped(first: int, last: int) -> GroupedRows:
            groups = self.groups(reader, first, last)
            return GroupedRows(code_of[groups.levels.long()], groups.scales, groups.offsets)

        return grouped

    def dequantizer(self, reader: TensorReader) -> Dequantize:
        return lambda first, last: self.groups(reader, first, last).numbers()


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


class BlockFacts(NamedTuple):
    """The type of a tensor."""

    type: str
    bits: float
    """A weight in the file."""
    layout: GroupLayout


class StoredBlocks(NamedTuple):
    """The types of a file's tensors."""

    tensors: dict[str, BlockFacts]
    """The quantised ones, by their names in the body."""
    table_bytes: int
    """Of a number of the embedding as it is loaded."""


def find_blocks(folder: Path) -> StoredBlocks | None:
    """Reads the header of a folder's GGUF file; None where it holds none, or safetensors.

    Raises ``ModelLoadError`` as ``read_gguf``.
    """
    path = None if any(folder.glob("*.safetensors")) else find_gguf(folder)
    if path is None:
        return None
    file = read_gguf(path)
    found = {}
    for stored_name, tensor in file.tensors.items():
        name, layout = name_in_body(file, stored_name), LAYOUTS.get(tensor.type.name)
        if name is not None and layout is not None:
            found[name] = BlockFacts(tensor.type.name, 8 * tensor.type.num_bytes / tensor.type.values, layout)
    table = file.tensors.get("token_embd.weight")
    return StoredBlocks(found, table.type.num_bytes if table is not None and table.type.values == 1 else 4)


def open_gguf(path: Path, config: Mapping[str, Any]) -> tuple[dict[str, Source], Format]:
    """Every tensor by its name in the body. Raises ``ModelLoadError`` as ``read_gguf``."""
    file = read_gguf(path)
    sources: dict[str, Source] = {}
    for stored_name, tensor in file.tensors.items():
        name = name_in_body(file, stored_name)
        if name is None:
            check_no_bias(file, stored_name, tensor)
            continue
        source = _source(file, stored_name, tensor)
        if name != SCORE:
            sources[name] = _undone(file, config, stored_name, source)
        elif str((config.get("architectures") or [""])[0]).endswith("ForSequenceClassification"):
            _check_labels(file, tensor)
            sources[name] = Score(source, positive_row(file))
    kinds: dict[str, int] = {}
    for tensor in file.tensors.values():
        kinds[tensor.type.name] = kinds.get(tensor.type.name, 0) + tensor.num_bytes
    words = ", ".join(sorted(kinds, key=lambda name: -kinds[name]))
    return sources, Format(f"GGUF ({words})")


def check_no_bias(file: GgufFile, name: str, tensor: GgufTensor) -> None:
    """Raises ``ModelLoadError`` for a decoder's head of labels with a bias that is not zero."""
    if name != "cls.output.bias":
        return
    with TensorReader() as reader:
        source = _source(file, name, tensor)
        if any(run.any() for _, run in source.rows(reader)):
            raise ModelLoadError(f"{file.path} has a head with a bias ({name}), which is not read from GGUF")


def _check_labels(file: GgufFile, tensor: GgufTensor) -> None:
    if len(tensor.shape) != 2 or tensor.shape[0] > 2:
        raise ModelLoadError(f"{file.path} has a head of the shape {tensor.shape}, and a score is one value a pair")


def _source(file: GgufFile, name: str, tensor: GgufTensor) -> Source:
    dtype = PLAIN.get(tensor.type.name)
    if dtype is not None:
        return TensorInfo(tensor.file, dtype, tensor.shape, tensor.offset)
    if len(tensor.shape) != 2:
        raise ModelLoadError(f"{file.path}: tensor {name!r} is quantised, but has {len(tensor.shape)} sides, not 2")
    shape = (tensor.shape[0], tensor.shape[1])
    blocks = TensorInfo(tensor.file, torch.uint8, (shape[0], tensor.row_bytes), tensor.offset)
    return BlockTensor(
        label=f"{name} of {file.path}",
        shape=shape,
        parts={"blocks": blocks},
        type=tensor.type.name,
        values=tensor.type.values,
    )


def _undone(file: GgufFile, config: Mapping[str, Any], name: str, source: Source) -> Source:
    architecture, part = file.architecture, name.removesuffix(".weight").removesuffix(".bias").rpartition(".")[2]
    if architecture == "llama" and part in ("attn_q", "attn_k"):
        heads = config["num_attention_heads"] if part == "attn_q" else config.get("num_key_value_heads")
        head = source.shape[0] // (heads or config["num_attention_heads"])
        if head % 2 or source.shape[0] % head:
            raise ModelLoadError(f"{file.path}: {name} has {source.shape[0]} rows, which are no whole heads")
        if isinstance(source, BlockTensor):
            return HalvedBlocks(label=source.label, shape=source.shape, parts=source.parts, inner=source, head=head)
        return Halved(source, head)
    if architecture == "gemma" and part.endswith("norm"):
        return MinusOne(source)
    if architecture == "bert" and part == "position_embd" and config["model_type"] != "bert":
        return WithRowsBefore(source, config["pad_token_id"] + 1)
    return source
