"""The captured output in ``docs/`` is what the commands print: numbers may move with the model, the rest may not."""

from __future__ import annotations

import re
from itertools import takewhile

import pytest

from tests.entrypoints.capture_pages import IMAGE, IMAGE_FILE, IMAGE_QUERY, PAGES, ROOT, captured_blocks, output_of

BLOCKS = [block for page in PAGES for block in captured_blocks(page)]
QUICK = [block for block in BLOCKS if not block.command.startswith("engine verify")]
"""A verification of every precision takes half a minute, and has its own tests."""


def lasting(command: str, output: str) -> list[str]:
    """What another checkpoint must print too: the notice, and then the best text, or the words of the first line."""
    notice, first, *rest = output.splitlines()
    if command.startswith("engine rerank"):
        more = takewhile(lambda line: line.startswith(" "), rest)  # the best text goes on, indented
        return [notice, *_words(re.sub(r'"(score|logit)":[-\d.e]+', "", " ".join([first, *more])))]
    return [notice, *_words(first)]


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]{2,}", text)


def test_the_pages_have_their_blocks() -> None:
    assert [block.command.split()[1] for block in BLOCKS] == ["rerank", "rerank", "rerank", "eval", "check", "verify"]
    assert all(block.output for block in BLOCKS)


@pytest.mark.parametrize("block", QUICK, ids=lambda block: block.command)
def test_a_page_shows_what_the_command_prints(block: object) -> None:
    assert lasting(block.command, output_of(block.command)) == lasting(block.command, block.output), (
        "run python -m tests.entrypoints.capture_pages, and look at what changed"
    )


def test_the_picture_shows_the_best_line() -> None:
    svg = IMAGE.read_text(encoding="utf-8")
    best = next(block.output for block in BLOCKS if IMAGE_QUERY in block.command).splitlines()[1]
    (line,) = [line for line in (ROOT / IMAGE_FILE).read_text().splitlines() if line[:30] in best]
    assert line[:30] in svg.replace("&#160;", " ")
    assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", svg)  # nothing is fetched from elsewhere
