"""The product as a graph: which of its modules imports which, type-only and late imports included."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache

from tests.architecture.source_tree import SourceFile, product_files


def module_name(path: str) -> str:
    """``backends/nn/__init__.py`` -> ``backends.nn``; ``engine/config.py`` -> ``config``; the root is ``__init__``."""
    name = path.removeprefix("engine/").removesuffix(".py").replace("/", ".")
    return name.removesuffix(".__init__")


@cache
def modules() -> dict[str, SourceFile]:
    return {module_name(file.path): file for file in product_files()}


@cache
def import_graph() -> dict[str, dict[str, int]]:
    """Module -> the modules of ours that it imports, each with the line of an import."""
    return {name: dict(_imported(file, set(modules()))) for name, file in modules().items()}


def _imported(file: SourceFile, known: set[str]) -> Iterator[tuple[str, int]]:
    for item in file.imports:
        if item.module != "engine" and not item.module.startswith("engine."):
            continue
        module = item.module.removeprefix("engine").removeprefix(".") or "__init__"
        for name in item.names or ("",):
            inner = name if module == "__init__" else f"{module}.{name}"
            if inner in known:
                yield inner, item.line
            elif module in known:
                yield module, item.line


def cycles(graph: Mapping[str, Mapping[str, int]]) -> list[frozenset[str]]:
    """Groups of nodes that reach each other (Tarjan's strongly connected components of more than one node)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[frozenset[str]] = []

    def visit(node: str) -> None:
        order[node] = lowest[node] = len(order)
        stack.append(node)
        for target in graph.get(node, ()):
            if target not in order:
                visit(target)
                lowest[node] = min(lowest[node], lowest[target])
            elif target in stack:
                lowest[node] = min(lowest[node], order[target])
        if lowest[node] == order[node]:
            start = stack.index(node)
            group = frozenset(stack[start:])
            del stack[start:]
            if len(group) > 1:
                found.append(group)

    for node in graph:
        if node not in order:
            visit(node)
    return found
