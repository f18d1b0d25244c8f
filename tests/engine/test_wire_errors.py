"""An error says on the other side of a process border all that it said on this one."""

from __future__ import annotations

import ast

import pytest

from engine.errors import EngineError, InvalidRequestError, error_class
from engine.messages import WireError, decoder, encoder
from tests.architecture.source_tree import product_files


def all_errors(root: type[EngineError] = EngineError) -> list[type[EngineError]]:
    return [root, *(leaf for child in root.__subclasses__() for leaf in all_errors(child))]


@pytest.mark.parametrize("class_", all_errors(), ids=lambda class_: class_.__name__)
def test_every_error_arrives_whole(class_: type[EngineError]) -> None:
    sent = class_("What was wrong.", param="documents[3]", retry_after_s=2.5, code="narrower")
    wire = decoder(WireError).decode(encoder().encode(WireError.of(sent)))
    found = wire.rebuilt()
    assert (str(found), found.type, found.status) == (str(sent), sent.type, sent.status)
    assert (found.param, found.retry_after_s, found.code) == ("documents[3]", 2.5, "narrower")


def test_a_wrong_argument_is_a_value_error_on_both_sides() -> None:
    assert error_class(InvalidRequestError.type) is InvalidRequestError
    assert error_class("of a later version") is EngineError


def test_nothing_else_makes_or_takes_apart_a_wire_error() -> None:
    """``WireError(...)`` by hand has lost fields before: the time to retry, the code, the field."""
    made = [
        file.path
        for file in product_files()
        for node in ast.walk(file.tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "WireError"
    ]
    assert made == []
