"""Tables and progress, on a terminal and in a pipe."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from engine.entrypoints import progress
from engine.entrypoints.progress import Progress
from engine.entrypoints.terminal import counted, print_columns

NAMES = ("system", "nDCG@10", "MRR@10")
ROWS = [["BM25", "0.500 [.400 .600]", "0.25"], ["a model with a name", "0.700 [.600 .800]", "1"]]


def printed(width: int, *, terminal: bool) -> list[str]:
    file = io.StringIO()
    out = Console(file=file, width=width, force_terminal=terminal, color_system=None)
    print_columns(out, NAMES, ROWS, right=("MRR@10",))
    return file.getvalue().splitlines()


def test_a_table_that_is_too_wide_goes_on_below() -> None:
    assert printed(60, terminal=True) == [
        "system               nDCG@10            MRR@10",
        "BM25                 0.500 [.400 .600]    0.25",
        "a model with a name  0.700 [.600 .800]       1",
    ]
    assert printed(40, terminal=True) == [
        "system               nDCG@10",
        "BM25                 0.500 [.400 .600]",
        "a model with a name  0.700 [.600 .800]",
        "",
        "system               MRR@10",
        "BM25                   0.25",
        "a model with a name       1",
    ]


def test_a_pipe_gets_a_row_as_one_line() -> None:
    assert printed(20, terminal=False) == printed(60, terminal=True)


def test_one_is_no_plural() -> None:
    assert [counted(1, "row"), counted(0, "row"), counted(1200, "query", "queries")] == [
        "1 row",
        "0 rows",
        "1,200 queries",
    ]


def test_a_long_command_says_in_a_pipe_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter((0.0, 4.0, 12.0, 13.0, 20.0, 37.0))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with Progress(40, "pair") as known:
        for _ in range(3):
            known.tick(12)
    with Progress(None, "row", initial=7) as unknown:
        unknown.tick()
    assert capsys.readouterr().err.splitlines() == [
        "engine: 24 of 40 pairs after 12 s, about 8 s left",
        "engine: 8 rows after 17 s",
    ]
