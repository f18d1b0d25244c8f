"""``python -m tests.serve.write_golden NAME ...``: the golden file of a dialect, for review.

A file that is there keeps its requests and gets their answers anew: add a request by hand (``name`` and ``request``
are enough), run this, and read the difference against the specification of the dialect. A dialect without a file gets
one with three calls made from its class: the usual call, a document that may not be cut, and a wrong value.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
from pathlib import Path
from typing import Any

from engine.entrypoints.serve.detect import COMMON
from engine.entrypoints.serve.dialect_registry import BY_BODY, BY_PATH, DIALECTS
from engine.entrypoints.serve.dialects.base import Dialect
from tests.serve.conftest import Server, running_server
from tests.serve.example_bodies import example_body

FOLDER = Path(__file__).with_name("golden")
VARYING = {"created": 0, "cost": {}, "e2e_latency": 0, "inference_latency": 0, "latency": 0}

Case = dict[str, Any]


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


def golden_file(name: str) -> Path:
    return FOLDER / f"{name}.json"


def first_cases(dialect: Dialect) -> list[Case]:
    """What every dialect should be asked, before its own fields."""
    bodies = {
        "the usual call": example_body(dialect),
        "a document that may not be cut": {**example_body(dialect), "truncate": False, "max_tokens_per_doc": 1},
        "a wrong value": example_body(dialect, query=" ", documents=[" "]),
    }
    return [{"name": name, "request": {"path": path_for(dialect), "body": body}} for name, body in bodies.items()]


def path_for(dialect: Dialect) -> str:
    """One on which the example is read and answered by this dialect."""
    if dialect.paths:
        return re.sub(r"\{.*?\}", "fake", next(iter(dialect.paths)))
    owners = [COMMON, *BY_PATH.values()]
    shared = next(path for owner in owners if owner.task == dialect.task for path in owner.paths)
    return shared if dialect in BY_BODY and not dialect.recognised_by else f"{shared}?dialect={dialect.name}"


async def with_answers(cases: list[Case]) -> list[Case]:
    async with running_server() as server:
        return [{**case, "response": await answer_to(case["request"], server)} for case in cases]


def write(name: str) -> Path:
    path = golden_file(name)
    is_new = not path.exists()
    cases = first_cases(DIALECTS[name]) if is_new else json.loads(path.read_text("utf-8"))
    answered = asyncio.run(with_answers(cases))
    if is_new and answered[0]["response"]["status"] != 200:
        raise SystemExit(
            f"the usual call of {name} was answered with {answered[0]['response']}. Did another dialect read it, whose "
            "body_keys hold for it and whose precedence is lower?"
        )
    path.write_text(json.dumps(answered, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the golden files of dialects, for review.")
    known = sorted({*DIALECTS, *(path.stem for path in FOLDER.glob("*.json"))})
    parser.add_argument("names", nargs="+", choices=known, metavar="NAME", help=", ".join(known))
    for name in parser.parse_args().names:
        print(f"wrote {write(name)}: review it like code (git diff)")


if __name__ == "__main__":
    main()
