"""From checkpoint to parameters: names, shapes, fused projections, heads, made-up weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.backends.loading import safetensors_file
from engine.backends.loading.parameters import Parameters
from engine.backends.loading.weights import check_tensors, load_weights, make_up_weights, open_checkpoint
from engine.backends.models import find_family
from engine.backends.nn.decoder import Decoder
from engine.errors import ModelLoadError
from engine.kernels.reference import ReferenceLinear, ReferenceOps
from engine.model_spec import HeadSpec
from tests.backends.plans import NO_YES, spec_of
from tests.support.checkpoints import make_qwen3

CPU = torch.device("cpu")


def load(folder: Path, *, dummy_seed: int | None = None, narrow: bool = False, **spec: Any) -> Decoder:
    family, model_spec = find_family("qwen3"), spec_of(folder, **spec)
    tensors = None if dummy_seed is not None else open_checkpoint(str(folder), family.CHECKPOINT_PREFIX)
    params = Parameters(ReferenceOps(), device=CPU, dtype=torch.float32, tensors=tensors, keep_narrow_tables=narrow)
    model = family.build(model_spec, params)
    if tensors is None:
        make_up_weights(params.destinations, dummy_seed or 0)
    else:
        check_tensors(model_spec.path, params.destinations, tensors)
        load_weights(params.destinations, tensors)
    model.finish()
    assert isinstance(model, Decoder)
    return model


def rewrite(folder: Path, change: Any) -> dict[str, torch.Tensor]:
    tensors = change(load_file(folder / "model.safetensors"))
    save_file(tensors, folder / "model.safetensors")
    return tensors


def plain(weight: Any) -> torch.Tensor:
    assert isinstance(weight, ReferenceLinear)
    return weight.weight


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_qwen3(tmp_path, layers=2, seed=3)


@pytest.mark.parametrize("buffer_bytes", [8 << 20, 1000])
def test_tensors_land_in_their_fused_places(folder: Path, monkeypatch, buffer_bytes: int) -> None:
    monkeypatch.setattr(safetensors_file, "BUFFER_BYTES", buffer_bytes)
    model, file = load(folder), load_file(folder / "model.safetensors")
    first, last = (f"model.layers.{i}" for i in range(2))
    qkv = [file[f"{first}.self_attn.{part}_proj.weight"] for part in "qkv"]
    assert torch.equal(plain(model.layers[0].qkv), torch.cat(qkv))
    assert torch.equal(
        plain(model.last_layer.kv_proj), torch.cat([file[f"{last}.self_attn.{p}_proj.weight"] for p in "kv"])
    )
    assert torch.equal(plain(model.last_layer.q_proj), file[f"{last}.self_attn.q_proj.weight"])
    gate_up = [file[f"{first}.mlp.{part}_proj.weight"] for part in ("gate", "up")]
    assert torch.equal(plain(model.layers[0].mlp.gate_up), torch.cat(gate_up))
    assert torch.equal(model.embedding.table, file["model.embed_tokens.weight"])
    assert torch.equal(model.norm, file["model.norm.weight"])


def test_names_without_prefix_are_the_same_model(folder: Path) -> None:
    before = load(folder)
    rewrite(folder, lambda tensors: {name.removeprefix("model."): tensor for name, tensor in tensors.items()})
    after = load(folder)
    assert torch.equal(plain(before.layers[0].qkv), plain(after.layers[0].qkv))


def test_head_from_tied_rows_is_exact(tmp_path: Path) -> None:
    make_qwen3(tmp_path, dtype="bfloat16")
    model, file = load(tmp_path), load_file(tmp_path / "model.safetensors")
    rows = file["model.embed_tokens.weight"].double()
    assert model.head.state.vectors.dtype == torch.float32
    expected = rows[NO_YES[1]] - rows[NO_YES[0]]
    torch.testing.assert_close(model.head.state.vectors[0].double(), expected, atol=0, rtol=1e-7)
    assert model.num_outputs == 1


def test_head_from_untied_rows_reads_only_them(tmp_path: Path, monkeypatch) -> None:
    make_qwen3(tmp_path, tied=False)
    file = load_file(tmp_path / "model.safetensors")
    tensors = open_checkpoint(str(tmp_path), "model.")
    head = tensors["lm_head.weight"]
    read: list[tuple[int, int]] = []
    preadv = safetensors_file.os.preadv
    monkeypatch.setattr(
        safetensors_file.os, "preadv", lambda fd, views, at: read.append((at, len(views[0]))) or preadv(fd, views, at)
    )
    model = load(tmp_path)
    assert torch.equal(
        model.head.state.vectors[0], file["lm_head.weight"][NO_YES[1]] - file["lm_head.weight"][NO_YES[0]]
    )
    row_bytes = head.num_bytes // head.shape[0]
    inside = [(at, size) for at, size in read if head.offset <= at < head.offset + head.num_bytes]
    assert sorted(inside) == sorted((head.offset + row * row_bytes, row_bytes) for row in NO_YES)


def test_head_without_post_processing_keeps_the_rows(folder: Path) -> None:
    model = load(folder, head=HeadSpec(kind="no_post_processing", token_ids=(5, 3, 9), num_labels=3))
    assert torch.equal(model.head.state.vectors, model.embedding.table[[5, 3, 9]])
    assert model.num_outputs == 3


def test_converted_head(tmp_path: Path) -> None:
    make_qwen3(tmp_path, converted=True, score_bias=True)
    model, file = load(tmp_path), load_file(tmp_path / "model.safetensors")
    assert torch.equal(model.head.state.vectors, file["score.weight"])
    assert model.head.state.bias is not None
    assert torch.equal(model.head.state.bias, file["score.bias"])


def test_number_of_labels_is_compared_with_the_file(tmp_path: Path) -> None:
    make_qwen3(tmp_path, converted=True)
    with pytest.raises(ModelLoadError, match=r"says 2 label\(s\).*score\.weight has 1"):
        load(tmp_path, head=HeadSpec(kind="classifier", num_labels=2))


def test_bf16_embedding_may_stay_narrow(tmp_path: Path) -> None:
    make_qwen3(tmp_path, dtype="bfloat16")
    assert load(tmp_path, narrow=True).embedding.table.dtype == torch.bfloat16
    assert load(tmp_path, narrow=False).embedding.table.dtype == torch.float32


def test_tied_copy_of_the_embedding_is_harmless(folder: Path) -> None:
    before = load(folder).head.state.vectors
    rewrite(folder, lambda t: t | {"lm_head.weight": t["model.embed_tokens.weight"].clone()})
    assert torch.equal(load(folder).head.state.vectors, before)


def test_tie_flag_against_the_files(folder: Path) -> None:
    with pytest.raises(
        ModelLoadError, match=r"no lm_head\.weight, and tie_word_embeddings in its config\.json is false"
    ):
        load(folder, tie_word_embeddings=False)
    rewrite(folder, lambda t: t | {"lm_head.weight": t["model.embed_tokens.weight"] + 1})
    with pytest.raises(ModelLoadError, match=r"says tie_word_embeddings=true, but its lm_head\.weight differs"):
        load(folder)


def test_missing_extra_and_wrong_tensors_are_named(folder: Path) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        for part in ("q", "k", "v", "o"):
            for layer in (0, 1):
                del tensors[f"model.layers.{layer}.self_attn.{part}_proj.weight"]
        tensors["model.norm.weight"] = torch.ones(63)
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(16)  # harmless
        tensors["model.layers.7.mlp.up_proj.weight"] = torch.ones(4, 2)
        return tensors

    rewrite(folder, spoil)
    with pytest.raises(ModelLoadError) as caught:
        load(folder)
    message = str(caught.value)
    assert "8 missing: layers.0.self_attn.q_proj.weight (128, 64), " in message
    assert "layers.1.self_attn.q_proj.weight (128, 64), ..." in message  # five are named
    assert "1 of the wrong shape: norm.weight (63) instead of (64)" in message
    assert "1 not part of this model: layers.7.mlp.up_proj.weight (4, 2)" in message
    assert "inv_freq" not in message
    assert str(folder) in message


def test_quantised_tensors_are_not_taken_for_weights(folder: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    rewrite(folder, lambda t: t | {name: torch.ones(t[name].shape, dtype=torch.int8)})
    with pytest.raises(ModelLoadError, match=r"1 quantised.*layers\.0\.mlp\.up_proj\.weight int8"):
        load(folder)


def test_both_spellings_of_one_name(folder: Path) -> None:
    rewrite(folder, lambda t: t | {"norm.weight": torch.ones(64)})
    with pytest.raises(ModelLoadError, match=r"'norm\.weight' twice"):
        load(folder)


def test_made_up_weights_depend_on_the_seed_alone(folder: Path) -> None:
    first, again, other = (load(folder, dummy_seed=seed) for seed in (4, 4, 5))
    assert torch.equal(plain(first.layers[0].qkv), plain(again.layers[0].qkv))
    assert torch.equal(first.head.state.vectors, again.head.state.vectors)
    assert not torch.equal(plain(first.layers[0].qkv), plain(other.layers[0].qkv))
    assert 0.9 < float(first.norm.mean()) < 1.1
    assert 0.01 < float(plain(first.layers[0].qkv).std()) < 0.03


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "relu"}, "activation 'relu' is not supported"),
        ({"num_key_value_heads": 3}, "4 query heads cannot share 3"),
        ({"rope_scaling": {"rope_type": "spiral"}}, "'spiral' is not supported"),
    ],
)
def test_configurations_that_would_score_wrongly_are_refused(folder: Path, changes: Any, message: str) -> None:
    with pytest.raises(ModelLoadError, match=message):
        load(folder, **changes)


def test_a_window_no_pair_reaches_is_fine(folder: Path) -> None:
    load(folder, use_sliding_window=True, sliding_window=512, max_model_len=512)


def test_unknown_family_lists_the_known() -> None:
    with pytest.raises(ModelLoadError, match=r"'gpt2' are not supported; supported are .*qwen3"):
        find_family("gpt2")
