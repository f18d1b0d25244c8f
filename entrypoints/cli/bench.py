"""``engine bench ...``: everything after the word goes to the bench's own parser, which accepts abbreviated flags."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

bench = App(name="bench", help="Measure a server or this machine.", help_flags=[], version_flags=[])


@bench.default
def run(*words: Annotated[str, Parameter(allow_leading_hyphen=True)]) -> int:
    """Measure a server or this machine."""
    from engine.entrypoints.bench.command import main

    return main(words)
