"""How long steps take, so that each is planned shortly before the device needs it, and not sooner.

A step that is planned while another one runs holds what waits at that moment: whoever comes later waits for both. So
the next step is planned when the running one has ``LEAD_S`` left, by the fastest of the last steps. Where steps are
shorter than that, or nothing is known yet, it is planned at once.
"""

from __future__ import annotations

from collections import deque

LEAD_S = 0.02
"""Planning, sending and packing a step take less than this."""
REMEMBERED = 8
"""Steps by which the next ones are judged."""


class StepPace:
    """The speed of the last steps."""

    def __init__(self) -> None:
        self._seconds_per_token: deque[float] = deque(maxlen=REMEMBERED)

    def learn(self, num_tokens: int, seconds: float) -> None:
        """Takes in a step that succeeded, and the seconds that its device was busy with it."""
        self._seconds_per_token.append(seconds / num_tokens)

    def too_early_s(self, num_tokens: int, age_s: float) -> float:
        """Seconds until another step should be planned, while steps of so many tokens in all have been running for
        ``age_s``; 0 where it is time, or nothing is known."""
        return max(0.0, min(self._seconds_per_token, default=0.0) * num_tokens - age_s - LEAD_S)
