"""tokenizer_config.json beside tokenizer.json: the ids are those of transformers, or the model is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from engine.checkpoint.resolve import resolve_model
from engine.config import ModelConfig
from engine.errors import ConfigError
from engine.request import PairOptions
from tests.inputs.conftest import build
from tests.support.checkpoints import make_bert
from tests.support.random_models import save_random
from tests.support.texts import TEXTS

QUERY, DOCUMENTS = "Where do Pandas live, \u732b?", [*TEXTS[:8], "caf\u00e9 \u718a\u732b PANDA <mask> [MASK]"]
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def change(folder: Path, name: str, edit: Callable[[dict[str, Any]], Any]) -> None:
    stored = json.loads((folder / name).read_text())
    edit(stored)
    (folder / name).write_text(json.dumps(stored))


def bert(folder: Path) -> Path:
    return make_bert(folder, layers=1, hidden=16, heads=2, intermediate=16)


def roberta(folder: Path) -> Path:
    positions = {"max_position_embeddings": 514, "pad_token_id": 1, "type_vocab_size": 1}
    return save_random(folder, "RobertaForSequenceClassification", "roberta", **TINY, **positions)


FOLLOWED: dict[str, tuple[Callable[[Path], Path], dict[str, Any]]] = {
    "case is kept": (bert, {"do_lower_case": False}),
    "accents are kept": (bert, {"strip_accents": False}),
    "Chinese is not split": (bert, {"tokenize_chinese_chars": False}),
    "a class that does not normalise": (bert, {"do_lower_case": False, "tokenizer_class": "TokenizersBackend"}),
    "types of no class": (bert, {"tokenizer_class": None}),
    "a class without types": (bert, {"tokenizer_class": "DistilBertTokenizer"}),
    "types are named": (
        bert,
        {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "token_type_ids"]},
    ),
    "no types are named": (bert, {"model_input_names": ["input_ids", "attention_mask"]}),
    "a space before words": (roberta, {"tokenizer_class": "RobertaTokenizer", "add_prefix_space": True}),
    "a beginning is asked for, and the file has none": (bert, {"add_bos_token": True, "bos_token": "[CLS]"}),
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_ids_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    make, settings = FOLLOWED[name]
    folder = make(tmp_path / "m")
    change(folder, "tokenizer_config.json", lambda stored: stored.update(settings))
    theirs = AutoTokenizer.from_pretrained(folder)
    for text, pair in zip(DOCUMENTS[:-1], build(folder).encode([QUERY], DOCUMENTS[:-1], PairOptions()), strict=True):
        expected = theirs([QUERY], [text])
        assert pair.token_ids.tolist() == list(expected["input_ids"][0])
        types = expected.get("token_type_ids", [[0] * len(pair.token_ids)])[0]
        ours = [0] * len(types) if pair.token_type_ids is None else pair.token_type_ids.tolist()
        assert ours == list(types)


def test_what_is_followed_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = bert(tmp_path / "m")
    change(folder, "tokenizer_config.json", lambda stored: stored.update(do_lower_case=False))
    build(folder)
    assert caplog.text.count("says do_lower_case = false, and tokenizer.json does otherwise; the former counts") == 1


ADDED = {"9999": {"content": "panda bear", "special": False}}
LEFT = {"direction": "Left", "max_length": 64, "strategy": "LongestFirst", "stride": 0}
REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    ("tokenizer_config.json", {"truncation_side": "left"}, "truncation_side", "lose their end here"),
    ("tokenizer.json", {"truncation": LEFT}, "truncation_side", "lose their end here"),
    ("tokenizer_config.json", {"added_tokens_decoder": ADDED}, "added_tokens_decoder", "does not have this token"),
    (
        "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast"},
        "tokenizer_class",
        "transformers 4 gives a pair token types and transformers 5 gives none",
    ),
]


@pytest.mark.parametrize(("file", "changes", "key", "message"), REFUSED)
def test_other_settings_are_refused(file: str, changes: dict[str, Any], key: str, message: str, tmp_path: Path) -> None:
    folder = bert(tmp_path / "m")
    change(folder, file, lambda stored: stored.update(changes))
    with pytest.raises(ConfigError, match=f"{message}.*--ignore-config-key {key}"):
        resolve_model(ModelConfig(model=str(folder)))
    resolve_model(ModelConfig(model=str(folder), ignore_config_key=(key,)))


def test_a_published_prompt_is_cut_as_its_own_code_cuts_it(small: Callable[..., Path]) -> None:
    """Where the text is not read in the tokenizer's own form, its side of truncation means nothing."""
    folder = small()
    change(folder, "tokenizer_config.json", lambda stored: stored.update(truncation_side="left"))
    resolve_model(ModelConfig(model=str(folder)))
    with pytest.raises(ConfigError, match="truncation_side"):
        resolve_model(ModelConfig(model=str(folder), score_template="none"))
