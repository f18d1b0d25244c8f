"""The checkout as data: its committed files, and what each Python file imports, read with ``ast``, never executed."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PRODUCT_FOLDERS = ("engine", "backends", "kernels", "entrypoints")
LINKED_FOLDERS = ("backends", "kernels", "entrypoints")


@dataclass(frozen=True)
class Import:
    """One imported module name, with the names taken from it."""

    module: str
    names: tuple[str, ...]
    line: int

    def reaches(self, target: str) -> bool:
        """Whether this imports ``target`` or something inside it."""
        spelled = [self.module, *(f"{self.module}.{name}" for name in self.names)]
        return any(name == target or name.startswith(f"{target}.") for name in spelled)


@dataclass(frozen=True)
class SourceFile:
    """A Python file under its real path, e.g. ``backends/worker.py``."""

    path: str

    @cached_property
    def text(self) -> str:
        return (ROOT / self.path).read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, filename=self.path)

    @cached_property
    def imports(self) -> list[Import]:
        found = []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found += [Import(alias.name, (), node.lineno) for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                found.append(Import(node.module, tuple(alias.name for alias in node.names), node.lineno))
        return found

    def under(self, *folders: str) -> bool:
        return any(self.path == folder or self.path.startswith(f"{folder}/") for folder in folders)


@cache
def committed_files() -> list[str]:
    """Paths of the files in the index that still exist; links are left out, their targets are there themselves."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file() and not (ROOT / name).is_symlink()]


@cache
def python_files() -> list[SourceFile]:
    return [SourceFile(path) for path in committed_files() if path.endswith(".py")]


@cache
def product_files() -> list[SourceFile]:
    files = [file for file in python_files() if file.under(*PRODUCT_FOLDERS)]
    assert files, "no product files found: is this a checkout?"
    return files


def dotted_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every attribute chain that starts at a plain name, e.g. ``torch.cuda.Stream``, with its line."""
    for node in ast.walk(tree):
        parts: list[str] = []
        current: ast.AST = node
        while isinstance(current, ast.Attribute):
            parts.append(current.attr)
            current = current.value
        if parts and isinstance(current, ast.Name):
            yield ".".join([current.id, *reversed(parts)]), node.lineno  # type: ignore[attr-defined]
