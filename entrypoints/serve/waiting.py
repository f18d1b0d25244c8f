"""How long a call would wait: what is queued for its model, over the speed at which that is being answered.

*Work* is counted in tokens that have to be computed: what the pairs of a call share counts once.

The scheduler gives half of every step to the calls with the least work left, half to the oldest (``policy.py``). So a
short call waits for all that is queued, or for twice what the short calls among it are, whichever is less; a long one
waits for all of it. A caller of 10,000 documents thus keeps no short call out.
"""

from __future__ import annotations

import time
from collections.abc import Callable

SPEED_MEMORY_S = 5.0
"""Half of the weight of what was measured is lost in this time."""
WINDOW_S = 0.1
"""Shortest time over which a speed is measured."""
SHORT_SHARE = 0.25
"""A call is short whose work takes at most this share of the longest wait."""
FULL_SHARE = 0.75
"""The queue is full at this share of the longest wait. The rest is for the call's own steps, and for what comes
otherwise than estimated: a queue that never empties keeps a device as busy, however short it is."""
SIZES = 64
"""Powers of two by which the work of calls is told apart."""


class Speed:
    """Tokens a second while there is more to do than is done, as an average that forgets.

    Only windows count in which there was never less waiting than was answered: a single call, or a few that wait for
    one another, say nothing about what the server can do. ``clock`` is ``time.monotonic`` outside tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tokens = 0.0
        self._seconds = 0.0
        self.start()

    def start(self) -> None:
        """Begins a new window: after a pause, which says nothing about speed."""
        self._since_s = self._clock()
        self._window_tokens = 0
        self._min_waiting: int | None = None

    def done(self, num_tokens: int, waiting: int) -> None:
        """Counts tokens that were answered; ``waiting`` are left."""
        self._window_tokens += num_tokens
        self._min_waiting = waiting if self._min_waiting is None else min(self._min_waiting, waiting)
        elapsed = self._clock() - self._since_s
        if elapsed < WINDOW_S:
            return
        if self._min_waiting >= self._window_tokens:
            keep = 0.5 ** (elapsed / SPEED_MEMORY_S)
            self._tokens = self._tokens * keep + self._window_tokens
            self._seconds = self._seconds * keep + elapsed
        self.start()

    @property
    def tokens_per_s(self) -> float | None:
        """The rate of the last seconds; None while nothing is known."""
        return self._tokens / self._seconds if self._tokens > 0 else None

    def seconds_for(self, num_tokens: int) -> float:
        """How long that many tokens will take; one second while nothing is known."""
        return num_tokens / speed if (speed := self.tokens_per_s) else 1.0


class ModelQueue:
    """The work that is queued for one model, by the size of the calls, and the speed at which it is answered."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.speed = Speed(clock)
        self.work = 0
        self._work_of_size = [0] * SIZES
        """By the bits of the work that a call has left."""

    def change(self, before: int, after: int) -> None:
        """A call that had ``before`` tokens of work left has ``after`` now."""
        if not self.work:
            self.speed.start()
        self.work += after - before
        self._work_of_size[before.bit_length()] -= before
        self._work_of_size[after.bit_length()] += after

    def short_bits(self, max_wait_s: float) -> int:
        """Calls whose work has at most so many bits are short, where ``max_wait_s`` is the longest wait; 0 while the
        speed is not known."""
        return int(SHORT_SHARE * max_wait_s * (self.speed.tokens_per_s or 0.0)).bit_length()

    def wait_s(self, work: int, max_wait_s: float) -> float:
        """Seconds that a call of so much work would wait; 0 while the speed is not known.

        ``max_wait_s``: what it may wait, which says what is short beside it.
        """
        speed = self.speed.tokens_per_s
        if speed is None:
            return 0.0
        short = self.short_bits(max_wait_s)
        if work.bit_length() > short:
            return self.work / speed
        return min(self.work, 2 * sum(self._work_of_size[: short + 1])) / speed
