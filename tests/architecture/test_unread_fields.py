"""A field that nobody reads is a promise that nobody keeps: every field of a record is read somewhere in the product.

Read with ``ast``, without a type checker. ``x.field`` counts for the class of ``x`` where that is plain to see:
``self``, an annotated argument or attribute, something just built with ``Class(...)``. Elsewhere it counts for every
class with such a field, so some unread field may pass; what this finds is worth a look every time.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.architecture.source_tree import SourceFile, product_files

RECORDS = ("dataclass", "Struct")

# What is read outside of the product: answers, which clients read as JSON, and what a caller of ``LLM`` gets.
READ_BY_OTHERS = ("entrypoints/serve/dialects", "entrypoints/serve/tokens.py", "engine/outputs.py")
# class -> fields whose reader is not the product: here the tests of the page of compatible clients
KNOWN_UNREAD = {
    "ClientSettings": {"speaks", "shown_by"},
    "DataOptions": {"tokenizer_mode"},  # a flag whose user is told that it has no effect
}


@dataclass
class Class:
    """A class of the product, as far as this test needs it."""

    name: str
    path: str
    bases: tuple[str, ...]
    is_record: bool
    fields: set[str] = field(default_factory=set)
    types: dict[str, str] = field(default_factory=dict)
    """Attribute -> the class it holds, where an annotation says so."""


def plain_name(node: ast.expr | None) -> str:
    """``Scheduler`` for ``Scheduler``, ``scheduler.Scheduler``, ``"Scheduler"`` and ``Scheduler | None``; else ""."""
    if isinstance(node, ast.BinOp) and isinstance(node.right, ast.Constant) and node.right.value is None:
        node = node.left
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value if node.value.isidentifier() else ""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def class_of(node: ast.ClassDef, path: str) -> Class:
    marks = [*node.bases, *(mark.func if isinstance(mark, ast.Call) else mark for mark in node.decorator_list)]
    names = tuple(plain_name(mark) for mark in marks)
    found = Class(node.name, path, tuple(plain_name(base) for base in node.bases), bool(set(names) & set(RECORDS)))
    for step in ast.walk(node):
        if isinstance(step, ast.AnnAssign) and isinstance(step.target, ast.Name) and step in node.body:
            found.fields.add(step.target.id)
            found.types[step.target.id] = plain_name(step.annotation)
        elif isinstance(step, ast.Attribute) and isinstance(step.ctx, ast.Store) and plain_name(step.value) == "self":
            found.fields.add(step.attr)
    return found


class Reads(ast.NodeVisitor):
    """Every ``x.field`` of a file, with the name of the class of ``x``, or "" where it is not plain."""

    def __init__(self, classes: dict[str, list[Class]]) -> None:
        self.found: list[tuple[str, str]] = []
        self.by_name: set[str] = set()
        """Every string: the name of a field may be one, in a table of them."""
        self.read_whole: set[str] = set()
        """Classes whose fields are gone through one by one."""
        self._classes = classes
        self._scopes: list[dict[str, str]] = [{}]
        self._class = ""

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        outer, self._class = self._class, node.name
        self.generic_visit(node)
        self._class = outer

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        scope = {item.arg: plain_name(item.annotation) for item in arguments}
        if self._class and node.args.args and node.args.args[0].arg == "self":
            scope["self"] = self._class
        self._scopes.append(scope)
        self.generic_visit(node)
        self._scopes.pop()

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            if isinstance(target, ast.Name):
                built = plain_name(node.value.func) if isinstance(node.value, ast.Call) else ""
                self._scopes[-1][target.id] = built if built in self._classes else ""
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.ctx, ast.Load):
            self.found.append((node.attr, self._type(node.value)))
        if node.attr == "__struct_fields__":
            self.read_whole.add(plain_name(node.value))
        self.generic_visit(node)

    def visit_MatchClass(self, node: ast.MatchClass) -> None:
        name = plain_name(node.cls)
        self.found += [(attribute, name) for attribute in node.kwd_attrs]
        if node.patterns:  # by position: one field after the other
            self.read_whole.add(name)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str):
            self.by_name.add(node.value)

    def _type(self, node: ast.expr) -> str:
        if isinstance(node, ast.Name):
            known = next((scope[node.id] for scope in reversed(self._scopes) if node.id in scope), "")
            return known if known in self._classes else ""
        if isinstance(node, ast.Attribute):
            owners = self._classes.get(self._type(node.value), [])
            held = {owner.types.get(node.attr, "") for owner in owners}
            return name if len(held) == 1 and (name := held.pop()) in self._classes else ""
        return ""


def all_classes(files: list[SourceFile]) -> dict[str, list[Class]]:
    found: dict[str, list[Class]] = defaultdict(list)
    for file in files:
        for node in ast.walk(file.tree):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(class_of(node, file.path))
    return dict(found)


def family(name: str, classes: dict[str, list[Class]]) -> set[str]:
    """A class with those above and below it: a read through one of them may be a read of another's field."""
    found = {name}
    while True:
        up = {base for known in found for item in classes.get(known, []) for base in item.bases if base in classes}
        down = {item.name for items in classes.values() for item in items if found & set(item.bases)}
        if (up | down) <= found:
            return found
        found |= up | down


def unread(files: list[SourceFile]) -> Iterator[str]:
    classes = all_classes(files)
    reads: set[tuple[str, str]] = set()
    by_name: set[str] = set()
    read_whole: set[str] = set()
    for file in files:
        visitor = Reads(classes)
        visitor.visit(file.tree)
        reads |= set(visitor.found)
        by_name |= visitor.by_name
        read_whole |= visitor.read_whole
    for name, items in classes.items():
        related = family(name, classes)
        is_record = any(item.is_record for member in related for item in classes.get(member, []))
        for item in items:
            by_others = any(item.path == path or item.path.startswith(f"{path}/") for path in READ_BY_OTHERS)
            if not is_record or by_others or related & read_whole:
                continue
            for attribute in sorted(item.fields):
                seen = (attribute, "") in reads or any((attribute, member) in reads for member in related)
                if not seen and attribute not in by_name and attribute not in KNOWN_UNREAD.get(name, ()):
                    yield f"{item.path} {name}.{attribute}"


def test_every_field_of_a_record_is_read() -> None:
    wrong = list(unread(product_files()))
    assert not wrong, "nobody reads these; take them out, or use them:\n" + "\n".join(wrong)


def test_the_check_itself_sees_an_unread_field() -> None:
    sample = SourceFile("sample.py")
    sample.__dict__["tree"] = ast.parse(
        "@dataclass\nclass Facts:\n    limit: int\n    size: int\n\n"
        "class Plan:\n    def __init__(self, limit: int) -> None:\n        self.limit = limit\n"
        "    def full(self, facts: Facts) -> bool:\n        return self.limit > facts.size\n"
    )
    assert list(unread([sample])) == ["sample.py Facts.limit"]
