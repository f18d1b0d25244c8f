"""What quick commands print, as a newcomer reads it, stays as it was reviewed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.entrypoints.transcripts import FOLDER, in_terminal, piped


@pytest.mark.parametrize(("name", "printed"), [("pipe", piped), ("terminal", in_terminal)])
def test_commands_print_what_was_reviewed(name: str, printed: Callable[[Path], str], tmp_path: Path) -> None:
    assert printed(tmp_path) == (FOLDER / f"{name}.txt").read_text("utf-8"), (
        "run python -m tests.entrypoints.transcripts, and read what changed"
    )
