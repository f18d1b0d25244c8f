"""``--model-impl transformers``: classes that the engine does not have score as the library scores one pair."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from engine import LLM
from engine.checkpoint.resolve import resolve_model
from engine.config import ModelConfig
from engine.errors import ConfigError, ModelLoadError
from tests.support.checkpoints import make_bert
from tests.support.random_models import save_random
from tests.support.texts import TEXTS

QUERY, DOCUMENTS = "Where do pandas live?", [*TEXTS[:9], "", *TEXTS[:3], " ".join(TEXTS[:4])]
SIZES = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "AlbertForSequenceClassification": ("bert", SIZES | {"embedding_size": 24}),
    "MobileBertForSequenceClassification": (
        "bert", SIZES | {"embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16},
    ),
    "RoFormerForSequenceClassification": ("bert", SIZES | {"embedding_size": 48, "max_position_embeddings": 512}),
    "MegatronBertForSequenceClassification": ("bert", SIZES),
    "ConvBertForSequenceClassification": ("bert", SIZES | {"embedding_size": 48}),
    "XLNetForSequenceClassification": (
        "bert", {"d_model": 48, "n_layer": 2, "n_head": 4, "d_inner": 64, "pad_token_id": 0},
    ),
    "DebertaForSequenceClassification": (
        "deberta", SIZES | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "pad_token_id": 0},
    ),
    "LongformerForSequenceClassification": (
        "roberta", SIZES | {"attention_window": 8, "max_position_embeddings": 514, "pad_token_id": 1},
    ),
    "GPT2ForSequenceClassification": ("qwen", {"n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 512}),
    "BloomForSequenceClassification": ("qwen", {"hidden_size": 48, "n_layer": 2, "n_head": 4}),
    "StableLmForSequenceClassification": ("llama", SIZES | {"num_key_value_heads": 2, "partial_rotary_factor": 0.5}),
    "BartForSequenceClassification": (
        "roberta",
        {
            "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "pad_token_id": 1,
            "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 512,
            "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2,
        },
    ),
}  # fmt: skip
SETTINGS: dict[str, Any] = {"model_impl": "transformers", "device": "cpu", "cpu_threads": 1}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@torch.inference_mode()
def expected(folder: Path, documents: list[str]) -> list[float]:
    """What a user of the library computes, one pair at a time."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    return [model(**tokenizer([QUERY], [text], return_tensors="pt")).logits[0, 0].item() for text in documents]


@pytest.mark.parametrize("architecture", CASES)
def test_scores_are_those_of_the_library(architecture: str, tmp_path: Path) -> None:
    tokenizer, sizes = CASES[architecture]
    folder = save_random(tmp_path, architecture, tokenizer, **sizes)
    with LLM(model=str(folder), max_model_len=500, **SETTINGS) as llm:
        together = llm.score(QUERY, DOCUMENTS, use_tqdm=False)
        alone = llm.score(QUERY, DOCUMENTS[4], use_tqdm=False)[0]
    theirs = expected(folder, DOCUMENTS)
    assert max(theirs) - min(theirs) > 1e-3, "the checkpoint does not tell pairs apart"
    assert [output.outputs.logit for output in together] == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    assert alone.outputs.score == pytest.approx(together[4].outputs.score, abs=1e-6)


def test_a_class_that_the_engine_has_itself_gives_the_same(tmp_path: Path) -> None:
    folder = make_bert(tmp_path)
    with LLM(model=str(folder), device="cpu", cpu_threads=1) as own, LLM(model=str(folder), **SETTINGS) as library:
        scores = [[o.outputs.logit for o in llm.score(QUERY, DOCUMENTS, use_tqdm=False)] for llm in (own, library)]
        notes = library.info.notes
    assert scores[0] == pytest.approx(scores[1], rel=1e-4, abs=1e-5)
    assert any(
        "runs BertForSequenceClassification of transformers" in n and "several times the time" in n for n in notes
    )


def test_it_is_never_chosen_in_silence(tmp_path: Path) -> None:
    folder = save_random(tmp_path, "AlbertForSequenceClassification", "bert", embedding_size=24, **SIZES)
    with pytest.raises(
        ConfigError, match=r"AlbertForSequenceClassification .* is not supported.*--model-impl transformers"
    ):
        resolve_model(ModelConfig(model=str(folder)))
    spec = resolve_model(ModelConfig(model=str(folder), model_impl="transformers"))
    assert "computed by transformers itself" in spec.decision


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        (
            {"architectures": ["AlbertForMaskedLM"]},
            {},
            "runs classes for sequence classification, and .* is AlbertForMaskedLM",
        ),
        ({"auto_map": {"AutoModel": "mine.Model"}}, {}, "the class mine.Model in a file beside the weights"),
        ({}, {"quantization": "int8"}, "--quantization is not supported with --model-impl transformers"),
        ({}, {"load_format": "dummy"}, "--load-format is not supported with --model-impl transformers"),
        ({}, {"lora_modules": {"a": "b"}}, "no folder of a LoRA adapter"),
        ({"model_type": "nothing"}, {}, "transformers .* cannot load .*: ValueError"),
        ({"num_labels": 3}, {}, "gives 3 values a pair"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = save_random(tmp_path, "AlbertForSequenceClassification", "bert", embedding_size=24, **SIZES)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises((ConfigError, ModelLoadError), match=message):
        LLM(model=str(folder), **SETTINGS | settings)


def test_weights_that_are_not_there(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = save_random(tmp_path, "AlbertForSequenceClassification", "bert", embedding_size=24, **SIZES)
    tensors = load_file(folder / "model.safetensors")
    del tensors["classifier.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelLoadError, match=r"would make up classifier\.weight"):
        LLM(model=str(folder), **SETTINGS)
