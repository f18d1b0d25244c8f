"""GGUF: tensors by their names in the network, with what the converter changed undone.

It permutes the rows of q and k for llama's interleaved rotation, adds one to Gemma's norms, cuts RoBERTa's first rows
of positions, and keeps a yes/no head as two rows of labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from engine.backends.loading.formats.gguf_changes import Halved, HalvedBlocks, MinusOne, Score, WithRowsBefore
from engine.backends.loading.formats.gguf_tensor import LAYOUTS, BlockTensor
from engine.backends.loading.formats.stored import Format
from engine.backends.loading.safetensors_file import TensorInfo, TensorReader
from engine.backends.loading.source import Source
from engine.checkpoint.gguf.config import positive_row
from engine.checkpoint.gguf.header import GgufFile, GgufTensor, find_gguf, read_gguf
from engine.checkpoint.gguf.names import SCORE, name_in_body
from engine.errors import ModelLoadError
from engine.kernels.weight_groups import GroupLayout

PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


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
