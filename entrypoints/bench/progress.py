"""How far a measurement is: a bar on a terminal, a line every ten seconds where standard error goes elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Self

from tqdm import tqdm

from engine.entrypoints.terminal import tell

PERIOD_S = 10.0


class Progress:
    """Use as a context manager; ``quiet`` says nothing at all (``--disable-tqdm``)."""

    def __init__(self, total: int, unit: str, *, quiet: bool = False) -> None:
        self._total, self._unit = total, unit
        self._lines = not quiet and not sys.stderr.isatty()
        self._bar = tqdm(total=total, unit=unit, disable=quiet or self._lines, leave=False)
        self._done = 0
        self._started_s = self._said_s = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def tick(self) -> None:
        """One more is done."""
        self._bar.update(1)
        self._done += 1
        now_s = time.monotonic()
        if self._lines and now_s - self._said_s >= PERIOD_S and self._done < self._total:
            self._said_s = now_s
            spent_s = now_s - self._started_s
            speed = self._done / spent_s
            left = f", about {(self._total - self._done) / speed:.0f} s left"
            # The first results come together, so that their speed says little.
            known = 10 * self._done >= self._total
            tell(f"{self._done} of {self._total} {self._unit}s after {spent_s:.0f} s{left if known else ''}")
