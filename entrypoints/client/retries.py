"""When a call is tried again, and how long is waited before: as the server says, else longer each time."""

from __future__ import annotations

import random
from dataclasses import dataclass

from engine.entrypoints.client.errors import RequestFailedError

RETRIED_STATUSES = frozenset({408, 429, 502, 503, 504})
"""HTTP statuses of calls that may be answered later: nothing of them was done, and a rerank call changes nothing."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 30.0


@dataclass(frozen=True, slots=True)
class Retries:
    """Settings of retries. ``attempts``: tries of a call in all. ``longest_wait_s``: no longer wait is made."""

    attempts: int = 4
    longest_wait_s: float = LONGEST_WAIT_S

    def wait_s(self, attempt: int, error: Exception) -> float | None:
        """Seconds before the next attempt after the ``attempt``-th (from 1) failed; None: it is not tried again."""
        if attempt >= self.attempts:
            return None
        if isinstance(error, RequestFailedError):
            if error.status not in RETRIED_STATUSES:
                return None
            if error.retry_after_s is not None:  # the server knows its queue; callers still must not come all at once
                wait_s = error.retry_after_s * random.uniform(1.0, 1.1)
                return wait_s if wait_s <= self.longest_wait_s else None
        return min(self.longest_wait_s, FIRST_WAIT_S * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.0)
