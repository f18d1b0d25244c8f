"""One file a dialect: requests, and the answers they must get, to the last field.

``GOLDEN=write`` in the environment writes the answers anew; what it changes is reviewed like code, against the
specification of the dialect.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from engine.entrypoints.serve.dialects.detect import CLASSIFY, DIALECTS, POOLING, PREDICT, QUERIES, SCORE, SGLANG_SCORE
from tests.serve.conftest import Server, running_server

FOLDER = Path(__file__).with_name("golden")
FILES = sorted(FOLDER.glob("*.json"))
VARYING = {"created": 0, "cost": {}}


def settled(node: Any) -> Any:
    """Without what differs from run to run; numbers to six digits."""
    if isinstance(node, dict):
        return {key: VARYING.get(key, settled(value)) for key, value in node.items()}
    if isinstance(node, list):
        return [settled(item) for item in node]
    return round(node, 6) if isinstance(node, float) else node


async def answer_to(request: dict[str, Any], server: Server) -> dict[str, Any]:
    headers = {"X-Request-Id": "golden", **request.get("headers", {})}
    answer = await server.client.post(request["path"], json=request["body"], headers=headers)
    assert answer.headers["x-request-id"] == "golden"
    return {"status": answer.status_code, "body": settled(answer.json())}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
async def test_answers(path: Path) -> None:
    cases = json.loads(path.read_text("utf-8"))
    async with running_server() as server:
        answers = [await answer_to(case["request"], server) for case in cases]
    if os.environ.get("GOLDEN") == "write":
        cases = [{**case, "response": answer} for case, answer in zip(cases, answers, strict=True)]
        path.write_text(json.dumps(cases, indent=2, ensure_ascii=False) + "\n", "utf-8")
    for case, answer in zip(cases, answers, strict=True):
        assert answer == case.get("response"), case["name"]


def test_every_dialect_has_its_file() -> None:
    names = {*DIALECTS, *(d.name for d in (QUERIES, SCORE, SGLANG_SCORE, CLASSIFY, POOLING, PREDICT)), "tokens"}
    assert {path.stem for path in FILES} == names


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_good_and_bad_calls(path: Path) -> None:
    statuses = {case["response"]["status"] for case in json.loads(path.read_text("utf-8"))}
    assert 200 in statuses
    assert statuses & {400, 404, 422}


def test_answers_never_hold_null_documents() -> None:
    for path in FILES:
        for case in json.loads(path.read_text("utf-8")):
            assert '"document": null' not in json.dumps(case["response"]), case["name"]
