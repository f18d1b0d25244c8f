"""Size is a budget: files of at most 300 lines, functions of at most 40; files of tests may have 500."""

from __future__ import annotations

import ast

from tests.architecture.source_tree import SourceFile, product_files, python_files

FILE_LIMIT, TEST_FILE_LIMIT = 300, 500
FUNCTION_LIMIT = 40
WHOLE_BY_NATURE = {
    "kernels/triton/attention.py _attention_kernel": "a Triton kernel: one program, whose values live in registers",
    "kernels/triton/qk_norm_rope.py _qk_norm_rope_kernel": "a Triton kernel, half of which are its parameters",
}
"""Functions that may be longer, and why."""


def file_sizes(files: list[SourceFile]) -> list[tuple[str, int]]:
    return [(file.path, file.text.count("\n")) for file in files]


def function_sizes(file: SourceFile) -> list[tuple[str, int]]:
    return [
        (f"{file.path} {node.name}", (node.end_lineno or node.lineno) - node.lineno + 1)
        for node in ast.walk(file.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def check(sizes: list[tuple[str, int]], limit: int) -> None:
    over = [f"{name} ({size})" for name, size in sizes if size > limit]
    assert not over, f"over {limit} lines, each perhaps two ideas (move the one that has a name):\n" + "\n".join(over)


def test_files_stay_small() -> None:
    check(file_sizes(product_files()), FILE_LIMIT)
    check(file_sizes([file for file in python_files() if file.under("tests", "benchmarks")]), TEST_FILE_LIMIT)


def test_functions_stay_small() -> None:
    sizes = [size for file in product_files() for size in function_sizes(file)]
    check([(name, size) for name, size in sizes if name not in WHOLE_BY_NATURE], FUNCTION_LIMIT)
    long = {name for name, size in sizes if size > FUNCTION_LIMIT}
    assert not WHOLE_BY_NATURE.keys() - long, "these need no exception any more"


def test_every_module_says_what_it_is() -> None:
    silent = [file.path for file in product_files() if file.text.strip() and not ast.get_docstring(file.tree)]
    assert not silent, "no module docstring: " + ", ".join(silent)
