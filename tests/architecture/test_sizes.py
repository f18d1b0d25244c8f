"""Size is a budget: files of at most 500 lines, functions of at most 80; the targets are 300 and 40.

``pytest -rP tests/architecture/test_sizes.py`` prints what lies between target and limit.
"""

from __future__ import annotations

import ast

from tests.architecture.source_tree import SourceFile, product_files

FILE_TARGET, FILE_LIMIT = 300, 500
FUNCTION_TARGET, FUNCTION_LIMIT = 40, 80


def file_sizes() -> list[tuple[str, int]]:
    return [(file.path, file.text.count("\n")) for file in product_files()]


def function_sizes(file: SourceFile) -> list[tuple[str, int]]:
    return [
        (f"{file.path}:{node.lineno} {node.name}", (node.end_lineno or node.lineno) - node.lineno + 1)
        for node in ast.walk(file.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def check(sizes: list[tuple[str, int]], target: int, limit: int) -> None:
    for name, size in sorted(sizes, key=lambda item: -item[1]):
        if target < size <= limit:
            print(f"over the target of {target} lines: {name} ({size})")
    over = [f"{name} ({size})" for name, size in sizes if size > limit]
    assert not over, f"over {limit} lines, each perhaps two ideas:\n" + "\n".join(over)


def test_files_stay_small() -> None:
    check(file_sizes(), FILE_TARGET, FILE_LIMIT)


def test_functions_stay_small() -> None:
    check([size for file in product_files() for size in function_sizes(file)], FUNCTION_TARGET, FUNCTION_LIMIT)


def test_every_module_says_what_it_is() -> None:
    silent = [file.path for file in product_files() if file.text.strip() and not ast.get_docstring(file.tree)]
    assert not silent, "no module docstring: " + ", ".join(silent)
