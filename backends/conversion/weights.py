"""The weights of a converted checkpoint: dequantised, merged, and with a head of one row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from engine.backends.conversion.writer import Entry, write_safetensors
from engine.backends.loading.adapter_files import AdapterFile
from engine.backends.loading.checkpoint import Checkpoint, open_model
from engine.backends.loading.safetensors_file import TensorReader
from engine.backends.loading.source import Source
from engine.backends.models import find_family
from engine.checkpoint.gguf.header import find_gguf
from engine.errors import ModelLoadError

Factors = tuple[torch.Tensor, torch.Tensor]
"""Of what an adapter adds: (r, K), and (N, r) with the scale."""
HEADS = ("score.", "classifier.", "lm_head.", "head.")
"""Beginnings of names that stand beside the body, not in it."""


@dataclass(frozen=True)
class Rows:
    """A head of one row, made of rows of a tensor: ``positive`` minus ``negative`` (None: nothing is taken off)."""

    tensor: str
    positive: int
    negative: int | None
    name: str
    """Of the new tensor."""


@dataclass(frozen=True)
class Written:
    """The result of a conversion."""

    format: str | None
    """Of the weights that were read."""
    num_merged: int
    """Modules that an adapter changed."""


def convert_weights(
    folder: Path,
    config: Mapping[str, Any],
    out: Path,
    *,
    dtype: str,
    head: Sequence[Rows] = (),
    without: Sequence[str] = (),
    adapter: Path | None = None,
) -> Written:
    """Write ``model.safetensors`` into ``out``. ``without``: tensors that the new model has no use for.

    Raises ``ModelLoadError`` as the loader does, and for an adapter that changes what is not there.
    """
    checkpoint = open_named(folder, config)
    sources = dict(checkpoint.tensors)
    with TensorReader() as reader:
        changed, whole = _adapter(adapter, sources, reader) if adapter is not None else ({}, {})
        wide = getattr(torch, dtype)
        entries = []
        for rows in head:
            made = _head_row(sources, rows, reader, changed.get(rows.tensor), whole.get(rows.tensor))
            entries.append(Entry(rows.name, torch.float32, tuple(made.shape), partial(_one, made)))
        skipped = {*without, *(rows.tensor for rows in head if rows.tensor == rows.name)}
        for name, source in sources.items():
            if name in skipped:
                continue
            kept = wide if source.dtype.is_floating_point else source.dtype
            runs = partial(_runs, source, reader, changed.get(name), whole.get(name))
            entries.append(Entry(name, kept, source.shape, runs))
        write_safetensors(out / "model.safetensors", entries)
    words = None if checkpoint.format is None else checkpoint.format.words
    return Written(words, len(changed) + len(whole))


def open_named(folder: Path, config: Mapping[str, Any]) -> Checkpoint:
    """Tensors by their full names, as transformers has them."""
    found = open_model(str(folder), config, "")
    if any(folder.glob("*.safetensors")) or find_gguf(folder) is None:
        return found
    prefix = find_family(str(config["model_type"])).CHECKPOINT_PREFIX
    named = {name if name.startswith(HEADS) else f"{prefix}{name}": source for name, source in found.tensors.items()}
    return Checkpoint(named, found.format)


def shapes(folder: Path, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors, by their full names."""
    return {name: source.shape for name, source in open_named(folder, config).tensors.items()}


def _adapter(
    folder: Path, sources: Mapping[str, Source], reader: TensorReader
) -> tuple[dict[str, Factors], dict[str, torch.Tensor]]:
    """(what is added, what takes a tensor's place), by full names."""
    adapter = AdapterFile(str(folder), folder, "", reader)
    changed = {}
    for module in adapter.modules:
        source = sources.get(f"{module}.weight")
        down, up = adapter.pop_factors(module)
        if source is None or source.shape != (len(up), down.shape[1]):
            raise ModelLoadError(
                f"the adapter in {folder} changes {module}, which the model has not, or in another size"
            )
        changed[f"{module}.weight"] = down, up
    whole = {}
    for name in adapter.whole_names:
        values = adapter.pop_whole(name)
        if name not in sources or sources[name].shape != tuple(values.shape):
            raise ModelLoadError(f"the adapter in {folder} holds {name}, which the model has not, or in another size")
        whole[name] = values
    return changed, whole


def _one(tensor: torch.Tensor) -> list[torch.Tensor]:
    return [tensor]


def _runs(
    source: Source, reader: TensorReader, added: Factors | None, whole: torch.Tensor | None
) -> Iterator[torch.Tensor]:
    if whole is not None:
        yield whole
        return
    for start, run in source.rows(reader):
        yield run if added is None else run.float() + added[1][start : start + len(run)] @ added[0]


def _head_row(
    sources: Mapping[str, Source],
    rows: Rows,
    reader: TensorReader,
    added: Factors | None,
    whole: torch.Tensor | None,
) -> torch.Tensor:
    """(1, D) or (1,), in fp32."""
    source = sources[rows.tensor]

    def row(number: int) -> torch.Tensor:
        if whole is not None:
            return whole[number].float()
        found = next(iter(source.rows(reader, number, number + 1)))[1][0].float().clone()
        return found if added is None else found + added[1][number] @ added[0]

    made = row(rows.positive)
    return (made if rows.negative is None else made - row(rows.negative)).unsqueeze(0)
