"""A query against many texts, and three ways to print the order: a table for people, JSON lines and TSV for pipes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TextIO

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from engine.entrypoints.files.reading import shown_name
from engine.entrypoints.files.texts import Text
from engine.entrypoints.terminal import bar, console, one_line, pipe_text, plain, shares, speaks_unicode, wrapped
from engine.errors import EngineError
from engine.scoring.activation import ranking

if TYPE_CHECKING:
    from engine import LLM

TABLE_ROWS = 10
TEXT_LINES = 2
"""Lines of the terminal that a text may fill."""
WIDE_TERMINAL, WIDE_BAR, NARROW_BAR = 100, 16, 8
GAP = 2
MANY = 1000
"""Texts from which on a progress bar is worth its line."""
_TSV_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


@dataclass(frozen=True, slots=True)
class RankedText:
    text: Text
    score: float
    logit: float
    truncated: bool
    unfamiliar: bool = False


@dataclass(frozen=True)
class Ranking:
    query: str
    best_first: list[RankedText]
    bounded: bool
    """Scores lie between 0 and 1."""


def rank_texts(llm: LLM, query: str, texts: Sequence[Text]) -> Ranking:
    """Scores stream in, and only the numbers are kept: a million lines need no more memory than they are long.

    Raises ``EngineError`` for a text that has no score.
    """
    outputs = llm.score_iter(query, [text.text for text in texts], use_tqdm=len(texts) >= MANY)
    scored = []
    for text, output in zip(texts, outputs, strict=True):
        if output.error is not None:
            source = f"{shown_name(text.file)}:{text.line}" if text.line else shown_name(text.file)
            raise EngineError(f"{source} has no score: {output.error}")
        scored.append(RankedText(text, output.outputs.score, output.outputs.logit, output.truncated, output.unfamiliar))
    order = ranking(np.array([entry.logit for entry in scored], np.float32)).tolist()
    bounded = llm.spec.head.activation in ("sigmoid", "softmax")
    return Ranking(query, [scored[i] for i in order], bounded)


def print_ranking(
    ranked: Ranking, form: Literal["table", "json", "tsv"], top: int | None = None, file: TextIO | None = None
) -> None:
    out = file or sys.stdout
    if form == "table":
        print_table(ranked, top or TABLE_ROWS, console(out))
        return
    pipe_text(out)
    entries = enumerate(ranked.best_first[:top], 1)
    for line in _json_lines(entries) if form == "json" else _tsv_lines(entries):
        out.write(line)
    out.flush()  # here, where a reader that left is not an error


def _json_lines(entries: Iterator[tuple[int, RankedText]]) -> Iterator[str]:
    for rank, entry in entries:
        row: dict[str, Any] = {
            "rank": rank,
            "score": entry.score,
            "logit": entry.logit,
            "file": entry.text.file,
            "line": entry.text.line,
            "text": entry.text.text,
            "truncated": entry.truncated,
        }
        if entry.unfamiliar:
            row["unfamiliar"] = True
        if isinstance(entry.text.row, dict):
            row["row"] = entry.text.row
        yield msgspec.json.encode(row).decode() + "\n"


def _tsv_lines(entries: Iterator[tuple[int, RankedText]]) -> Iterator[str]:
    for rank, entry in entries:
        line = "" if entry.text.line is None else str(entry.text.line)
        texts = [entry.text.file.translate(_TSV_ESCAPES), line, entry.text.text.translate(_TSV_ESCAPES)]
        yield "\t".join([str(rank), f"{entry.score:.6g}", f"{entry.logit:.6g}", *texts]) + "\n"


def print_table(ranked: Ranking, top: int, out: Console) -> None:
    shown = ranked.best_first[:top]
    unicode = speaks_unicode(out)
    sources = _sources(shown)
    rank_width, score_width = len(str(len(shown))), 5 if ranked.bounded else 6
    bar_width = WIDE_BAR if out.width >= WIDE_TERMINAL else NARROW_BAR
    source_width = min(max(map(len, sources)), out.width // 3)
    text_width = max(out.width - rank_width - score_width - bar_width - source_width - 4 * GAP, 10)
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, GAP, 0, 0))
    for width in (rank_width, score_width, bar_width, text_width, source_width):
        table.add_column(width=width)
    fills = shares([entry.score for entry in shown], bounded=ranked.bounded)
    for rank, (entry, fill, source) in enumerate(zip(shown, fills, sources, strict=True), 1):
        table.add_row(
            plain(f"{rank:>{rank_width}}", "dim"),
            f"{entry.score:>{score_width}.3f}" if ranked.bounded else f"{entry.score:>{score_width}.2f}",
            plain(bar(fill, bar_width, unicode=unicode), _colour(fill)),
            wrapped(one_line(entry.text.text, TEXT_LINES * text_width - 8)),
            plain(source, "dim"),
        )
    out.print(table)
    out.print(plain(_footer(ranked, len(shown)), "dim"))


def _sources(entries: Sequence[RankedText]) -> list[str]:
    """File and line, without what is the same for all of them."""
    same_file = len({entry.text.file for entry in entries}) == 1
    sources = []
    for entry in entries:
        line, cut = entry.text.line, " (cut)" if entry.truncated else ""
        name = f"line {line}" if same_file and line else f"{entry.text.file}:{line}" if line else entry.text.file
        sources.append(name + cut)
    return sources


def _colour(fill: float) -> str:
    return "green" if fill >= 0.5 else "yellow" if fill >= 0.1 else "red"


def _footer(ranked: Ranking, num_shown: int) -> str:
    cut = sum(entry.truncated for entry in ranked.best_first)
    parts = [f"{num_shown} of {len(ranked.best_first)}"]
    if cut:
        parts.append(f"{cut} longer than the model can read and cut")
    if unfamiliar := sum(entry.unfamiliar for entry in ranked.best_first):
        parts.append(f"{unfamiliar} hardly known to the model's tokenizer, whose scores say little")
    return ", ".join(parts)
