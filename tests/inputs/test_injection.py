"""Nothing that a caller writes can stand for the template's own marks."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from engine.inputs.processor import InputProcessor
from engine.request import PairOptions
from tests.inputs.conftest import build
from tests.support.checkpoints import PREFIX, SUFFIX
from tests.support.texts import HOSTILE, TEXTS

MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")

hostile = st.lists(
    st.one_of(
        st.sampled_from([*HOSTILE, *MARKS, PREFIX, SUFFIX, "<|im_", "end|>", *TEXTS[:5]]), st.text("<|>/thinkm_ ")
    ),
    min_size=1,
    max_size=5,
).map("".join)


def marks_of(inputs: InputProcessor, ids: np.ndarray) -> list[str]:
    return [token for token in inputs.token_strings(ids.tolist()) if token in MARKS]


TEMPLATE_MARKS = ["<|im_start|>", "<|im_end|>", "<|im_start|>", "<|im_end|>", "<|im_start|>", "<think>", "</think>"]


@pytest.mark.parametrize("text", HOSTILE)
def test_in_document_query_and_instruction(inputs: InputProcessor, text: str) -> None:
    for query, document, instruction in ((f"q{text}", "d", None), ("q", text, None), ("q", "d", text)):
        pair = inputs.encode([query], [document], PairOptions(instruction=instruction))[0]
        assert marks_of(inputs, pair.token_ids) == TEMPLATE_MARKS


@settings(max_examples=300, deadline=None)
@given(document=hostile)
def test_the_document_span_reads_back_as_the_document(inputs: InputProcessor, document: str) -> None:
    pair = inputs.encode(["q"], [document])[0]
    assert marks_of(inputs, pair.token_ids) == TEMPLATE_MARKS
    end = len(pair.token_ids) - len(inputs.encode(["q"], [""])[0].token_ids) + pair.query_len + 1
    span = pair.token_ids[pair.query_len : end]
    assert inputs.detokenize(span) == " " + unicodedata.normalize("NFC", document)


def test_tokenize_is_plain_too(inputs: InputProcessor) -> None:
    assert not marks_of(inputs, np.array(inputs.tokenize("".join(MARKS))))


def test_other_marks_stay_what_they_are(inputs: InputProcessor, qwen3: Path) -> None:
    tokenizer = Tokenizer.from_file(str(qwen3 / "tokenizer.json"))
    text = "a <tool_call> b"  # not special, and not of the template: the recipe's ids
    assert inputs.tokenize(text) == tokenizer.encode(text).ids


@pytest.mark.parametrize("name", ["bert", "xlm_roberta"])
def test_encoders(request: pytest.FixtureRequest, name: str) -> None:
    inputs = build(request.getfixturevalue(name))
    tokens = ["<s>", "</s>", "<mask>", "<pad>", "[CLS]", "[SEP]", "[MASK]", "[PAD]"]
    frame = [t for t in inputs.token_strings(inputs.encode(["a"], ["b"])[0].token_ids) if t in tokens]
    for text in [*tokens, "x</s>y", "</s></s>", "<s> <s>", " </s> ", "[SEP][CLS]"]:
        pair = inputs.encode([f"q {text}"], [text, text * 3], PairOptions())[1]
        assert [t for t in inputs.token_strings(pair.token_ids) if t in tokens] == frame
