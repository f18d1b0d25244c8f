"""Calls that wait for answers in the server, and which of them may have ended the core that had them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Mapping

import numpy as np

from engine.errors import EngineError, StepFailedError
from engine.messages import EngineCoreOutput, EngineCoreRequest


class OpenCall:
    """A call that waits for answers, and what it needs to be replayed."""

    __slots__ = ("answered", "num_lost_cores", "queue", "request")

    def __init__(self, request: EngineCoreRequest) -> None:
        self.request = request
        self.queue: asyncio.Queue[EngineCoreOutput | EngineError] = asyncio.Queue()
        self.answered = np.zeros(request.num_pairs, bool)
        self.num_lost_cores = 0
        """Cores that ended while they had this call."""

    def fresh(self, output: EngineCoreOutput) -> EngineCoreOutput:
        """An answer without the pairs that were answered before; from now on these count as answered too."""
        return output.without(self.answered)


def suspected_calls(calls: Mapping[str, OpenCall], suspected: Collection[str], exit_code: int | None) -> deque[str]:
    """The calls that may have ended a core, in the order in which the next core gets them, one at a time.

    ``suspected``: those of the core before it, of which the lost core had the first only. One that ends another core in
    this way is failed and not tried again: after two cores that ended by themselves, three that a signal ended
    (``exit_code`` below 0), which may have come from outside.
    """
    alone = next(iter(suspected), None)
    not_sent = set(suspected) - {alone}
    most = 3 if (exit_code or 0) < 0 else 2
    following: deque[str] = deque()
    for call_id, call in calls.items():
        call.num_lost_cores += call_id not in not_sent
        if call_id == alone and call.num_lost_cores >= most:
            times = f"{call.num_lost_cores} times"
            call.queue.put_nowait(StepFailedError(f"the engine core ended {times} while it had this call"))
        else:
            following.append(call_id)
    return following
