"""Names in the code are the field's terms: words that a reader who knows vLLM would have to translate stay out."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import PurePath

from tests.architecture.source_tree import SourceFile, python_files

FOLDERS = ("engine", "backends", "kernels", "entrypoints", "benchmarks", "tests/support")
INSTEAD = {
    "accuse": "suspected, failure attribution",
    "company": "batch",
    "crowded": "must_wait",
    "cure": "remedy",
    "deed": "action",
    "desk": "coordinator, broker",
    "door": "server, admission",
    "dull": "skipped",
    "frontier": "ready",
    "fronts": "api_servers",
    "graft": "reuse",
    "hang": "attach",
    "hasty": "deadline",
    "law": "cost_model",
    "least_": "min_",
    "lie": "in_place",
    "meeting": "rendezvous",
    "meetings": "steps",
    "most_": "max_",
    "newcomer": "new_caller",
    "newcomers": "new_callers",
    "patience": "client_timeout",
    "plant": "build, enqueue",
    "silence": "heartbeat_timeout",
    "street": "path",
    "teller": "engine",
    "thaw": "read_frozen",
    "uncommit": "withdraw",
    "uncover": "make_ready",
    "unheard": "unknown",
    "widen": "dequantize",
    "widened": "dequantized",
    "widener": "dequantizer",
}
"""A word of a name -> what the field calls it. One that ends with ``_`` counts at the beginning of a name only."""
PUBLIC = ("least_work", "at_least", "patience")
"""Plain English, or a flag of a command line."""


def words_of(name: str) -> list[str]:
    """``CallBroker`` and ``call_broker`` -> call, broker."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().strip("_").split("_")


def house_word(name: str) -> str | None:
    """The word of a name that has to go."""
    words = words_of(name)
    if name in PUBLIC:
        return None
    if f"{words[0]}_" in INSTEAD and len(words) > 1:
        return f"{words[0]}_"
    return next((word for word in words if word in INSTEAD), None)


def names_in(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Every name that a file gives to something, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno


def house_words(file: SourceFile) -> Iterator[str]:
    for name, line in [(PurePath(file.path).stem, 1), *names_in(file.tree)]:
        if word := house_word(name):
            yield f"{file.path}:{line} {name}: write {INSTEAD[word]}"


def test_names_are_the_fields_terms() -> None:
    wrong = sorted({place for file in python_files() if file.under(*FOLDERS) for place in house_words(file)})
    assert not wrong, "\n".join(wrong)


def test_the_check_itself_sees_a_house_word() -> None:
    tree = ast.parse("class FrontDesk:\n    MOST_ROWS = 1\n    def f(self, patience_s): self.almost_all = 1\n")
    assert [name for name, _ in names_in(tree) if house_word(name)] == ["FrontDesk", "MOST_ROWS", "patience_s"]
