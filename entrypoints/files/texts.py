"""What ``engine rerank`` ranks: the lines, paragraphs, whole files or JSON fields of files, each with its place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from engine.entrypoints.files.reading import (
    STANDARD_INPUT,
    json_rows,
    kind_of,
    printable_name,
    shown_name,
    text_lines,
    wrong_line,
)
from engine.errors import ConfigError

Unit = Literal["line", "paragraph", "file", "json"]
DEFAULT_FIELD = "text"
JSON_SUFFIXES = (".jsonl", ".ndjson")


@dataclass(frozen=True, slots=True)
class Text:
    """One text to rank."""

    text: str
    file: str
    line: int | None
    """Where it begins, from 1; None for a whole file."""
    row: Any = None
    """The whole JSON value that the text is a field of."""


def read_texts(files: Sequence[str], by: Unit | None = None, field: str | None = None) -> list[Text]:
    """The texts of all files in order, blank ones left out; ``by`` None: chosen by ``natural_unit``.

    Raises ``ConfigError`` where there is nothing to rank, or the flags exclude each other.
    """
    unit = by or natural_unit(files, field)
    if field is not None and unit != "json":
        raise ConfigError(f"--field {field} names a field of JSON lines, so it cannot go with --by {unit}.")
    if list(files).count(STANDARD_INPUT) > 1:
        raise ConfigError("Standard input (-) can be read only once.")
    read = _json_texts(field or DEFAULT_FIELD) if unit == "json" else _READERS[unit]
    texts = [text for name in files for text in read(name)]
    if not texts:
        raise ConfigError(f"There is nothing to rank: {', '.join(map(shown_name, files))} without any text.")
    return texts


def natural_unit(files: Iterable[str], field: str | None) -> Unit:
    """JSON where a field is named or all names say so, else lines."""
    names = [name.removesuffix(".gz") for name in files]
    return "json" if field is not None or all(name.endswith(JSON_SUFFIXES) for name in names) else "line"


def _lines(name: str) -> Iterator[Text]:
    for number, line in text_lines(_checked(name)):
        if line.strip():
            yield Text(line, printable_name(name), number)


def _paragraphs(name: str) -> Iterator[Text]:
    """Runs of lines between blank ones."""
    block: list[str] = []
    first = 1
    for number, line in text_lines(_checked(name)):
        if line.strip():
            first = first if block else number
            block.append(line)
        elif block:
            yield Text("\n".join(block), printable_name(name), first)
            block = []
    if block:
        yield Text("\n".join(block), printable_name(name), first)


def _whole(name: str) -> Iterator[Text]:
    text = "\n".join(line for _, line in text_lines(_checked(name)))
    if text.strip():
        yield Text(text, printable_name(name), None)


def _json_texts(field: str) -> Callable[[str], Iterator[Text]]:
    keys = field.split(".")

    def read(name: str) -> Iterator[Text]:
        for number, row in json_rows(_checked(name)):
            text = row if isinstance(row, str) else _field(row, keys, field, name, number)
            if text.strip():
                yield Text(text, printable_name(name), number, row)

    return read


def _field(row: Any, keys: Sequence[str], field: str, name: str, number: int) -> str:
    value = row
    for key in keys:
        if not isinstance(value, dict) or key not in value:
            here = f"it has {', '.join(map(repr, row))}" if isinstance(row, dict) and row else f"it is {kind_of(row)}"
            raise wrong_line(name, number, f"no field {field!r} ({here}); name another one with --field.")
        value = value[key]
    if not isinstance(value, str):
        raise wrong_line(name, number, f"the field {field!r} is {kind_of(value)}, and only a text can be ranked.")
    return value


def _checked(name: str) -> str:
    if name != STANDARD_INPUT and Path(name).is_dir():
        raise ConfigError(f"{name} is a folder; name the files in it, for example {name.rstrip('/')}/*.txt.")
    return name


_READERS: dict[Unit, Callable[[str], Iterator[Text]]] = {"line": _lines, "paragraph": _paragraphs, "file": _whole}
