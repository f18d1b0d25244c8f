"""Cross-encoders: the tokenizer's own pair form, as transformers makes it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from engine.request import PairOptions
from tests.inputs.conftest import build
from tests.support.texts import TEXTS

_tokenizer = cache(AutoTokenizer.from_pretrained)
_processor = cache(build)
QUERIES = [text for text in TEXTS if text.strip()]


@pytest.mark.parametrize("name", ["bert", "xlm_roberta"])
def test_ids_and_types_of_transformers(request: pytest.FixtureRequest, name: str) -> None:
    folder: Path = request.getfixturevalue(name)
    inputs, tokenizer = build(folder), AutoTokenizer.from_pretrained(folder)
    documents = [*TEXTS, ""]
    for query in QUERIES:
        expected = tokenizer([query] * len(documents), documents)
        found = inputs.encode([query], documents)
        assert [pair.token_ids.tolist() for pair in found] == expected["input_ids"]
        if "token_type_ids" in expected:
            assert [pair.token_type_ids.tolist() for pair in found] == expected["token_type_ids"]  # type: ignore[union-attr]
        else:
            assert all(pair.token_type_ids is None for pair in found)
        assert all(pair.query_len == 0 for pair in found)
    assert len(inputs.constant_prefix) == 0


@pytest.mark.parametrize("name", ["bert", "xlm_roberta"])
@pytest.mark.parametrize("limit", [40, 100])
def test_only_the_document_is_cut(request: pytest.FixtureRequest, name: str, limit: int) -> None:
    folder: Path = request.getfixturevalue(name)
    inputs, tokenizer = build(folder), AutoTokenizer.from_pretrained(folder)
    expected = tokenizer(["capital"], ["word " * 900], truncation="only_second", max_length=limit)
    pair = inputs.encode(["capital"], ["word " * 900], PairOptions(truncate_prompt_tokens=limit))[0]
    assert pair.token_ids.tolist() == expected["input_ids"][0]
    assert pair.truncated_document
    assert not pair.truncated_query
    if pair.token_type_ids is not None:
        assert pair.token_type_ids.tolist() == expected["token_type_ids"][0]


@pytest.mark.parametrize("name", ["bert", "xlm_roberta"])
@pytest.mark.parametrize("limit", [12, 40, 41, 100, 500])
@pytest.mark.parametrize(("query", "document"), [(5, 900), (19, 22), (300, 400), (400, 300), (700, 3), (30, 30)])
def test_the_longer_text_is_cut(
    request: pytest.FixtureRequest, name: str, limit: int, query: int, document: int
) -> None:
    folder: Path = request.getfixturevalue(name)
    inputs, tokenizer = _processor(folder), _tokenizer(folder)
    texts = ["capital " * query], ["word " * document]
    expected = tokenizer(*texts, truncation="longest_first", max_length=limit)
    pair = inputs.encode(*texts, PairOptions(truncate_prompt_tokens=limit))[0]
    assert pair.token_ids.tolist() == expected["input_ids"][0]
    if pair.token_type_ids is not None:
        assert pair.token_type_ids.tolist() == expected["token_type_ids"][0]


def test_long_query_and_model_length(bert: Path) -> None:
    inputs = build(bert)
    pair = inputs.encode(["q " * 600], ["d " * 600])[0]
    assert len(pair.token_ids) == 512
    assert pair.truncated_document
    assert pair.truncated_query
    names = inputs.token_strings(pair.token_ids)
    assert (names[0], names[-1], names.count("[SEP]")) == ("[CLS]", "[SEP]", 2)
