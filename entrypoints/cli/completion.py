"""``engine completion SHELL``: what a shell needs to complete commands and flags."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, get_args

from cyclopts import Parameter

from engine.errors import ConfigError

Shell = Literal["bash", "zsh", "fish"]


def completion(
    shell: Annotated[Shell | None, Parameter(help="Whose completion is printed. Not given: that of $SHELL.")] = None,
) -> int:
    """Print the completion of a shell: `source <(engine completion bash)`.

    For zsh, write it to a file named _engine in a folder of $fpath; for fish, to
    ~/.config/fish/completions/engine.fish.
    """
    from engine.entrypoints.cli.app import build_app

    settings: dict[str, Shell] = {"shell": shell or _of_environment()}  # by name, and yet no subprocess with a shell
    print(build_app([]).generate_completion(prog_name="engine", **settings))
    return 0


def _of_environment() -> Shell:
    """The shell that $SHELL names. Raises ``ConfigError`` where it is none of those with a completion."""
    name = Path(os.environ.get("SHELL", "")).name
    for shell in get_args(Shell):
        if shell == name:
            return shell  # type: ignore[no-any-return]
    raise ConfigError(
        f"$SHELL names {name or 'no shell'}: say which completion to print, engine completion bash, zsh or fish."
    )
