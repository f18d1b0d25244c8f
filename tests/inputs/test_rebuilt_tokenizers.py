"""Classes of tokenizers that transformers 5 builds anew: it is said where its ids differ from tokenizer.json's."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import Tokenizer

from engine.checkpoint.files import load_tokenizer
from engine.checkpoint.rebuilt_tokenizer import marks_otherwise, reads_otherwise, rebuilt
from engine.checkpoint.resolve import resolve_model
from engine.config import ModelConfig
from engine.errors import ConfigError
from tests.support.checkpoints import make_bert
from tests.support.texts import TEXTS
from tests.support.tokenizer_files import TOKENIZERS

SPACES = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
NO_TABLE = {"type": "Sequence", "normalizers": [SPACES]}
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
WORDS = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, METASPACE]}
Change = Callable[[dict[str, Any]], None]
PLAIN_WORDS = {"normalizer": None, "pre_tokenizer": WORDS}
CASES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "XLM-R as published first": ("xlm-roberta", "XLMRobertaTokenizer", PLAIN_WORDS, {}),
    "XLM-R as published later": ("xlm-roberta", "XLMRobertaTokenizerFast", {"normalizer": NO_TABLE}, {}),
    "XLM-R, another normaliser": ("xlm-roberta", "XLMRobertaTokenizer", {}, {}),
    "CamemBERT": ("xlm-roberta", "CamembertTokenizer", {}, {}),
    "DeBERTa": ("deberta", "DebertaV2Tokenizer", {}, {}),
    "DeBERTa, lower case, punctuation": (
        "deberta", "DebertaV2TokenizerFast", {}, {"do_lower_case": True, "split_by_punct": True},
    ),
    "BERT": ("bert", "BertTokenizer", {}, {}),
    "BERT, cased without saying so": ("bert", "BertTokenizerFast", {"normalizer": None}, {}),
    "RoBERTa": ("roberta", "RobertaTokenizer", {}, {}),
    "RoBERTa, another normaliser": ("roberta", "RobertaTokenizer", {"normalizer": {"type": "Lowercase"}}, {}),
    "the library's own class": ("bert", "PreTrainedTokenizerFast", {"normalizer": None}, {}),
}  # fmt: skip
SAME = ("XLM-R as published first", "BERT", "RoBERTa", "the library's own class")
ODD = ["a  b ", "Ｆｕｌｌ ﬁ", "x\ny\tz ", "Case ÀÉ e\u0301, don't", *TEXTS[:6]]


@pytest.mark.parametrize("name", CASES)
def test_where_the_ids_are_others_it_is_said(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kind, class_name, changes, settings = CASES[name]
    text, stated = TOKENIZERS[kind]()
    stated = {**stated, **settings, "tokenizer_class": class_name}
    (tmp_path / "tokenizer.json").write_text(json.dumps({**json.loads(text), **changes}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(stated))
    (tmp_path / "config.json").write_text("{}")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    expected = [theirs(one, add_special_tokens=False)["input_ids"] for one in ODD]
    with caplog.at_level("INFO"):
        ours = load_tokenizer(tmp_path, says_so=True)
    assert ids(rebuilt(ours, stated, None) or ours) == expected
    is_same = ids(ours) == expected
    assert is_same == (name in SAME)
    assert is_same == (reads_otherwise(ours, stated, None) is None)
    assert is_same != ("transformers 5 builds its class anew" in caplog.text)


def ids(tokenizer: Tokenizer) -> list[list[int]]:
    return [list(tokenizer.encode(text, add_special_tokens=False).ids) for text in ODD]


@pytest.mark.parametrize(
    ("changes", "settings"),
    [({"post_processor": None}, {}), ({}, {"sep_token": "[MASK]"}), ({}, {"cls_token": {"content": "[PAD]"}})],
)
def test_marks_that_two_files_state_otherwise_are_refused(
    changes: dict[str, Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    """transformers takes those of tokenizer_config.json; a head of [CLS] must not read a word of the query."""
    folder = make_bert(tmp_path / "m", layers=1)
    text, stated = TOKENIZERS["bert"]()
    assert marks_otherwise(Tokenizer.from_str(text), stated, "bert") is None
    (folder / "tokenizer.json").write_text(json.dumps({**json.loads(text), **changes}))
    (folder / "tokenizer_config.json").write_text(json.dumps({**stated, **settings}))
    (folder / "adapter_config.json").write_text("{}")
    config = ModelConfig(model=str(folder))
    with pytest.raises(ConfigError, match=r"tokenizer_class = BertTokenizer, and by it a pair is \[.*\] A \[.*\] B"):
        resolve_model(config)
    resolve_model(replace(config, ignore_config_key=("tokenizer_class",)))
