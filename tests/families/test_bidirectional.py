"""Decoders whose config.json says ``is_causal: false``: every token sees all of its pair, as in transformers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from engine import LLM
from engine.checkpoint.resolve import resolve_model
from engine.config import ModelConfig
from engine.errors import ConfigError, ModelLoadError
from tests.families.cases import FAMILIES
from tests.support.random_models import save_random
from tests.support.texts import TEXTS

BODIES = ("Qwen3", "Qwen2", "Llama")
QUERY, DOCUMENTS = "capital", [*TEXTS[:8], "", " ".join(TEXTS[:5])]
SIZES = {
    "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "intermediate_size": 64, "max_position_embeddings": 1024, "pad_token_id": 0,
}  # fmt: skip
BOTH_WAYS = {"is_causal": False, "use_sep_token": False}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make(folder: Path, architecture: str, tokenizer: str = "qwen", **changes: Any) -> Path:
    return save_random(folder, architecture, tokenizer, config_changes=BOTH_WAYS | changes, **SIZES)


@torch.inference_mode()
def expected(folder: Path, prompts: Sequence[list[int]]) -> list[torch.Tensor]:
    """Logits of the last token, by transformers."""
    kind = (
        transformers.AutoModelForCausalLM
        if "causal" in folder.name
        else transformers.AutoModelForSequenceClassification
    )
    model = kind.from_pretrained(folder, dtype=torch.float32).eval()
    assert model.config.is_causal is False
    for layer in model.model.layers:
        layer.self_attn.is_causal = False
    rows = [model(input_ids=torch.tensor([ids])).logits[0] for ids in prompts]
    return [row[-1] if row.ndim == 2 else row for row in rows]


@pytest.mark.parametrize("body", BODIES)
def test_a_classifier(body: str, tmp_path: Path) -> None:
    folder = make(tmp_path / "classifier", f"{body}ForSequenceClassification")
    with LLM(model=str(folder), device="cpu", cpu_threads=1) as llm:
        outputs = llm.score(QUERY, DOCUMENTS, use_tqdm=False)
        alone = llm.score(QUERY, DOCUMENTS[3], use_tqdm=False)[0]
    theirs = [row.item() for row in expected(folder, [output.prompt_token_ids for output in outputs])]
    assert [output.outputs.logit for output in outputs] == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    assert alone.outputs.score == pytest.approx(outputs[3].outputs.score, abs=1e-6)


def test_an_answer_of_two_tokens(tmp_path: Path) -> None:
    folder = make(tmp_path / "causal lm", "Qwen3ForCausalLM")
    head = {"classifier_from_token": ["no", "yes"], "method": "from_2_way_softmax"}
    with LLM(model=str(folder), device="cpu", cpu_threads=1, hf_overrides=head) as llm:
        outputs = llm.score(QUERY, DOCUMENTS, use_tqdm=False)
    no, yes = resolve_model(ModelConfig(model=str(folder), hf_overrides=head)).head.token_ids
    theirs = [(row[yes] - row[no]).item() for row in expected(folder, [output.prompt_token_ids for output in outputs])]
    assert [output.outputs.logit for output in outputs] == pytest.approx(theirs, rel=1e-4, abs=1e-5)


def test_the_decision_says_so(tmp_path: Path) -> None:
    folder = make(tmp_path / "classifier", "Qwen3ForSequenceClassification")
    spec = resolve_model(ModelConfig(model=str(folder)))
    assert not spec.causal
    assert "every token sees all of its pair" in spec.decision
    assert resolve_model(ModelConfig(model=str(folder), ignore_config_key=("is_causal",))).causal


def test_what_is_refused(tmp_path: Path) -> None:
    windowed = make(tmp_path / "a", "MistralForSequenceClassification", "llama", sliding_window=64)
    with pytest.raises(ConfigError, match="is_causal = False, which is not supported together with a sliding_window"):
        resolve_model(ModelConfig(model=str(windowed)))
    bidirectional = FAMILIES["llama_bidirec"]
    for changes, message in (
        ({"pooling": "weighted_avg"}, "pools tokens by 'weighted_avg', which is not supported"),
        ({"temperature": 0}, "no usable temperature: 0"),
    ):
        shape = bidirectional.shapes["first token"] | changes
        folder = bidirectional.write(tmp_path / message[:5], bidirectional.architecture, "llama", **shape)
        with pytest.raises((ConfigError, ModelLoadError), match=message):
            resolve_model(ModelConfig(model=str(folder)))
