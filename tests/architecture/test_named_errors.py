"""A public function that raises a typed error names it in its docstring, so that an editor's hover shows it."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from functools import cache

import engine.errors
from tests.architecture.source_tree import SourceFile, product_files

Function = ast.FunctionDef | ast.AsyncFunctionDef
FOLDERS = ("engine", "backends", "entrypoints")
OUR_BUGS = ("AssertionError", "NotImpl" + "ementedError")  # not for callers to catch
COMMANDS = "entrypoints/cli"
"""Docstrings of the commands there are what ``--help`` shows; every command may end with a ``StartupError``."""
SPECIAL = ("__init__", "__call__", "__enter__", "__aenter__")


def with_bases(name: str) -> set[str]:
    """An error and what it inherits from, below ``Exception``; one of another library alone."""
    cls = getattr(engine.errors, name, None) or getattr(builtins, name, None)
    return {name} if cls is None else {base.__name__ for base in cls.__mro__} - {"Exception", "BaseException", "object"}


def _caught(node: ast.Try) -> str:
    return " ".join(ast.unparse(handler.type) for handler in node.handlers if handler.type is not None)


def raised(node: ast.AST, caught: str = "") -> Iterator[str]:
    """The errors that leave a function: those that its own body raises and does not catch, without nested functions."""
    if isinstance(node, ast.Raise) and node.exc is not None:
        error = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        name = ast.unparse(error).rpartition(".")[2]
        if name.endswith(("Error", "Exit")) and name not in OUR_BUGS and not any(b in caught for b in with_bases(name)):
            yield name
    for field, value in ast.iter_fields(node):
        inside = f"{caught} {_caught(node)}" if isinstance(node, ast.Try) and field == "body" else caught
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, Function | ast.ClassDef | ast.Lambda):
                yield from raised(child, inside)


@cache
def classes() -> dict[str, ast.ClassDef]:
    return {
        node.name: node for file in product_files() for node in ast.walk(file.tree) if isinstance(node, ast.ClassDef)
    }


def inherited(method: str, cls: ast.ClassDef) -> str:
    """The docstring that an editor shows for a method without one: that of a base, or of what the class implements."""
    docstring = ast.get_docstring(cls) or ""
    bases = [base.value if isinstance(base, ast.Subscript) else base for base in cls.bases]
    names = [ast.unparse(base) for base in bases] + docstring.partition("Implements ``")[2].split("``")[:1]
    found = docstring
    for base in filter(None, (classes().get(name.rpartition(".")[2]) for name in names)):
        own = [node for node in base.body if isinstance(node, Function) and node.name == method]
        found += " ".join(ast.get_docstring(node) or "" for node in own) + inherited(method, base)
    return found


def public_functions(tree: ast.Module) -> Iterator[tuple[Function, str]]:
    """Public functions, and methods of public classes, each with what says what it raises."""
    for node in tree.body:
        if isinstance(node, Function) and not node.name.startswith("_"):
            yield node, ast.get_docstring(node) or ""
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for method in node.body:
                if isinstance(method, Function) and (not method.name.startswith("_") or method.name in SPECIAL):
                    yield method, (ast.get_docstring(method) or "") + inherited(method.name, node)


def unnamed_errors(tree: ast.Module) -> Iterator[str]:
    for function, docstrings in public_functions(tree):
        missing = [name for name in set(raised(function)) if not any(base in docstrings for base in with_bases(name))]
        if missing:
            yield f"{function.lineno} {function.name} raises {', '.join(sorted(missing))}"


def is_command(file: SourceFile, line: str) -> bool:
    return file.under(COMMANDS) and file.path.endswith(f"/{line.split()[1]}.py")


def test_errors_are_named_where_they_are_raised() -> None:
    wrong = [
        f"{file.path}:{line}"
        for file in product_files()
        if file.under(*FOLDERS)
        for line in unnamed_errors(file.tree)
        if not is_command(file, line)
    ]
    assert not wrong, "say in the docstring which error is raised, and when:\n" + "\n".join(wrong)


def test_the_check_itself_sees_an_unnamed_error() -> None:
    tree = ast.parse(
        "def f():\n    raise ConfigError('x')\n"
        'def g():\n    """Raises ``StartupError``."""\n    raise ConfigError("x")\n'
        "def _h():\n    raise ConfigError('x')\n"
        "def i():\n    try:\n        raise TimeoutError\n    except OSError:\n        pass\n"
        "class C:\n    def m(self):\n        raise ValueError\n"
    )
    assert list(unnamed_errors(tree)) == ["1 f raises ConfigError", "14 m raises ValueError"]
