"""Titled texts from Python: docstrings of the standard library and of scientific packages, and the Python manual.

Docstrings are read from the syntax tree, never by importing, so that packages need not be installed: an unpacked
wheel will do.
"""

import ast
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from benchmarks.small_reranker.texts import Pair, make_pair

STDLIB = Path(sysconfig.get_paths()["stdlib"])
SKIPPED_PARTS = {"test", "tests", "idlelib", "lib2to3", "site-packages", "_vendor", "__pycache__", "ensurepip"}
MAX_PER_FILE = 60

_FIELD_SECTION = re.compile(
    r"\n\s*(Parameters|Args|Arguments|Returns|Attributes|Examples?)\s*:?\s*\n[\s-]*", re.IGNORECASE
)
_ROLE = re.compile(r":(?:\w+:)*`~?([^`]*)`|``([^`]*)``|`([^`]*)`_?")
_UNDERLINE = re.compile(r"^([^\n]{3,90})\n([*=\-^~\"])\2{2,}\s*$", re.MULTILINE)


def plain_rest(text: str) -> str:
    """reStructuredText without its quotation marks and doctest prompts."""
    text = _ROLE.sub(lambda match: match[1] or match[2] or match[3] or "", text)
    return re.sub(r"^\s*(>>>|\.\.\.|\.\. ).*$", "", text, flags=re.MULTILINE)


def _docstrings(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
            text = ast.get_docstring(node)
            if text:
                yield text


def docstring_pairs(source: str, root: Path) -> Iterator[Pair]:
    """Summary line to the rest of the docstring, for each file below ``root``."""
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if SKIPPED_PARTS & set(relative.parts):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # invalid escapes in other people's code
                tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, ValueError):
            continue
        for count, text in enumerate(_docstrings(tree)):
            summary, _, rest = plain_rest(text).partition("\n\n")
            if count < MAX_PER_FILE and len(rest) > 60:
                body = _FIELD_SECTION.sub("\n", "\n" + rest)
                yield make_pair("docstring", f"{source}/{relative}", "phrase", summary.rstrip(". "), body)


def standard_library(root: Path = STDLIB) -> Iterator[Pair]:
    return docstring_pairs("stdlib", root)


def parse_sections(text: str) -> Iterator[tuple[str, str]]:
    """(heading, text up to the next heading) of a reStructuredText page."""
    marks = list(_UNDERLINE.finditer(text))
    for mark, following in zip(marks, [*marks[1:], None], strict=False):
        yield mark[1].strip(), text[mark.end() : following.start() if following else len(text)]


def python_manual(root: Path) -> Iterator[Pair]:
    """Section heading to section of each page of the Python documentation (package python3.11-doc)."""
    for path in sorted(root.rglob("_sources/**/*.rst.txt")):
        if "whatsnew" in path.parts or "c-api" in path.parts:
            continue
        page = path.name.removesuffix(".rst.txt")
        for heading, text in parse_sections(path.read_text(encoding="utf-8", errors="replace")):
            title = plain_rest(heading).replace("---", " ")
            yield make_pair("pydoc", page, "phrase", title, plain_rest(text))
