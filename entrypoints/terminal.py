"""What commands print for people: tables as wide as the terminal, scores as bars, colour only where it can be seen."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Collection, Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

PIPED_WIDTH = 120
"""Columns where no terminal says how many there are."""
_EIGHTHS = " ▏▎▍▌▋▊▉"
_FULL = "█"
COLUMN_GAP = 2


def console(file: TextIO | None = None) -> Console:
    """The console of standard output: colour on a terminal only, and never where NO_COLOR is set."""
    stream = file or sys.stdout
    if not stream.isatty() or not speaks_unicode(stream):
        _reconfigure(stream, errors="replace")  # a text of somebody else is no reason to fail
    width = None if stream.isatty() or "COLUMNS" in os.environ else PIPED_WIDTH
    return Console(file=stream, width=width, highlight=False, soft_wrap=False, emoji=False, markup=False)


def pipe_text(file: TextIO) -> None:
    """Makes pipes UTF-8, for the programs that read them, whatever the terminal's own encoding."""
    _reconfigure(file, encoding="utf-8")


def print_json(value: Any, out: TextIO | None = None) -> None:
    """Prints what msgspec can encode as indented JSON, for pipes too."""
    stream = out or sys.stdout
    pipe_text(stream)
    print(json_text(value), file=stream, flush=True)


def json_text(value: Any) -> str:
    """The indented JSON of what msgspec can encode."""
    import msgspec

    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def _reconfigure(file: TextIO, **settings: str) -> None:
    if isinstance(file, io.TextIOWrapper):
        file.reconfigure(**settings)  # type: ignore[arg-type]


def speaks_unicode(out: Console | TextIO) -> bool:
    return (out.encoding or "").lower().replace("-", "") in ("utf8", "utf16", "utf32")


def bar(share: float, width: int, *, unicode: bool = True) -> str:
    """``share`` of ``width`` cells, in eighths of a cell; an amount above nothing is never shown as nothing."""
    share = min(max(share, 0.0), 1.0)
    if not unicode:
        return "#" * round(share * width)
    eighths = round(share * width * 8)
    if share > 0:
        eighths = max(eighths, 1)
    whole, rest = divmod(eighths, 8)
    return _FULL * whole + (_EIGHTHS[rest] if rest else "")


def shares(scores: Sequence[float], *, bounded: bool) -> list[float]:
    """How full the bar of each score is: the score itself where scores lie in 0..1, else its place in their range."""
    if bounded or not scores:
        return list(scores)
    low, high = min(scores), max(scores)
    return [1.0 if high == low else (score - low) / (high - low) for score in scores]


def one_line(text: str, limit: int) -> str:
    """White space folded, control characters taken out, and cut to ``limit`` characters."""
    folded = "".join(char for char in " ".join(text[: limit * 8].split()) if char.isprintable())
    return folded if len(folded) <= limit and len(text) <= limit * 8 else folded[: limit - 1] + "…"


def plain(text: str, style: str = "") -> Text:
    """Text of a user: never read as markup."""
    return Text(text, style=style, overflow="ellipsis", no_wrap=True)


def wrapped(text: str, style: str = "") -> Text:
    return Text(text, style=style, overflow="fold")


Cell = str | Text


def print_columns(
    out: Console,
    names: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    num_keys: int = 1,
    right: Collection[str] = (),
) -> None:
    """A table in which nothing is cut.

    Where it is wider than the terminal, its columns go below each other in blocks that all begin with the first
    ``num_keys``; a pipe gets each row as one line. ``right``: names of columns that are aligned to the right.
    """
    lines = [[Text(name, "bold") for name in names], *([_as_text(cell) for cell in row] for row in rows)]
    widths = [max(cell.cell_len for cell in column) for column in zip(*lines, strict=True)]
    limit = out.width if out.is_terminal else sys.maxsize
    keys = range(num_keys)
    blocks: list[list[int]] = [[]]
    for column in range(num_keys, len(names)):
        if blocks[-1] and sum(widths[i] + COLUMN_GAP for i in (*keys, *blocks[-1])) + widths[column] > limit:
            blocks.append([])
        blocks[-1].append(column)
    for number, block in enumerate(blocks):
        if number:
            out.print()
        for cells in lines:
            shown = [_aligned(cells[i], widths[i], to_right=names[i] in right) for i in (*keys, *block)]
            line = Text(" " * COLUMN_GAP).join(shown)
            line.rstrip()
            out.print(line, soft_wrap=True)


def _as_text(cell: Cell) -> Text:
    return Text(cell) if isinstance(cell, str) else cell


def _aligned(cell: Text, width: int, *, to_right: bool) -> Text:
    space = Text(" " * (width - cell.cell_len))
    return Text.assemble(space, cell) if to_right else Text.assemble(cell, space)


def counted(number: int, noun: str, nouns: str = "") -> str:
    """``1 row``, ``2 rows``."""
    return f"{number:,} {noun if number == 1 else nouns or noun + 's'}"


def tell(message: str) -> None:
    """One line for the person at the terminal; standard output stays for results."""
    print(f"engine: {message}", file=sys.stderr, flush=True)
