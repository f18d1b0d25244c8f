"""Checkpoint -> parameters: every destination gets its tensor, and every tensor of the files has a destination.

Tensors are read once, in the order in which they lie in the files, and each run of rows goes straight to where it will
be computed with; so beside the weights themselves only one small buffer exists.
"""

from __future__ import annotations

import math
import sys
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from engine.backends.loading.parameters import Destination
from engine.backends.loading.safetensors_file import TensorInfo, TensorReader, find_tensors
from engine.backends.loading.source import QuantizedTensor, Shaped, Source
from engine.errors import ModelLoadError
from engine.kernels.weight_groups import GroupedRows
from engine.model_spec import HeadSpec
from engine.ranges import Range, append_range

HARMLESS_ENDINGS = ("rotary_emb.inv_freq", "position_ids", ".masked_bias", ".attn.bias")
"""Constants that old versions of transformers saved and that are computed here."""
TEXT_PART = "language_model."
HARMLESS_NAMES = ("lm_head.weight",)
"""The copy of a tied embedding, or a language model head that a classifier has no use for."""
NUM_NAMED = 5


def open_checkpoint(folder: str, prefix: str) -> dict[str, TensorInfo]:
    """Tensors by their name in the body: ``*ForCausalLM`` files put ``prefix`` before it, ``*Model`` files do not, and
    newer files of models that read pictures say which part of the model it is, too.

    Raises ``ModelLoadError`` for a tensor that is there under two names.
    """
    tensors: dict[str, TensorInfo] = {}
    for full_name, info in find_tensors(Path(folder)).items():
        name = full_name.removeprefix(prefix).removeprefix(TEXT_PART)
        if name in tensors:
            raise ModelLoadError(
                f"{folder} holds the tensor {name!r} twice, with and without {prefix!r} before its name"
            )
        tensors[name] = info
    return tensors


def open_modules(head: HeadSpec) -> dict[str, TensorInfo]:
    """Tensors of the saved modules behind the pooling, by the names that ``SavedModules`` asks for."""
    return {
        f"modules.{number}.{name}": info
        for number, module in enumerate(head.modules)
        if module.folder
        for name, info in find_tensors(Path(module.folder)).items()
    }


def check_tensors(folder: str, destinations: Sequence[Destination], tensors: Mapping[str, Shaped]) -> None:
    """Every wanted tensor is there in the right shape and gives numbers, and nothing is left over.

    Raises ``ModelLoadError`` with all that does not fit.
    """
    wanted = {destination.name: destination.shape for destination in destinations}
    missing = [f"{name} {_size(shape)}" for name, shape in wanted.items() if name not in tensors]
    wrong = [
        f"{name} {_size(tensors[name].shape)} instead of {_size(shape)}"
        for name, shape in wanted.items()
        if name in tensors and tensors[name].shape != shape
    ]
    extra = [
        f"{name} {_size(info.shape)}"
        for name, info in tensors.items()
        if name not in wanted and not _harmless(name) and not _is_zero_bias(name, info, wanted)
    ]
    narrow = [
        f"{name} {str(info.dtype).removeprefix('torch.')}"
        for name, info in tensors.items()
        if name in wanted and not (info.dtype.is_floating_point and info.dtype.itemsize >= 2)
    ]
    problems = [
        f"{len(names)} {title}: {', '.join(names[:NUM_NAMED])}{', ...' if len(names) > NUM_NAMED else ''}"
        for title, names in (
            ("missing", missing),
            ("of the wrong shape", wrong),
            ("not part of this model", extra),
            ("quantised, but nothing says how; use the original checkpoint", narrow),
        )
        if names
    ]
    if problems:
        raise ModelLoadError(f"the tensors of {folder} do not fit its config.json. " + ". ".join(problems))


def _size(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))})"


def _is_zero_bias(name: str, source: Shaped, wanted: Mapping[str, object]) -> bool:
    """A bias of zeros on a layer that has none: AutoGPTQ writes them."""
    if not name.endswith(".bias") or f"{name.removesuffix('.bias')}.weight" not in wanted or len(source.shape) != 1:
        return False
    if not isinstance(source, TensorInfo):
        return False
    with TensorReader() as reader:
        return not any(run.any() for _, run in source.rows(reader))


def _harmless(name: str) -> bool:
    return name in HARMLESS_NAMES or name.endswith(HARMLESS_ENDINGS)


def _by_reading(destinations: Iterable[Destination]) -> dict[tuple[str, range | None, bool], list[Destination]]:
    """Slots that take what is read of the same tensor, by name, the columns that are read, and whether in groups."""
    grouped: dict[tuple[str, range | None, bool], list[Destination]] = defaultdict(list)
    for destination in destinations:
        grouped[destination.name, destination.columns, destination.in_groups].append(destination)
    return grouped


def _wanted_rows(destinations: Sequence[Destination]) -> list[Range]:
    """The rows that anybody wants of a tensor."""
    num_rows = destinations[0].shape[0] if destinations[0].shape else 1
    if any(destination.only_rows is None for destination in destinations):
        return [(0, num_rows)]
    wanted: list[Range] = []
    for row in sorted({row for destination in destinations for row in destination.only_rows or ()}):
        append_range(wanted, row, 1)
    return wanted


def _num_bytes(source: Source, takers: Sequence[Destination]) -> int:
    """What will be read of a tensor."""
    num_rows = sum(length for _, length in _wanted_rows(takers))
    return round(num_rows * _bytes_per_row(source, takers[0].columns))


def _bytes_per_row(source: Source, columns: range | None) -> float:
    """In the file."""
    num_rows = source.shape[0] if source.shape else 1
    share = 1.0 if columns is None else len(columns) / math.prod(source.shape[1:])
    return share * source.num_bytes / max(1, num_rows)


def _read(
    source: Source, reader: TensorReader, rows: tuple[int, int], columns: range | None, *, in_groups: bool
) -> Iterator[tuple[int, torch.Tensor | GroupedRows]]:
    if in_groups:
        assert isinstance(source, QuantizedTensor)
        return source.grouped(reader, *rows, columns)
    return source.rows(reader, *rows, columns)


def load_weights(destinations: Sequence[Destination], tensors: Mapping[str, Source]) -> None:
    """Fill every destination from the files; a progress bar in bytes when somebody watches."""
    readings = sorted(
        _by_reading(destinations).items(), key=lambda item: (tensors[item[0][0]].file, tensors[item[0][0]].offset)
    )
    total = sum(_num_bytes(tensors[name], takers) for (name, _, _), takers in readings)
    bar = tqdm(total=total, desc="loading weights", unit="B", unit_scale=True, disable=not sys.stderr.isatty())
    with TensorReader() as reader, bar:
        for (name, columns, in_groups), takers in readings:
            source = tensors[name]
            bytes_per_row = _bytes_per_row(source, columns)
            for first, length in _wanted_rows(takers):
                for start, run in _read(source, reader, (first, first + length), columns, in_groups=in_groups):
                    for destination in takers:
                        destination.take(start, run)
                    num_rows = len(run.codes if isinstance(run, GroupedRows) else run)
                    bar.update(round(num_rows * bytes_per_row))


def make_up_weights(destinations: Sequence[Destination], seed: int, draw_on: torch.device | str = "cpu") -> None:
    """Random weights (``--load-format dummy``) that depend on the seed, the tensor's name and ``draw_on`` alone."""
    rows_at_once = 4096
    by_name: dict[str, list[Destination]] = defaultdict(list)
    for destination in destinations:
        by_name[destination.name].append(destination)
    for name, takers in by_name.items():
        generator = torch.Generator(draw_on).manual_seed(zlib.crc32(f"{seed}:{name}".encode()))
        shape = takers[0].shape
        for first in range(0, shape[0], rows_at_once):
            run_shape = (min(rows_at_once, shape[0] - first), *shape[1:])
            run = torch.randn(run_shape, generator=generator, device=draw_on) * 0.02
            run += 1.0 if takers[0].is_scale else 0.0
            for destination in takers:
                destination.take(
                    first,
                    run
                    if destination.columns is None
                    else run[:, destination.columns.start : destination.columns.stop],
                )
