"""What commands print for people: tables as wide as the terminal, scores as bars, colour only where it can be seen."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import TextIO

from rich.console import Console
from rich.text import Text

PIPED_WIDTH = 120
"""Columns where no terminal says how many there are."""
_EIGHTHS = " ▏▎▍▌▋▊▉"
_FULL = "█"


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


def tell(message: str) -> None:
    """One line for the person at the terminal; standard output stays for results."""
    print(f"engine: {message}", file=sys.stderr, flush=True)
