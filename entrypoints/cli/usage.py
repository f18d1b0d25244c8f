"""What is said about a command line that cannot be read: one sentence in the words of the person who typed it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cyclopts.exceptions import CycloptsError


def sentence(error: CycloptsError) -> str:
    """The mistake, and where the command's own help is."""
    from cyclopts.exceptions import (
        ConsumeMultipleError,
        MissingArgumentError,
        UnknownCommandError,
        UnusedCliTokensError,
    )

    words = " ".join(error.command_chain or ())
    command = f"engine {words}".strip()
    said = " ".join(str(error).split())
    if isinstance(error, MissingArgumentError) and not isinstance(error, ConsumeMultipleError) and error.argument:
        # `--query` is how the parser calls an argument that is given by its place.
        given = error.keyword or next((token.keyword for token in error.argument.tokens if token.keyword), None)
        by_place = error.argument.index is not None
        name = error.argument.name.lstrip("-").upper() if by_place else error.argument.name
        said = f"{given} needs a value." if given else f"{words} needs {name}."
    elif isinstance(error, UnusedCliTokensError):
        said = f"{words} does not know what to do with {', '.join(map(repr, error.unused_tokens or ()))}."
    elif isinstance(error, UnknownCommandError) and said.endswith(", ..."):
        said = said.partition(" Available commands:")[0]
    return f"{said} See {command} --help."
