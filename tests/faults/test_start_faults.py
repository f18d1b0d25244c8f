"""What cannot start says so in one line, with what to do: damaged files, wrong settings, absent devices and networks.

The commands run in this process; a few of these rows are also shown on real servers, in ``tests/e2e``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.checkpoints import make_qwen3
from tests.support.commands import QUIET, run_here

WEIGHTS, TOKENIZER, CONFIG = "model.safetensors", "tokenizer.json", "config.json"
Damage = Callable[[Path], None]


def cut(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def wrong_header_length(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes((10**9).to_bytes(8, "little") + content[8:])


def pointer(folder: Path) -> None:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123456\n"
    (folder / WEIGHTS).write_text(text)


def tensors(change: Callable[[dict[str, torch.Tensor]], None]) -> Damage:
    def damage(folder: Path) -> None:
        stored = load_file(folder / WEIGHTS)
        change(stored)
        save_file(stored, folder / WEIGHTS)

    return damage


UP = "model.layers.0.mlp.up_proj.weight"


def without_norms(stored: dict[str, torch.Tensor]) -> None:
    for name in [name for name in stored if "norm" in name]:
        del stored[name]


def one_too_many(stored: dict[str, torch.Tensor]) -> None:
    stored["model.layers.7.mlp.up_proj.weight"] = torch.zeros(3, 3)


def fewer_rows(stored: dict[str, torch.Tensor]) -> None:
    stored[UP] = stored[UP][:5].clone()


def of_integers(stored: dict[str, torch.Tensor]) -> None:
    stored[UP] = stored[UP].int()


def not_a_number(stored: dict[str, torch.Tensor]) -> None:
    stored[UP] *= torch.nan


def smaller_vocabulary(folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"vocab_size": 100}))
    tensors(
        lambda stored: stored.update({"model.embed_tokens.weight": stored["model.embed_tokens.weight"][:100].clone()})
    )(folder)


DAMAGES: dict[str, tuple[Damage, list[str]]] = {
    "truncated": (cut, ["is truncated: expected", "bytes, found"]),
    "header length": (wrong_header_length, ["its header should have 1,000,000,000 bytes, but the whole file has"]),
    "zero bytes": (lambda folder: (folder / WEIGHTS).write_bytes(b"") and None, ["it has 0 bytes"]),
    "LFS pointer": (pointer, ["git-LFS pointer to a file of 123,456 bytes", "git lfs pull"]),
    "missing tensors": (tensors(without_norms), ["missing: layers.0.input_layernorm.weight (64)", ", ..."]),
    "a tensor too many": (tensors(one_too_many), ["1 not part of this model: layers.7.mlp.up_proj.weight (3, 3)"]),
    "wrong shape": (
        tensors(fewer_rows),
        ["1 of the wrong shape: layers.0.mlp.up_proj.weight (5, 64) instead of (160, 64)"],
    ),
    "wrong dtype": (tensors(of_integers), ["layers.0.mlp.up_proj.weight int32"]),
    "not finite": (tensors(not_a_number), ["not finite"]),
    "no tokenizer": (lambda folder: (folder / TOKENIZER).unlink(), ["has no tokenizer.json"]),
    "broken tokenizer": (
        lambda folder: (folder / TOKENIZER).write_text('{"a":') and None,
        ["cannot be read as a tokenizer"],
    ),
    "vocabulary": (smaller_vocabulary, ["gives ids up to", "the model's vocabulary has 100 entries"]),
}


def told(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str]:
    """The exit code and the message, which is for people."""
    device = [] if "--device" in words else QUIET
    code = run_here("check", *words, "--query", "q", "--document", "d", *device)
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return code, error[error.rindex("engine: ") :]


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage, words = DAMAGES[name]
    folder = make_qwen3(tmp_path / "Qwen3-Reranker")
    damage(folder)
    code, error = told(capsys, folder)
    assert code == 1, error
    assert str(folder) in error
    for word in words:
        assert word in error


def test_a_missing_shard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_qwen3(tmp_path / "Qwen3-Reranker", shards=3)
    sorted(folder.glob("model-*.safetensors"))[1].unlink()
    code, error = told(capsys, folder)
    assert code == 1
    assert "shard model-00002-of-00003.safetensors is missing (3 shards are named)" in error


ORIGINAL: dict[str, Any] = {"is_original_qwen3_reranker": True}
SETTINGS: dict[str, tuple[list[str], str]] = {
    "a label of two tokens": (
        ["--hf-overrides", json.dumps(ORIGINAL | {"classifier_from_token": ["no", "maybe not"]})],
        "maybe not",
    ),
    "three labels": (["--hf-overrides", json.dumps(ORIGINAL | {"classifier_from_token": ["no", "yes", "a"]})], "two"),
    "bad JSON": (["--hf-overrides", '{"architectures": ['], "--hf-overrides is not valid JSON"),
    "architecture": (
        ["--hf-overrides", '{"architectures": ["Foo"]}'],
        "Foo (model_type qwen3) is not supported. These are: Qwen3",
    ),
    "code": (["--hf-overrides", '{"auto_map": {}}'], "auto_map is refused"),
    "cuda": (["--device", "cuda"], "device 'cuda' was asked for but is not usable"),
    "npu": (["--device", "npu"], "pip install 'torch"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_wrong_setting(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words, expected = SETTINGS[name]
    if name == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has one")
    code, error = told(capsys, make_qwen3(tmp_path / "Qwen3-Reranker"), *words)
    assert code == 2
    assert expected in error
    assert ("^" in error) == (name == "bad JSON")


def test_labels_the_wrong_way_round(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing can prove it, so it is a warning. Whatever random weights think of the self-test's two passages, with the
    labels swapped they think the opposite: of the two orders, one is warned about."""
    folder = make_qwen3(tmp_path / "Qwen3-Reranker")
    warned = []
    for tokens in (["no", "yes"], ["yes", "no"]):
        words = ["--hf-overrides", json.dumps(ORIGINAL | {"classifier_from_token": tokens})]
        assert run_here("check", folder, *words, "--query", "q", "--document", "d", *QUIET) == 0
        warned.append("SELF-TEST" in capsys.readouterr().err)
    assert sorted(warned) == [False, True]


def test_no_network_and_nothing_cached(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, error = told(capsys, "somebody/never-cached")
    assert code == 1
    assert "is not in the local cache" in error
    assert "small reranker of the package" in error
