"""Rows in, rows out: JSON lines and Parquet behind one small protocol.

An input row has a ``query`` and a ``document`` or a list of ``documents``; every other column is carried through. A row
that cannot be scored keeps its place, with ``error`` filled: one bad line in a million costs one line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from engine.entrypoints.files.reading import byte_lines, kind_of
from engine.errors import ConfigError
from engine.extras import pip_install

DOCUMENT_FIELDS = ("documents", "document", "text", "passages", "passage")


@dataclass(slots=True)
class ScoreRow:
    """One input row on its way to an output row."""

    number: int
    """From 0, in input order."""
    fields: dict[str, Any]
    query: str = ""
    documents: list[str] = field(default_factory=list)
    single: bool = False
    """The row had one ``document``: it gets one ``score`` instead of ``scores``."""
    error: str | None = None

    def finished(self, scores: list[float | None]) -> dict[str, Any]:
        """The output row: what came in, then what was found; null for a document without a score."""
        has_score = any(score is not None for score in scores)
        found: Any = None if self.error and not has_score else (scores[0] if self.single else scores)
        return {**self.fields, "score" if self.single else "scores": found, "error": self.error}


def read_row(number: int, value: Any) -> ScoreRow:
    """Never raises: what is wrong with the row becomes its ``error``."""
    if not isinstance(value, dict):
        return ScoreRow(number, {"row": value}, error=f"an object expected, got {kind_of(value)}")
    row = ScoreRow(number, value)
    query = value.get("query")
    if not isinstance(query, str) or not query.strip():
        row.error = "query: a text that is not empty expected"
        return row
    name = next((name for name in DOCUMENT_FIELDS if value.get(name) is not None), None)
    if name is None:
        row.error = f"no documents: one of {', '.join(DOCUMENT_FIELDS)} expected"
        return row
    documents = value[name]
    row.single = isinstance(documents, str)
    listed = [documents] if row.single else documents
    if not isinstance(listed, list) or not all(isinstance(text, str) for text in listed):
        row.error = f"{name}: a text or a list of texts expected"
        return row
    row.query, row.documents = query, listed
    return row


def read_jsonl(path: Path, skip: int) -> Iterator[ScoreRow]:
    """Blank lines do not count; a line that is not JSON is a row with an error."""
    lines = (line for _, line in byte_lines(path) if line.strip())
    for number, line in islice(enumerate(lines), skip, None):
        try:
            yield read_row(number, msgspec.json.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            text = line.decode(errors="replace").rstrip()
            yield ScoreRow(number, {"row": text}, error="not valid JSON")


def read_parquet(path: Path, skip: int) -> Iterator[ScoreRow]:
    """Row group by row group; those that lie before ``skip`` are not even read.

    Raises ``ConfigError`` for a file that cannot be read.
    """
    parquet = parquet_module()
    try:
        file = parquet.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as Parquet: {error}.") from None
    first = 0
    with file:
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            if first + size > skip:
                table = file.read_row_group(group)
                rows = islice(enumerate(table.to_pylist(), first), max(0, skip - first), None)
                yield from (read_row(number, value) for number, value in rows)
            first += size


def parquet_module() -> Any:
    """The module ``pyarrow.parquet``. Raises ``ConfigError`` where it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise ConfigError(f"Parquet files need pyarrow: {pip_install('parquet')}.") from None
    return pyarrow.parquet


def encode_line(row: dict[str, Any]) -> bytes:
    return msgspec.json.encode(row) + b"\n"
