"""Two tokenizers, one set of ids: kitoken is taken only where it says what Hugging Face's tokenizers say."""

from __future__ import annotations

import json
import sys
from functools import lru_cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from engine.inputs import encoder as module
from engine.inputs.encoder import HuggingFaceEncoder, KitokenEncoder, choose_encoder, first_difference, joined
from engine.inputs.encoder_sample import sample_texts
from tests.support.texts import TEXTS
from tests.support.tokenizer_files import TOKENIZERS

BYTE_LEVEL = ("qwen", "llama", "roberta", "modernbert")
SCRIPTS = st.sampled_from(
    [
        "Latin",
        "éèüßñøå",
        "Кириллица",
        "ελληνικά",
        "漢字仮名かな",
        "한글 음절",
        "עברית",
        "العربية",
        "देवनागरी",
        "ไทยคำ",
        "😀👩\u200d🚀🏽",
    ]
)
WORDS = SCRIPTS.flatmap(lambda letters: st.text(st.sampled_from(letters), min_size=1, max_size=8))
MARKS = st.sampled_from(
    ["<|im_start|>", "<think>", "<tool_call>", "</s>", "[SEP]", "<|im_start", "\u0301", "\u1abf\u0301"]
)
ANY = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)


@lru_cache
def plain(name: str) -> Tokenizer:
    tokenizer = Tokenizer.from_str(TOKENIZERS[name]()[0])
    tokenizer.encode_special_tokens = True
    return tokenizer


@lru_cache
def both(name: str) -> tuple[KitokenEncoder, HuggingFaceEncoder]:
    fast = choose_encoder(plain(name))
    assert isinstance(fast, KitokenEncoder)
    return fast, HuggingFaceEncoder(plain(name))


@pytest.mark.parametrize("name", BYTE_LEVEL)
@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(st.one_of(WORDS, MARKS, ANY, st.sampled_from([" ", "  ", "\n", "\r\n\t"])), max_size=12)))
@example([["e", "\u1abf\u0301o"], ["\U000113c2\U000113c2"], ["a <think> b"], ["\u00a0\u3000x"]])
def test_the_ids_are_the_same_in_every_script(name: str, parts: list[list[str]]) -> None:
    texts = ["".join(words) for words in parts]
    (ids, bounds), (expected, other_bounds) = (one.encode_batch(texts) for one in both(name))
    assert bounds.tolist() == other_bounds.tolist()
    np.testing.assert_array_equal(ids, expected)


@pytest.mark.parametrize("name", ["qwen"])
def test_every_letter_of_unicode_gives_the_same_ids(name: str) -> None:
    letters = [chr(code) for code in range(0, 0x110000, 61) if not 0xD800 <= code < 0xE000]
    texts = [f"a{letter}a {letter}1{letter}{letter}\n e{letter}\u0301" for letter in letters]
    (ids, _), (expected, _) = (one.encode_batch(texts) for one in both(name))
    np.testing.assert_array_equal(ids, expected)


@pytest.mark.parametrize("name", ["bert", "xlm-roberta", "deberta", "gemma"])
def test_other_kinds_of_tokenizers_stay_with_hugging_face(name: str) -> None:
    chosen = choose_encoder(plain(name))
    assert isinstance(chosen, HuggingFaceEncoder)
    assert chosen.note.endswith("it is no byte-level BPE")


def test_a_tokenizer_whose_ids_differ_stays_with_hugging_face(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(KitokenEncoder):
        def encode_batch(self, texts):  # type: ignore[no-untyped-def]
            ids, bounds = super().encode_batch(texts)
            return np.where(ids == ids.max(), 0, ids), bounds

    monkeypatch.setattr(module, "KitokenEncoder", Wrong)
    chosen = choose_encoder(plain("qwen"))
    assert isinstance(chosen, HuggingFaceEncoder)
    assert "kitoken gives other ids for '" in chosen.note


def test_without_the_package_a_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kitoken", None)
    assert "pip install 'kitoken" in choose_encoder(plain("qwen")).note


def test_a_tokenizer_that_it_cannot_read_stays_with_hugging_face(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kitoken.Kitoken.from_tokenizers", lambda data: (_ for _ in ()).throw(ValueError("no")))
    assert "cannot read this tokenizer (no)" in choose_encoder(plain("qwen")).note


def test_a_normaliser_of_another_kind_is_not_tried() -> None:
    stored = json.loads(TOKENIZERS["qwen"]()[0]) | {"normalizer": {"type": "NFKC"}}
    assert "its normaliser is not NFC" in choose_encoder(Tokenizer.from_str(json.dumps(stored))).note


def test_texts_with_added_tokens_are_left_to_hugging_face() -> None:
    tokenizer = Tokenizer.from_str(TOKENIZERS["qwen"]()[0])
    tokenizer.add_tokens([AddedToken("two words", single_word=True, lstrip=True)])
    tokenizer.encode_special_tokens = True
    fast = choose_encoder(tokenizer)
    assert isinstance(fast, KitokenEncoder)
    texts = ["two words", "see two words here", "twotwo wordswords", "<tool_call>", "plain", *TEXTS]
    expected = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    ids, bounds = fast.encode_batch(texts)
    assert [ids[a:b].tolist() for a, b in pairwise(bounds)] == expected


def test_the_sample_is_fixed_and_has_every_script() -> None:
    assert sample_texts()[:3] == ("", " ", "  ")
    assert len(set(sample_texts())) > 1000
    assert sample_texts.__wrapped__() == sample_texts()
    assert first_difference(*both("qwen")) is None


def test_joined_lists_begin_where_it_is_said() -> None:
    ids, bounds = joined([[1, 2], [], [3]])
    assert (ids.tolist(), str(ids.dtype), bounds.tolist()) == ([1, 2, 3], "int32", [0, 2, 2, 3])
    assert [part.tolist() for part in joined([])] == [[], [0]]
