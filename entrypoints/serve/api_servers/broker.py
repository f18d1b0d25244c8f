"""The calls of one API server, on the coordinator's side: each holds a permit of the shared queue and runs on a core.

The messages of an API server about a call are handled in the order in which they were sent. A call is over for both
sides with its last output or its failure; an API server that gives one up earlier says so (``AbortCall``). When the API
server has died, its calls are aborted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing

from engine.entrypoints.serve.admission import Admission, AdmissionPermit, known_size
from engine.entrypoints.serve.api_servers.messages import (
    AbortCall,
    AdmitRequest,
    Admitted,
    CallFailed,
    CallOutput,
    Run,
    ToApiServer,
)
from engine.entrypoints.serve.service import RerankService
from engine.errors import EngineError
from engine.messages import EngineCoreRequest, WireError

logger = logging.getLogger(__name__)


class _Call:
    __slots__ = ("permit", "work")

    def __init__(self, permit: AdmissionPermit) -> None:
        self.permit = permit
        self.work: asyncio.Task[None] | None = None
        """The task that runs the call on a core; None while the API server still tokenises."""


class CallBroker:
    """Admits the calls of one API server and runs them on the cores."""

    def __init__(self, service: RerankService, admission: Admission, send: Callable[[ToApiServer], None]) -> None:
        self._service = service
        self._admission = admission
        self._send = send
        self._calls: dict[str, _Call] = {}

    def admit(self, message: AdmitRequest) -> bool:
        """Sends ``Admitted`` or ``CallFailed``; returns whether the call was admitted."""
        try:
            self._service.check_accepting()
            permit = self._admission.admit(
                message.size, message.caller, model=message.model, client_timeout_s=message.client_timeout_s
            )
        except EngineError as error:
            self._send(CallFailed(message.call_id, WireError.of(error)))
            return False
        self._calls[message.call_id] = _Call(permit)
        self._send(Admitted(message.call_id, permit.backlog_tokens))
        return True

    def run(self, message: Run) -> None:
        """Starts an admitted call on the core of its model; each output is sent as a ``CallOutput``."""
        call = self._calls[message.request.call_id]
        call.work = asyncio.create_task(self._relay(message.model, message.request, call.permit))

    async def _relay(self, model: int, request: EngineCoreRequest, permit: AdmissionPermit) -> None:
        engine = list(self._service.models)[model]
        permit.settle(known_size(request, shares=engine.spec.causal))
        try:
            async with aclosing(engine.client.run(request)) as outputs:
                async for output in outputs:
                    permit.answered(len(output.indices) + len(output.errors))
                    self._send(CallOutput(output))
        except EngineError as error:
            self._send(CallFailed(request.call_id, WireError.of(error)))
        except Exception:
            # Whatever escapes is our bug; the call must hear of its end all the same.
            logger.exception("call %s failed in the coordinator", request.call_id)
            hidden = EngineError(f"Internal error; the log of the server has it under call {request.call_id}.")
            self._send(CallFailed(request.call_id, WireError.of(hidden)))
        if self._calls.pop(request.call_id, None) is not None:
            permit.release()

    def abort(self, message: AbortCall) -> None:
        """Takes a call out of the queue and off its core."""
        call = self._calls.pop(message.call_id, None)
        if call is not None:  # else its last answer was on its way already
            _end(call)

    def close(self) -> None:
        """The API server has died: aborts all of its calls."""
        for call in self._calls.values():
            _end(call)
        self._calls.clear()


def _end(call: _Call) -> None:
    """Releases the permit only once the call has left the core."""
    if call.work is None or call.work.done():
        call.permit.release()
        return
    call.work.cancel()
    call.work.add_done_callback(lambda _: call.permit.release())
