"""The made-up checkpoints are what they claim: transformers loads them, and their oracle is the published formula."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from tests.support.checkpoints import (
    PREFIX,
    SUFFIX,
    make_bert,
    make_qwen3,
    make_xlm_roberta,
    official_qwen3_ids,
    official_qwen3_scores,
)
from tests.support.safetensors_writer import BLOCK, LazyTensor, blocks, stored
from tests.support.texts import TEXTS

QUERY, DOCUMENTS = "What is the capital of China?", ["Beijing is the capital.", "Gravity is a force.", ""]


def load(auto: Any, folder: Path) -> tuple[Any, dict[str, Any]]:
    model, info = auto.from_pretrained(folder, output_loading_info=True)
    return model, info


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounding_is_torchs(dtype: str) -> None:
    values = np.random.default_rng(0).standard_normal(10_000).astype(np.float32) * np.float32(3)
    expected = torch.from_numpy(values).to(getattr(torch, dtype)).view(torch.int16).numpy().tobytes()
    assert stored(values, dtype).tobytes() == expected


def test_large_tensors_are_made_in_blocks() -> None:
    width = 1000
    tensor = LazyTensor("x", (2 * BLOCK // width + 7, width), lambda n: np.random.default_rng(0).random(n, np.float32))
    rows = np.concatenate(list(blocks(tensor, "float32"))).reshape(tensor.shape)
    assert len(np.unique(rows[:, :4].round(6), axis=0)) == len(rows)


def test_shards_hold_the_same_weights(tmp_path: Path) -> None:
    whole, parts = make_qwen3(tmp_path / "1", tied=False), make_qwen3(tmp_path / "3", tied=False, shards=3)
    index = json.loads((parts / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) == 3
    with safe_open(whole / "model.safetensors", "pt") as one:
        assert set(one.keys()) == set(index["weight_map"])
        for name, file in index["weight_map"].items():
            with safe_open(parts / file, "pt") as shard:
                assert torch.equal(shard.get_tensor(name), one.get_tensor(name))
    assert official_qwen3_scores(whole, QUERY, DOCUMENTS) == official_qwen3_scores(parts, QUERY, DOCUMENTS)


@pytest.mark.parametrize("tied", [True, False])
def test_transformers_loads_all_of_it(tmp_path: Path, tied: bool) -> None:
    folder = make_qwen3(tmp_path, tied=tied, dtype="bfloat16", attention_bias=True)
    model, info = load(AutoModelForCausalLM, folder)
    assert not info["unexpected_keys"]
    assert not set(info["missing_keys"]) - {"lm_head.weight"}
    assert model.dtype == torch.bfloat16
    ids = official_qwen3_ids(folder, QUERY, DOCUMENTS)
    text = str(AutoTokenizer.from_pretrained(folder).decode(ids[0]))
    assert text.startswith(PREFIX)
    assert text.endswith(DOCUMENTS[0] + SUFFIX)


def test_scores_depend_on_the_text(tmp_path: Path) -> None:
    scores = official_qwen3_scores(make_qwen3(tmp_path, layers=4), QUERY, TEXTS)
    assert np.std(scores) > 0.02
    assert len({round(score, 6) for score in scores}) > 0.9 * len(scores)


@pytest.mark.parametrize("bias", [False, True])
def test_converted(tmp_path: Path, bias: bool) -> None:
    folder = make_qwen3(tmp_path, converted=True, score_bias=bias)
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert file.get_slice("score.weight").get_shape() == [1, 64]
        assert ("score.bias" in file.keys()) == bias  # noqa: SIM118 - not a mapping
    scores = official_qwen3_scores(folder, QUERY, DOCUMENTS)
    assert len(set(scores)) == len(scores)


def test_the_bias_counts(tmp_path: Path) -> None:
    with_bias = make_qwen3(tmp_path / "a", converted=True, score_bias=True)
    without = make_qwen3(tmp_path / "b", converted=True)
    logits = [
        np.log(np.array(s) / (1 - np.array(s)))
        for s in (official_qwen3_scores(f, QUERY, DOCUMENTS) for f in (with_bias, without))
    ]
    difference = logits[0] - logits[1]
    assert abs(difference[0]) > 0.01
    assert np.allclose(difference, difference[0], atol=1e-5)


@pytest.mark.parametrize("make", [make_bert, make_xlm_roberta])
def test_encoders(tmp_path: Path, make) -> None:
    folder = make(tmp_path)
    model, info = load(AutoModelForSequenceClassification, folder)
    assert not info["unexpected_keys"]
    assert not set(info["missing_keys"])
    batch = AutoTokenizer.from_pretrained(folder)(QUERY, DOCUMENTS[0], return_tensors="pt")
    assert model(**batch).logits.shape == (1, 1)
