"""Docstrings of public functions and classes begin like sentences, since an editor shows them without their code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.architecture.source_tree import SourceFile, product_files

FRAGMENT = re.compile(
    r"(Of|What|Where|Which|Who|Whose|As|In|For|By|Until|At|To|None|From|Over|Without|Under|With|On|Also|May|Must|Asked|"
    r"Called|Here|Once|Nothing|Nobody|There|Everything|Because|Not|Everybody)\b|``\w+``:"
)
"""First words of a phrase that only its name completes; a sentence says what is done, or what a value is."""


def fragments(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            text = ast.get_docstring(node)
            if text and FRAGMENT.match(text):
                yield f"{node.lineno}: {node.name}: {text.splitlines()[0]}"


def test_public_docstrings_are_no_fragments() -> None:
    files: list[SourceFile] = product_files()
    wrong = [f"{file.path}:{line}" for file in files for line in fragments(file.tree)]
    assert not wrong, "begin with what it does, or with what the value is:\n" + "\n".join(wrong)


def test_the_check_itself_sees_a_fragment() -> None:
    tree = ast.parse('def f():\n    """Of a panel."""\n\ndef g():\n    """The width of a panel, in pixels."""\n')
    assert [found.split(":")[1].strip() for found in fragments(tree)] == ["f"]
