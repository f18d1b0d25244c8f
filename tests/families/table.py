"""The tables in ``docs/models.md``: ``python -m tests.families.table`` measures the families and writes both.

The test next to it compares everything but the measured column, whose last digits differ between machines.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from tests.families import kinds
from tests.families.cases import FAMILIES
from tests.families.family import Family
from tests.families.measure import measure

DOCUMENT = Path(__file__).parents[2] / "docs" / "models.md"
BEGIN, END = "<!-- families: python -m tests.families.table -->\n", "<!-- /families -->"
HEAD = (
    "| family | `model_type` | published models | prompt and head | shapes tested | "
    "largest difference of a probability |\n"
    "|---|---|---|---|---|---|\n"
)
MEASURED = -2
"""Cell of a row, split at its bars."""


def render(measured: Callable[[Family], str]) -> str:
    lines = [
        f"| {family.body} | `{family.model_type}` | {family.models} | {family.scoring} | "
        f"{'; '.join(family.shapes)} | {measured(family)} |\n"
        for family in FAMILIES.values()
    ]
    return HEAD + "".join(lines)


def stored() -> str:
    return DOCUMENT.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]


def _largest(family: Family) -> str:
    with tempfile.TemporaryDirectory() as folder:
        found = [measure(family, shape, Path(folder) / str(i)).difference for i, shape in enumerate(family.shapes)]
    return f"{max(found):.0e}"


def main() -> None:
    torch.set_num_threads(1)
    text = DOCUMENT.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    text = head + BEGIN + render(_largest) + END + rest.split(END)[1]
    head, rest = text.split(kinds.BEGIN)
    text = head + kinds.BEGIN + kinds.render_kinds() + kinds.END + rest.split(kinds.END)[1]
    DOCUMENT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
