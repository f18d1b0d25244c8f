"""One file a dialect: requests, and the answers they must get, to the last field.

``python -m tests.serve.write_golden NAME`` writes a file anew; what it changes is reviewed like code, against the
specification of the dialect.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.entrypoints.serve.dialect_registry import DIALECTS
from tests.serve.conftest import running_server
from tests.serve.write_golden import FOLDER, answer_to, first_cases, with_answers

FILES = sorted(FOLDER.glob("*.json"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
async def test_answers(path: Path) -> None:
    cases = json.loads(path.read_text("utf-8"))
    async with running_server() as server:
        for case in cases:
            assert await answer_to(case["request"], server) == case["response"], case["name"]


def test_every_dialect_has_its_file() -> None:
    assert {path.stem for path in FILES} == {*DIALECTS, "tokens", "clients"}, (
        "run python -m tests.serve.write_golden NAME"
    )


@pytest.mark.parametrize("name", DIALECTS)
async def test_the_first_cases_of_a_new_file(name: str) -> None:
    """What the command writes for a dialect without a file is a good start: a call that works, and one that fails."""
    usual, _, wrong = [case["response"] for case in await with_answers(first_cases(DIALECTS[name]))]
    assert usual["status"] == 200, usual
    assert wrong["status"] in (400, 422), wrong


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_good_and_bad_calls(path: Path) -> None:
    statuses = {case["response"]["status"] for case in json.loads(path.read_text("utf-8"))}
    assert 200 in statuses
    assert statuses & {400, 404, 422}


def test_answers_never_hold_null_documents() -> None:
    for path in FILES:
        for case in json.loads(path.read_text("utf-8")):
            assert '"document": null' not in json.dumps(case["response"]), case["name"]
