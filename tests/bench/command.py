"""``engine bench ...`` as the command line runs it, with its errors raised."""

from __future__ import annotations

from collections.abc import Sequence

from cyclopts.exceptions import CycloptsError

from engine.entrypoints.cli import execute
from engine.errors import ConfigError

WRONG_USAGE = (ConfigError, CycloptsError)
"""What the command line prints as one sentence, with exit code 2."""


def main(words: Sequence[str]) -> int:
    return execute(["bench", *words])
