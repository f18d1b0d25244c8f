"""How often a process that ends may be started again, before whoever supervises it gives up."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

RESTART_WINDOW_S = 300.0
"""Restarts longer ago than this no longer count."""


class RestartBudget:
    """Allows at most ``limit`` restarts within ``RESTART_WINDOW_S``. ``clock`` is ``time.monotonic`` outside tests."""

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._restarts: deque[float] = deque()

    def spend(self) -> bool:
        """Count one restart; False, and nothing is counted, where the budget is used up."""
        now = self._clock()
        while self._restarts and now - self._restarts[0] > RESTART_WINDOW_S:
            self._restarts.popleft()
        if len(self._restarts) >= self._limit:
            return False
        self._restarts.append(now)
        return True

    def refund(self) -> None:
        """Take the last restart back: what ended the process turned out not to be its own fault."""
        if self._restarts:
            self._restarts.pop()
