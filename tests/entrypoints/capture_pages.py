"""What commands print, captured into the pages of ``docs/`` so that they show what really happens.

A page marks a place with ``<!-- captured -->`` above a fenced block whose first line is ``$ engine ...``. Run

    python -m tests.entrypoints.capture_pages

after a change of the commands or of the packaged model. It also draws ``docs/images/rerank.svg``.
``test_captured_pages.py`` checks that the pages still say what the commands say.
"""

from __future__ import annotations

import io
import os
import re
import shlex
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from rich.console import CONSOLE_SVG_FORMAT, Console

from engine import LLM
from engine.entrypoints.files.texts import read_texts
from engine.entrypoints.rank.ranking import print_table, rank_texts
from tests.support.commands import run_here

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("docs/rerank-command.md", "docs/evaluation.md")
IMAGE = ROOT / "docs" / "images" / "rerank.svg"
IMAGE_QUERY, IMAGE_FILE = "how much space is left on the disk?", "docs/samples/tips.txt"
WIDTH = 100
_BLOCK = re.compile(r"(<!-- captured -->\n```text\n)\$ (engine [^\n]*)\n(.*?)(```)", re.DOTALL)


@dataclass(frozen=True)
class Captured:
    page: str
    command: str
    output: str


def captured_blocks(page: str) -> Iterator[Captured]:
    for match in _BLOCK.finditer((ROOT / page).read_text(encoding="utf-8")):
        yield Captured(page, match[2], match[3])


def output_of(command: str) -> str:
    """Both streams of a command run at the root of the checkout, as they appear on a terminal."""
    both = io.StringIO()
    before = Path.cwd()
    os.chdir(ROOT)
    try:
        with mock.patch.dict(os.environ, {"COLUMNS": str(WIDTH)}), redirect_stdout(both), redirect_stderr(both):
            code = run_here(*shlex.split(command)[1:])
    finally:
        os.chdir(before)
    assert code == 0, f"{command} ended with {code}:\n{both.getvalue()}"
    return "".join(line.rstrip() + "\n" for line in both.getvalue().splitlines())


def draw() -> str:
    """The table in colour, as a picture that needs no font from elsewhere."""
    out = Console(file=io.StringIO(), record=True, width=WIDTH, force_terminal=True, color_system="truecolor")
    with LLM(device="cpu") as llm:
        ranking = rank_texts(llm, IMAGE_QUERY, read_texts([str(ROOT / IMAGE_FILE)]))
    print_table(ranking, 5, out)
    without_fonts = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    title = f'engine rerank "{IMAGE_QUERY}" {IMAGE_FILE} --top 5'
    return out.export_svg(title=title, code_format=without_fonts, unique_id="rerank")


def main() -> None:
    for page in PAGES:
        path = ROOT / page
        text = path.read_text(encoding="utf-8")
        path.write_text(_BLOCK.sub(lambda m: f"{m[1]}$ {m[2]}\n{output_of(m[2])}{m[4]}", text), encoding="utf-8")
        print(f"{page}: {len(_BLOCK.findall(text))} blocks")
    IMAGE.write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
