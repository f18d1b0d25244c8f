"""Calls that wait for answers in the server, and which of them may have ended the core that had them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator

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


class OpenCalls:
    """The calls that wait for answers of one core, in the order in which they came.

    Calls that a lost core had are suspects: the next core gets them one at a time, so that one that ends a core is
    found and costs nobody else an answer.
    """

    def __init__(self) -> None:
        self._calls: dict[str, OpenCall] = {}
        self._suspected: deque[str] = deque()
        """The core has the first of them now, and not yet the others."""
        self.idle = asyncio.Event()
        """Set while there are none."""
        self.idle.set()

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, request: EngineCoreRequest) -> OpenCall:
        """Adds a call that is about to be sent."""
        self._calls[request.call_id] = call = OpenCall(request)
        self.idle.clear()
        return call

    def remove(self, call_id: str) -> EngineCoreRequest | None:
        """Forgets a call that is over; returns the suspect whose turn it is now, if it waited for this one."""
        del self._calls[call_id]
        if not self._calls:
            self.idle.set()
        if call_id not in self._suspected:
            return None
        was_first = self._suspected[0] == call_id
        self._suspected.remove(call_id)
        return self._calls[self._suspected[0]].request if was_first and self._suspected else None

    def deliver(self, output: EngineCoreOutput) -> None:
        """Passes an answer on, without the pairs that were answered before; to nobody if the call is over."""
        call = self._calls.get(output.call_id)
        if call is not None:
            call.queue.put_nowait(output.without(call.answered))

    def fail_all(self, error: EngineError) -> None:
        """Ends every call with this error."""
        for call in self._calls.values():
            call.queue.put_nowait(error)

    def core_lost(self, exit_code: int | None) -> None:
        """The core was lost: what it had are suspects from now on.

        Of suspects of the core before, it had the first only. One that ends another core in this way is failed and not
        tried again: after two cores that ended by themselves, three that a signal ended (``exit_code`` below 0), which
        may have come from outside.
        """
        alone = next(iter(self._suspected), None)
        not_sent = set(self._suspected) - {alone}
        most = 3 if (exit_code or 0) < 0 else 2
        self._suspected = deque()
        for call_id, call in self._calls.items():
            call.num_lost_cores += call_id not in not_sent
            if call_id == alone and call.num_lost_cores >= most:
                times = f"{call.num_lost_cores} times"
                call.queue.put_nowait(StepFailedError(f"the engine core ended {times} while it had this call"))
            else:
                self._suspected.append(call_id)

    def first_of_new_core(self) -> Iterator[EngineCoreRequest]:
        """Yields what a new core is sent at first: calls that no core had, and then one suspect."""
        suspected = set(self._suspected)
        yield from (call.request for call_id, call in self._calls.items() if call_id not in suspected)
        if self._suspected:
            yield self._calls[self._suspected[0]].request
