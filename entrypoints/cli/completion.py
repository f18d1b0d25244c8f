"""``engine completion SHELL``: what a shell needs to complete commands and flags."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

Shell = Literal["bash", "zsh", "fish"]


def completion(
    shell: Annotated[Shell, Parameter(help="Whose completion is printed.")],
) -> int:
    """Print the completion of a shell: `source <(engine completion bash)`.

    For zsh, write it to a file named _engine in a folder of $fpath; for fish, to
    ~/.config/fish/completions/engine.fish.
    """
    from engine.entrypoints.cli.app import build_app

    settings: dict[str, Shell] = {"shell": shell}  # by name, and yet no subprocess with a shell
    print(build_app([]).generate_completion(prog_name="engine", **settings))
    return 0
