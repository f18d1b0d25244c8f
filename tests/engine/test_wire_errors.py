"""An error says on the other side of a process border all that it said on this one."""

from __future__ import annotations

import ast
from typing import Any

import pytest

from engine.errors import PARAM, EngineError, InvalidRequestError, error_class
from engine.messages import WireError, decoder, encoder
from tests.architecture.source_tree import product_files


def all_errors(root: type[EngineError] = EngineError) -> list[type[EngineError]]:
    return [root, *(leaf for child in root.__subclasses__() for leaf in all_errors(child))]


@pytest.mark.parametrize("class_", all_errors(), ids=lambda class_: class_.__name__)
def test_every_error_arrives_whole(class_: type[EngineError]) -> None:
    sent = class_(f"{PARAM} is wrong.", param=("documents", 3), retry_after_s=2.5, code="narrower")
    wire = decoder(WireError).decode(encoder().encode(WireError.of(sent)))
    found = wire.rebuilt()
    assert (str(found), found.type, found.status) == (str(sent), sent.type, sent.status)
    assert (found.path, found.retry_after_s, found.code) == (("documents", 3), 2.5, "narrower")
    assert str(found.at(("texts", 5))) == "texts[5] is wrong."


def test_a_wrong_argument_is_a_value_error_on_both_sides() -> None:
    assert error_class(InvalidRequestError.type) is InvalidRequestError
    assert error_class("of a later version") is EngineError


@pytest.mark.parametrize(
    ("template", "param", "sentence"),
    [
        ("Too many.", "documents", "Too many."),
        (f"{PARAM} is empty.", ("input", "documents", 3), "input.documents[3] is empty."),
        (
            f"Expected true, got {PARAM} at $.{PARAM}.",
            ("text_pairs", 1, 0),
            f"Expected true, got {PARAM} at $.text_pairs[1][0].",
        ),
        (f"{PARAM} is {PARAM!r}.", "model", f"model is {PARAM!r}."),
        (f"{PARAM} is empty.", None, "the request is empty."),
    ],
)
def test_the_field_is_put_where_the_sentence_names_it(template: str, param: Any, sentence: str) -> None:
    """What a caller sent may be part of the sentence, whatever letters it has."""
    error = InvalidRequestError(template, param=param)
    assert str(error) == sentence
    assert str(error.at(error.path)) == sentence


def test_nothing_else_makes_or_takes_apart_a_wire_error() -> None:
    """``WireError(...)`` by hand has lost fields before: the time to retry, the code, the field."""
    made = [
        file.path
        for file in product_files()
        for node in ast.walk(file.tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "WireError"
    ]
    assert made == []
