"""The ids are those of the model card's recipe, on any text."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.inputs.processor import InputProcessor
from engine.request import PairOptions
from tests.support.checkpoints import INSTRUCTION, official_qwen3_ids
from tests.support.texts import TEXTS

QUERIES = [text for text in TEXTS if text.strip()]

PIECES = [
    *TEXTS, " ", "  ", "\n", "\r\n", "\t", "\u0301", "\u200d", "👩", "🏽", "1", "'s", "_", "<", ":", "\u00a0",
]  # fmt: skip
MARKS = ("<|", "think>")
"""Of special tokens: there the recipe lets a text speak for the template, and we do not (test_injection.py)."""

text = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    st.lists(st.sampled_from(PIECES), max_size=6).map("".join),
).filter(lambda text: not any(mark in text for mark in MARKS))


def ids(inputs: InputProcessor, query: str, documents: list[str], **options: Any) -> list[list[int]]:
    return [pair.token_ids.tolist() for pair in inputs.encode([query], documents, PairOptions(**options))]


@pytest.mark.parametrize("query", QUERIES)
def test_every_text_beside_every_text(inputs: InputProcessor, qwen3: Path, query: str) -> None:
    assert ids(inputs, query, list(TEXTS)) == official_qwen3_ids(qwen3, query, TEXTS)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(query=text.filter(str.strip), documents=st.lists(text, min_size=1, max_size=4), instruction=text)
def test_generated_texts(
    inputs: InputProcessor, qwen3: Path, query: str, documents: list[str], instruction: str
) -> None:
    given_instruction = instruction if instruction.strip() else None
    expected = official_qwen3_ids(qwen3, query, documents, given_instruction)
    assert ids(inputs, query, documents, instruction=instruction) == expected


def test_long_texts_are_cut_as_in_the_recipe(inputs: InputProcessor, qwen3: Path) -> None:
    documents = ["\n".join(TEXTS) * n for n in (1, 3, 9)]
    for limit in (300, 1111, 4000):
        expected = official_qwen3_ids(qwen3, "What is the capital of China?", documents, max_length=limit)
        assert ids(inputs, "What is the capital of China?", documents, truncate_prompt_tokens=limit) == expected


def test_n_to_n_and_instruction_per_document(inputs: InputProcessor, qwen3: Path) -> None:
    queries, documents, own = ["a?", "b?", "c?"], ["x", "y", "z"], ["Find x", None, "Find z"]
    pairs = inputs.encode(queries, documents, PairOptions(instruction="Find"), instructions=own)
    for pair, query, document, instruction in zip(pairs, queries, documents, own, strict=True):
        assert pair.token_ids.tolist() == official_qwen3_ids(qwen3, query, [document], instruction or "Find")[0]


def test_types_and_hints(inputs: InputProcessor) -> None:
    pairs = inputs.encode(["capital"], ["Beijing", "Paris is nice"])
    assert [pair.token_ids.dtype for pair in pairs] == [np.int32, np.int32]
    assert pairs[0].token_type_ids is None
    assert not pairs[0].truncated
    assert pairs[0].query_len == pairs[1].query_len
    shared = pairs[0].query_len
    assert (pairs[0].token_ids[:shared] == pairs[1].token_ids[:shared]).all()
    assert inputs.detokenize(pairs[0].token_ids[:shared]).endswith("<Query>: capital\n<Document>:")


def test_the_constant_prefix_leads_every_prompt(inputs: InputProcessor) -> None:
    constant_prefix = inputs.constant_prefix
    assert constant_prefix.dtype == np.int32
    assert inputs.detokenize(constant_prefix).endswith(f"<Instruct>: {INSTRUCTION}\n<Query>:")
    for pair in inputs.encode(QUERIES, ["d"] * len(QUERIES)):
        assert (pair.token_ids[: len(constant_prefix)] == constant_prefix).all()
        assert pair.query_len >= len(constant_prefix)


def test_threads_get_the_same_ids(inputs: InputProcessor) -> None:
    expected = ids(inputs, "capital", list(TEXTS))
    with ThreadPoolExecutor(8) as pool:
        assert all(result == expected for result in pool.map(lambda _: ids(inputs, "capital", list(TEXTS)), range(32)))


def test_tokenize_and_back(inputs: InputProcessor) -> None:
    for text in QUERIES:
        found = inputs.tokenize(text)
        assert len(inputs.token_strings(found)) == len(found)
    assert inputs.detokenize(inputs.tokenize("Beijing, 北京!")) == "Beijing, 北京!"
