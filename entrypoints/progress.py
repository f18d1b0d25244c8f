"""How far a command is: a bar on a terminal, a line now and then where standard error goes elsewhere."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from typing import Self

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from engine.entrypoints.terminal import counted, tell

PERIOD_S = 10.0
LONG_PERIOD_S = 60.0
"""Of commands that may run for a night."""


class Progress:
    """Use as a context manager; ``quiet`` says nothing at all (``--disable-tqdm``).

    ``total`` is None where it is not known, ``initial`` is how many an earlier run did. Lines of the log go above the
    bar.
    """

    def __init__(
        self, total: int | None, unit: str, *, quiet: bool = False, initial: int = 0, period_s: float = PERIOD_S
    ) -> None:
        self._total, self._unit, self._initial, self._period_s = total, unit, initial, period_s
        self._lines = not quiet and not sys.stderr.isatty()
        shown = not quiet and not self._lines
        self._bar = tqdm(total=total, initial=initial, unit=f" {unit}s", disable=not shown, leave=False)
        self._log = logging_redirect_tqdm() if shown else None
        self._stack = ExitStack()
        self._done = initial
        self._started_s = self._said_s = time.monotonic()

    def __enter__(self) -> Self:
        if self._log is not None:
            self._stack.enter_context(self._log)
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        self._stack.close()

    def tick(self, count: int = 1) -> None:
        """``count`` more are done."""
        self._bar.update(count)
        self._done += count
        now_s = time.monotonic()
        if self._lines and now_s - self._said_s >= self._period_s and self._done != self._total:
            self._said_s = now_s
            tell(self._line(now_s - self._started_s))

    def _line(self, spent_s: float) -> str:
        if self._total is None:
            return f"{counted(self._done, self._unit)} after {spent_s:.0f} s"
        speed = (self._done - self._initial) / spent_s
        # The first results come together, so that their speed says little.
        known = 10 * self._done >= self._total and speed > 0
        left = f", about {(self._total - self._done) / speed:.0f} s left" if known else ""
        return f"{self._done:,} of {counted(self._total, self._unit)} after {spent_s:.0f} s{left}"
