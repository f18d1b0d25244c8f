"""Every wrong call is an error that names the field, before anything is tokenised."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import ConfigError, InvalidRequestError
from engine.inputs.processor import InputProcessor
from engine.request import PairOptions
from tests.inputs.conftest import build


@pytest.mark.parametrize(
    ("queries", "documents", "param", "message"),
    [
        ([""], ["d"], "query", "query is empty"),
        ([" \n\t\u3000"], ["d"], "query", "query is empty"),
        (["q", " "], ["d", "e"], "queries[1]", r"queries\[1\] is empty"),
        ([None], ["d"], "query", "must be a string, not NoneType"),
        (["q"], ["d", None], "documents[1]", r"documents\[1\] must be a string, not NoneType"),
        (["q"], [b"d"], "documents[0]", "not bytes"),
        (["q"], ["d", 7], "documents[1]", "not int"),
        (["q"], [["d"]], "documents[0]", "not list"),
        (["q"], ["d", "e", "x\ud800y"], "documents[2]", r"documents\[2\].*stands alone at character 1"),
        (["q\udfff"], ["d"], "query", "character 1"),
        (["q"], [], "documents", "no document"),
        (["q", "r"], ["d", "e", "f"], "queries", "1:1, 1:N or N:N"),
        ([], ["d"], "queries", "1:1, 1:N or N:N"),
        (["q", "r"], ["d"], "queries", "1:1, 1:N or N:N"),
    ],
)
def test_texts(inputs: InputProcessor, queries: Any, documents: Any, param: str, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message) as caught:
        inputs.encode(queries, documents)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("options", "instructions", "param"),
    [
        ({"instruction": "\ud800"}, None, "instruction"),
        ({"instruction": 5}, None, "instruction"),
        ({}, ["a"], "instructions"),
        ({}, ["a", 3], "instructions[1]"),
        ({}, ["a", "\udc00"], "instructions[1]"),
    ],
)
def test_instructions(inputs: InputProcessor, options: Any, instructions: Any, param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        inputs.encode(["q"], ["d", "e"], PairOptions(**options), instructions)
    assert caught.value.param == param


@pytest.mark.parametrize("empty", [None, "", " "])
def test_no_instruction_is_the_default(inputs: InputProcessor, empty: str | None) -> None:
    default = inputs.encode(["q"], ["d"])[0].token_ids.tolist()
    assert inputs.encode(["q"], ["d"], PairOptions(instruction=empty))[0].token_ids.tolist() == default
    assert inputs.encode(["q"], ["d"], instructions=[empty])[0].token_ids.tolist() == default


ODD = ["", " ", "\n", "\0", "\x01\x02\x7f", "\ufffe\uffff", "\u202e reversed", "👩\u200d👩\u200d👧", "中" * 999]
ODD.append("e" + "\u0301" * 10_000)


@pytest.mark.parametrize("document", [*ODD, np.str_("numpy")])
def test_odd_documents_are_fine(inputs: InputProcessor, document: str) -> None:
    first, second = inputs.encode(["q"], [document, document])
    assert first.token_ids.tolist() == second.token_ids.tolist()
    assert not first.truncated
    assert (first.token_ids >= 0).all()


def test_numpy_strings_as_a_whole(inputs: InputProcessor) -> None:
    documents = np.array(["Beijing", "Paris"])
    expected = inputs.encode(["q"], ["Beijing", "Paris"])
    for pair, other in zip(inputs.encode(["q"], documents), expected, strict=True):  # type: ignore[arg-type]
        assert pair.token_ids.tolist() == other.token_ids.tolist()


def test_ids(inputs: InputProcessor) -> None:
    pairs = inputs.encode_ids([[1, 2]], [[3], np.array([4, 5])])
    assert [pair.token_ids.tolist() for pair in pairs] == [[1, 2, 3], [1, 2, 4, 5]]
    assert [pair.query_len for pair in pairs] == [2, 2]
    assert inputs.encode_ids([[1], [2]], [[3], []])[1].token_ids.tolist() == [2]


@pytest.mark.parametrize(
    ("queries", "documents", "param"),
    [
        ([[1]], [[2], [10**6]], "documents[1]"),
        ([[-1]], [[2]], "query"),
        ([[1], [2**40]], [[2], [3]], "queries[1]"),
        ([[1]], [["a"]], "documents[0]"),
        ([[1]], [["7"]], "documents[0]"),
        ([[1]], [[1.5]], "documents[0]"),
        ([[True]], [[1]], "query"),
        ([[1]], [[[1]]], "documents[0]"),
        ([[1]], [[2**70]], "documents[0]"),
        ([[]], [[]], "documents[0]"),
        ([[1]], [[1] * 40_960], "documents[0]"),
        ([[1], [2]], [[1]], "queries"),
    ],
)
def test_wrong_ids(inputs: InputProcessor, queries: Any, documents: Any, param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        inputs.encode_ids(queries, documents)
    assert caught.value.param == param


def test_instruction_without_a_place_for_it(bert: Path, small: Callable[..., Path]) -> None:
    for inputs in (build(bert), build(small(), score_template="none")):
        with pytest.raises(InvalidRequestError, match="no place for an instruction"):
            inputs.encode(["q"], ["d"], PairOptions(instruction="Find"))
    with pytest.raises(ConfigError, match="no place for an instruction"):
        build(bert, instruction="Find")


def test_default_instruction_of_the_server(qwen3: Path, inputs: InputProcessor) -> None:
    own = build(qwen3, instruction="Find code")
    expected = inputs.encode(["q"], ["d"], PairOptions(instruction="Find code"))[0].token_ids.tolist()
    assert own.encode(["q"], ["d"])[0].token_ids.tolist() == expected
    assert own.detokenize(own.constant_prefix).endswith("<Instruct>: Find code\n<Query>:")
