"""One front's calls, as main sees them: each has a place in the queue that all fronts share, and runs on the cores.

What a front says about a call is done in the order in which it says it. A call is over for both sides with its last
answer, or its failure; a front that gives one up earlier says so. When the front is gone, so are its calls.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing

from engine.entrypoints.serve.admission import Admission, Ticket
from engine.entrypoints.serve.api_servers.messages import Answer, CallFailed, Enter, Entered, Leave, Run, ToFront
from engine.entrypoints.serve.service import RerankService
from engine.errors import EngineError
from engine.messages import EngineCoreRequest, WireError

logger = logging.getLogger(__name__)


class _Call:
    __slots__ = ("ticket", "work")

    def __init__(self, ticket: Ticket) -> None:
        self.ticket = ticket
        self.work: asyncio.Task[None] | None = None
        """None while the front still tokenises."""


class Desk:
    def __init__(self, service: RerankService, admission: Admission, send: Callable[[ToFront], None]) -> None:
        self._service = service
        self._admission = admission
        self._send = send
        self._calls: dict[str, _Call] = {}

    def enter(self, message: Enter) -> bool:
        """Whether the call came in."""
        try:
            self._service.check_accepting()
            ticket = self._admission.admit(message.num_pairs, message.num_tokens, message.caller)
        except EngineError as error:
            self._send(CallFailed(message.call_id, WireError.of(error)))
            return False
        self._calls[message.call_id] = _Call(ticket)
        self._send(Entered(message.call_id, ticket.backlog_tokens))
        return True

    def run(self, message: Run) -> None:
        call = self._calls[message.request.call_id]
        call.work = asyncio.create_task(self._relay(message.model, message.request, call.ticket))

    async def _relay(self, model: int, request: EngineCoreRequest, ticket: Ticket) -> None:
        ticket.settle(request.num_pairs, len(request.token_ids))
        client = list(self._service.models)[model].client
        try:
            async with aclosing(client.run(request)) as outputs:
                async for output in outputs:
                    ticket.answered(len(output.indices) + len(output.errors))
                    self._send(Answer(output))
        except EngineError as error:
            self._send(CallFailed(request.call_id, WireError.of(error)))
        except Exception:
            # Whatever escapes is our bug; the call must hear of its end all the same.
            logger.exception("call %s failed in the main process", request.call_id)
            hidden = EngineError(f"Internal error; the log of the server has it under call {request.call_id}.")
            self._send(CallFailed(request.call_id, WireError.of(hidden)))
        if self._calls.pop(request.call_id, None) is not None:
            ticket.leave()

    def leave(self, message: Leave) -> None:
        call = self._calls.pop(message.call_id, None)
        if call is not None:  # else its last answer was on its way already
            _end(call)

    def close(self) -> None:
        """The front is gone."""
        for call in self._calls.values():
            _end(call)
        self._calls.clear()


def _end(call: _Call) -> None:
    """The call has left the core before its place is given away."""
    if call.work is None or call.work.done():
        call.ticket.leave()
        return
    call.work.cancel()
    call.work.add_done_callback(lambda _: call.ticket.leave())
