"""Reads PyTorch's ``.bin`` files, which are pickles, and writes what they hold as safetensors. A program of its own.

``python -m engine.backends.conversion.unpickle FOLDER OUT``. torch's restricted unpickler makes tensors and nothing
else (``weights_only``); should that ever fail, this process has no more than its own limits: it starts no other ones,
writes no file larger than it was told, and ends by a time.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from engine.backends.conversion.writer import Entry, write_safetensors

SINGLE, INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
"""Of the first BERT checkpoints."""
CPU_SECONDS = 3600
GROWTH = 1.1
"""Largest file that may be written, as a multiple of what is read, and some more."""


class BadFile(Exception):
    """The message is for the user."""


def files_of(folder: Path) -> list[Path]:
    """The ``.bin`` files of a checkpoint: one, or the shards that its index names."""
    index = folder / INDEX
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if not index.is_file():
        others = sorted(folder.glob("*.bin"))
        others = [file for file in others if file.name not in ("training_args.bin", "optimizer.bin")]
        if len(others) != 1:
            raise BadFile(f"{folder} has no {SINGLE} and no {INDEX}, so it is not clear which file holds the weights")
        return others
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadFile(f"{index} is no valid index of shards ({error!r})") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not (folder / name).is_file():
            raise BadFile(f"{index} names the shard {name!r}, which is not there")
    return [folder / name for name in names]


def load(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of one file; anything else in it is refused."""
    try:
        found: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=_is_zip(file))
    except Exception as error:  # torch has no narrower type
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadFile(f"{file} cannot be read as tensors alone ({reason})") from error
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict):
        raise BadFile(f"{file} holds a {type(found).__name__}, not tensors by name")
    tensors = {}
    for name, tensor in found.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor) or tensor.is_sparse or tensor.is_quantized:
            raise BadFile(f"{file} holds {name!r}, which is no plain tensor")
        for old, new in OLD_NAMES.items():
            name = f"{name.removesuffix(old)}{new}" if name.endswith(old) else name
        tensors[name] = tensor.detach()
    return tensors


def _is_zip(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(2) == b"PK"


def _runs(tensor: torch.Tensor) -> Iterable[torch.Tensor]:
    return [tensor]


def main(folder: Path, out: Path) -> None:
    files = files_of(folder)
    limit = int(GROWTH * sum(file.stat().st_size for file in files)) + (64 << 20)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    tensors: dict[str, torch.Tensor] = {}
    for file in files:
        found = load(file)
        if doubled := sorted(tensors.keys() & found.keys()):
            raise BadFile(f"{file} holds {doubled[0]!r}, and so does another shard")
        tensors |= found
    entries = [
        Entry(name, tensor.dtype, tuple(tensor.shape), partial(_runs, tensor)) for name, tensor in tensors.items()
    ]
    write_safetensors(out, entries)


if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except BadFile as error:
        print(error, file=sys.stderr)
        sys.exit(3)
