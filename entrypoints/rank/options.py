"""The options of ``engine rerank``: each field is a flag, explained by the string below it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Parameter

from engine.entrypoints.files.texts import Unit
from engine.entrypoints.flag_kinds import SWITCH
from engine.errors import ConfigError

BY = Parameter(
    help="What is ranked: each line, each paragraph (between blank lines), each whole file, or a field of each JSON "
    "line. Default: json for files named .jsonl, else line."
)
Form = Literal["table", "json", "tsv"]


@dataclass(frozen=True, kw_only=True)
class RankOptions:
    """The unit that ``engine rerank`` ranks, and the form of its answer."""

    by: Annotated[Unit | None, BY] = None
    field: str | None = None
    """Field of the JSON lines that holds the text; a.b for nested ones. Default: text."""
    top: int | None = None
    """How many of the best to print. Default: 10 in the table, all with --json or --tsv."""
    json: Annotated[bool, SWITCH] = False
    """One JSON object a line, for pipes."""
    tsv: Annotated[bool, SWITCH] = False
    """Tab-separated rank, score, logit, file, line and text, for pipes."""

    @property
    def form(self) -> Form:
        """The form of what is printed."""
        return "json" if self.json else "tsv" if self.tsv else "table"

    def check(self) -> None:
        """Raises ``ConfigError`` for options that exclude each other, and for a number below one."""
        if self.json and self.tsv:
            raise ConfigError("--json and --tsv exclude each other.")
        if self.top is not None and self.top < 1:
            raise ConfigError(f"--top {self.top}: one or more expected.")
