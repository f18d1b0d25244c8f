"""Commands of the command line, run in this process or in one of their own."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from engine.entrypoints.cli import run

QUIET = ["--device", "cpu", "--cpu-threads", "1"]


@contextmanager
def logging_restored() -> Iterator[None]:
    """A command sets up the root logger for its process, and libraries switch off the loggers of others; a test gives
    all of them back."""
    root = logging.getLogger()
    before, level, disabled = root.handlers[:], root.level, root.manager.disable
    try:
        yield
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        root.manager.disable = disabled
        for name, logger in root.manager.loggerDict.items():
            if isinstance(logger, logging.Logger) and name.partition(".")[0] == "engine":
                logger.disabled, logger.propagate = False, True
                logger.setLevel(logging.NOTSET)


def run_here(*words: str | Path) -> int:
    with logging_restored():
        return run([str(word) for word in words])


def run_apart(
    *words: str | Path, stdin: str | bytes = b"", env: dict[str, str] | None = None, timeout_s: float = 120.0
) -> subprocess.CompletedProcess[bytes]:
    """As a user would: a fresh interpreter, pipes on all sides."""
    begin = "from engine.entrypoints.cli import main; main()"
    command: Sequence[str] = [sys.executable, "-c", begin, *map(str, words)]
    data = stdin.encode() if isinstance(stdin, str) else stdin
    full = {**os.environ, "PYTHONSAFEPATH": "1", **(env or {})}
    return subprocess.run(command, input=data, capture_output=True, env=full, timeout=timeout_s, check=False)
