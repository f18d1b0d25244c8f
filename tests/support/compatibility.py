"""docs/compatibility.md, from what the tests hold: golden files, tests of clients, the codecs' own fields.

``python -m tests.support.compatibility`` writes it; a test says when that was forgotten.
"""

from __future__ import annotations

import ast
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from engine.entrypoints.serve.detect import COMMON
from engine.entrypoints.serve.dialect_registry import DIALECTS
from engine.entrypoints.serve.dialects.base import Dialect
from engine.entrypoints.serve.dialects.body import read_keys
from engine.entrypoints.serve.dialects.extensions import Extensions

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "compatibility.md"
GOLDEN = ROOT / "tests" / "serve" / "golden"
CLIENTS = ROOT / "tests" / "clients"

HEAD = """# Compatibility: dialects, clients and fields

Written by `python -m tests.support.compatibility` from the golden files, the tests of clients and the codecs; a test
compares it with them.
"""
DIALECTS_TEXT = """
## Dialects

A body is read by its keys and its path, and answered in the dialect that it was written in. Where several dialects send
the same body, the answer is the common object, a superset that most of their clients read; the base URL
`http://HOST:PORT/NAME`, `?dialect=NAME`, the header `X-Dialect: NAME` or `engine serve --dialect NAME` asks for one
exactly. The last column is what the tests call: requests with their answers, to the last field.

Two clients that send the same bytes and read other answers can only be told apart by such a path: LiteLLM's `infinity`
sends what its `hosted_vllm` sends, to the same address, and reads texts where that reads objects, so its base URL is
`http://HOST:PORT/infinity` (or it says `return_documents=False`). LiteLLM's `voyage` is known by the `Accept` that it
leaves out.

Doubled and trailing slashes do not matter, nor does a version that a base URL and a client both have (`/v1/v1/rerank`,
`/v1/v2/rerank`), nor the words that other servers have in front (`/api`, `/openai`, `/inference`, `/providers`).
"""
CLIENTS_TEXT = """
## Clients

[clients.json](../tests/serve/golden/clients.json) has the calls of {calls} clients, gateways and platforms as they send
them, with their answers to the last field.

`engine clients` prints the settings of each; `make test-clients` installs those with tests and runs them against a
server, every one with a key, and compares order and scores with the server's own.
"""
SCHEMA_TEXT = """
## The description

`/openapi.json` says exactly what each route takes and gives. `tests/serve/test_schema.py` holds Schemathesis to it with
every check on; `python -m benchmarks.reliability.schema 50000` does so at length (results in `benchmarks/results/`).
Three refusals are not foretold by it, as JSON Schema has no words for them: sides that differ in length, texts of
several APIs in one body, and a `truncate_prompt_tokens` below what template, instruction or an uncut text need.
"""
FIELDS_TEXT = """
## Fields that every dialect takes

Null is absent, 5.0 is 5, "true" is true. Fields that nobody knows are ignored and counted (`engine_unknown_fields`);
`--strict` refuses them.
"""


def page() -> str:
    parts = [HEAD, DIALECTS_TEXT, table(("Dialect", "Name", "Found by", "Paths tried", "Shown by"), dialect_rows())]
    calls = len(json.loads((GOLDEN / "clients.json").read_text("utf-8")))
    parts += [CLIENTS_TEXT.format(calls=calls), table(("Client", "Package", "Answer", "Tests"), client_rows())]
    parts += [FIELDS_TEXT, table(("Field", "Meaning"), field_rows())]
    parts.append(SCHEMA_TEXT)
    return "\n".join(part.strip("\n") + "\n" for part in parts)


def table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines) + "\n"


def dialect_rows() -> Iterator[tuple[str, ...]]:
    for dialect in sorted(DIALECTS.values(), key=lambda dialect: (not dialect.choosable, dialect.name)):
        cases = json.loads((GOLDEN / f"{dialect.name}.json").read_text("utf-8"))
        name = ", ".join(f"`{name}`" for name in (dialect.name, *dialect.aliases)) if dialect.choosable else ""
        paths = sorted({case["request"]["path"].partition("?")[0] for case in cases})
        shown = f"[{len(cases)} calls](../tests/serve/golden/{dialect.name}.json)"
        yield dialect.title, name, found_by(dialect, cases), ", ".join(f"`{path}`" for path in paths), shown


def found_by(dialect: Dialect, cases: list[dict[str, Any]]) -> str:
    """How the answered calls of the golden file made themselves understood."""
    ways: dict[str, None] = {}
    for request in (case["request"] for case in cases if case["response"]["status"] == 200):
        headers = {name.lower(): value for name, value in request.get("headers", {}).items()}
        keys = read_keys(json.dumps(request["body"]).encode())
        if "dialect=" in request["path"] or "x-dialect" in headers:
            ways["choice"] = None
        elif dialect is COMMON:
            ways["being the common one"] = None
        elif request["path"] in dialect.paths and dialect.task != "rerank":
            ways["path"] = None
        elif dialect.precedence is not None and dialect.recognises(keys, headers):
            ways[recognised_by(dialect)] = None
        else:
            ways["path"] = None
    return ", ".join(sorted(ways, key=lambda way: way == "choice"))


def recognised_by(dialect: Dialect) -> str:
    if dialect.recognised_by_header:
        return f"header `{dialect.recognised_by_header.title()}`"
    rules = [
        rule for rule in dialect.recognised_by or dialect.body_keys if rule[0] != "!" and rule not in COMMON.body_keys
    ]
    return " and ".join(" or ".join(f"`{key.partition(':')[0]}`" for key in rule.split("|")) for rule in rules)


def client_rows() -> Iterator[tuple[str, ...]]:
    tested = client_tests()
    for client_id, entry in tomllib.loads(
        (ROOT / "entrypoints" / "assets" / "clients.toml").read_text("utf-8")
    ).items():
        files = tested.get(client_id, {})
        tests = ", ".join(f"[{count} in {name}](../tests/clients/{name})" for name, count in files.items())
        if "shown_by" in entry:
            tests = f"[{Path(entry['shown_by']).name}](../{entry['shown_by']})"
        package = f"`{entry['package']}`" if "package" in entry else ""
        package = f"`{entry['npm']}` (npm)" if "npm" in entry else package
        yield entry["title"], package, DIALECTS[entry["speaks"]].title, tests or "settings only"


def client_tests() -> dict[str, dict[str, int]]:
    """Client id -> file -> number of tests that carry its mark."""
    found: dict[str, dict[str, int]] = {}
    for path in sorted(CLIENTS.glob("test_*.py")):
        for node in ast.parse(path.read_text("utf-8")).body:
            if not isinstance(node, ast.FunctionDef):
                continue
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.client":
                    (client_id,) = (argument.value for argument in mark.args if isinstance(argument, ast.Constant))
                    files = found.setdefault(str(client_id), {})
                    files[path.name] = files.get(path.name, 0) + 1
    return found


def field_rows() -> Iterator[tuple[str, ...]]:
    schema = msgspec.json.schema_components([Extensions])[1]["Extensions"]
    for name, field in schema["properties"].items():
        yield f"`{name}`", field.get("description", "")


def main() -> None:
    PAGE.write_text(page(), "utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
