"""Each worker reads and holds its share only, and the shares together are the model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from engine.backends.loading import safetensors_file
from engine.backends.loading.parameters import Parameters
from engine.backends.loading.safetensors_file import TensorInfo
from engine.backends.loading.weights import check_tensors, load_weights, make_up_weights, open_checkpoint
from engine.backends.models import Model, find_family
from engine.backends.nn.decoder import Decoder
from engine.backends.nn.encoder import Encoder
from engine.backends.tensor_parallel import TPGroup
from engine.checkpoint.resolve import resolve_model
from engine.config import ModelConfig
from engine.kernels.reference import ReferenceLinear, ReferenceOps
from tests.backends.plans import NO_YES, spec_of
from tests.families.cases import FAMILIES
from tests.support.checkpoints import make_qwen3

SMALL_BYTES = 16384
"""Norms, biases, heads: every worker has them whole."""


@dataclass
class Share:
    """What a worker got of a model, without anybody to talk to."""

    model: Model
    read_bytes: int
    held_bytes: int


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Share]]:
    """The shares of a checkpoint among so many workers."""
    read = [0]
    preadv = safetensors_file.os.preadv

    def counting(descriptor: int, views: Any, at: int) -> int:
        count = preadv(descriptor, views, at)
        read[0] += count
        return count

    monkeypatch.setattr(safetensors_file.os, "preadv", counting)

    def load_share(folder: Path, group: TPGroup, dummy: bool) -> Share:
        read[0] = 0
        is_decoder = "qwen3" in (folder / "config.json").read_text()
        spec = spec_of(folder, max_model_len=64) if is_decoder else resolve_model(ModelConfig(model=str(folder)))
        family = find_family(spec.model_type)
        tensors = None if dummy else open_checkpoint(spec.path, family.CHECKPOINT_PREFIX)
        params = Parameters(
            ReferenceOps(), device=torch.device("cpu"), dtype=torch.float32, tensors=tensors, group=group
        )
        model = family.build(spec, params)
        if tensors is None:
            make_up_weights(params.destinations, 3)
        else:
            check_tensors(spec.path, params.destinations, tensors)
            load_weights(params.destinations, tensors)
        if is_decoder:
            model.finish()
        return Share(model, read[0], params.num_bytes)

    def load_all(folder: Path, size: int, *, dummy: bool = False) -> list[Share]:
        return [load_share(folder, TPGroup(index, size), dummy) for index in range(size)]

    return load_all


def whole_bytes(folder: Path) -> int:
    tensors: dict[str, TensorInfo] = safetensors_file.find_tensors(folder)
    return sum(info.num_bytes for name, info in tensors.items() if name != "lm_head.weight")


def qwen3(folder: Path) -> Path:
    """Two key heads: two of four workers have the same one."""
    sizes: dict[str, Any] = {"hidden": 128, "heads": 8, "kv_heads": 2, "head_dim": 32, "intermediate": 320}
    return make_qwen3(folder, layers=3, tied=False, shards=3, **sizes)


def modernbert(folder: Path) -> Path:
    """Queries, keys and values are one tensor of the file, gate and up another."""
    return FAMILIES["modernbert"].make(folder, "as published")


@pytest.mark.parametrize(("make", "size"), [(qwen3, 2), (qwen3, 4), (modernbert, 2), (modernbert, 4)])
def test_no_worker_reads_or_holds_the_whole_model(
    make: Callable[[Path], Path], size: int, tmp_path: Path, load: Callable[..., list[Share]]
) -> None:
    folder = make(tmp_path)
    (alone,), shares, total = load(folder, 1), load(folder, size), whole_bytes(folder)
    assert total - SMALL_BYTES < alone.read_bytes < total + SMALL_BYTES
    twice = 3 * 2 * 2 * 32 * 128 * 4 if (make, size) == (qwen3, 4) else 0  # keys and values of 3 layers, 2 heads of 32
    for share in shares:
        assert share.read_bytes < (total + twice) / size + SMALL_BYTES
        assert share.held_bytes < (alone.held_bytes + twice) / size + SMALL_BYTES
    assert sum(share.read_bytes for share in shares) >= total


def plain(weight: Any) -> torch.Tensor:
    assert isinstance(weight, ReferenceLinear)
    return weight.weight


@pytest.mark.parametrize("buffer_bytes", [8 << 20, 1000])
@pytest.mark.parametrize("size", [2, 4])
def test_the_shares_of_a_decoder_are_the_model(
    size: int, buffer_bytes: int, tmp_path: Path, load: Callable[..., list[Share]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safetensors_file, "BUFFER_BYTES", buffer_bytes)
    folder = qwen3(tmp_path)
    file: dict[str, torch.Tensor] = {}
    for part in folder.glob("*.safetensors"):
        file |= load_file(part)
    layer = "model.layers.0."
    q, k, v, o = (file[f"{layer}self_attn.{name}_proj.weight"] for name in "qkvo")
    gate, up, down = (file[f"{layer}mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
    models = [share.model for share in load(folder, size)]
    for index, model in enumerate(models):
        assert isinstance(model, Decoder)
        own = [tensor.chunk(size)[index] for tensor in (q, gate, up)]
        head = index * 2 // size
        keys, values = (tensor[head * 32 : (head + 1) * 32] for tensor in (k, v))
        first = model.layers[0]
        assert torch.equal(plain(first.qkv), torch.cat([own[0], keys, values]))
        assert torch.equal(plain(first.mlp.gate_up), torch.cat(own[1:]))
        assert torch.equal(plain(first.o_proj.weight), o.chunk(size, 1)[index])
        assert torch.equal(plain(first.mlp.down.weight), down.chunk(size, 1)[index])
        rows = file["lm_head.weight"]
        assert torch.equal(model.head.state.vectors[0], rows[NO_YES[1]] - rows[NO_YES[0]])
        assert model.kv_shape is not None
        assert model.kv_shape.num_kv_heads == max(1, 2 // size)
    tables = [model.embedding.table for model in models if isinstance(model, Decoder)]
    assert torch.equal(torch.cat(tables), file["model.embed_tokens.weight"])


def test_a_tied_head_is_read_wherever_its_rows_are(tmp_path: Path, load: Callable[..., list[Share]]) -> None:
    """The rows of "no" and "yes" are in the first worker's run of words; the second reads these two besides its own."""
    folder = make_qwen3(tmp_path, hidden=128, tied=True)
    embedding = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    for share in load(folder, 2):
        assert isinstance(share.model, Decoder)
        assert torch.equal(share.model.head.state.vectors[0], embedding[NO_YES[1]] - embedding[NO_YES[0]])


def test_the_shares_of_fused_tensors_are_the_model(tmp_path: Path, load: Callable[..., list[Share]]) -> None:
    folder = modernbert(tmp_path)
    file = load_file(folder / "model.safetensors")
    fused, gated = file["model.layers.1.attn.Wqkv.weight"], file["model.layers.1.mlp.Wi.weight"]
    for index, share in enumerate(load(folder, 2)):
        assert isinstance(share.model, Encoder)
        layer = share.model.layers[1]
        (projection,) = layer.attention.projections
        assert torch.equal(plain(projection), torch.cat([part.chunk(2)[index] for part in fused.chunk(3)]))
        assert torch.equal(plain(layer.up), torch.cat([half.chunk(2)[index] for half in gated.chunk(2)]))


def test_made_up_weights_are_divided_the_same_way(tmp_path: Path, load: Callable[..., list[Share]]) -> None:
    folder = qwen3(tmp_path)
    (alone,), shares = load(folder, 1, dummy=True), load(folder, 2, dummy=True)

    def layer(share: Share) -> Any:
        assert isinstance(share.model, Decoder)
        return share.model.layers[0]

    whole = plain(layer(alone).mlp.down.weight)
    assert torch.equal(torch.cat([plain(layer(share).mlp.down.weight) for share in shares], 1), whole)
    gates = [plain(layer(share).mlp.gate_up).chunk(2)[0] for share in shares]
    assert torch.equal(torch.cat(gates), plain(layer(alone).mlp.gate_up).chunk(2)[0])


@pytest.mark.parametrize(("units", "size"), [(8, 2), (8, 8), (2, 4), (1, 4), (2000, 3), (7, 4)])
def test_parts_cover_everything(units: int, size: int) -> None:
    parts = [TPGroup(index, size).part(units) for index in range(size)]
    assert {unit for part in parts for unit in part} == set(range(units))
    if units >= size:
        assert sum(map(len, parts)) == units
        assert max(map(len, parts)) <= math.ceil(units / size)
    else:
        assert {len(part) for part in parts} == {1}
