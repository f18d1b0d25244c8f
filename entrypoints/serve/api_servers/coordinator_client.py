"""The API server's connection to the coordinator: what is said about its calls, and answers to its questions."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from itertools import count
from typing import Any

from engine.entrypoints.serve.api_servers.messages import (
    AbortCall,
    Admitted,
    CallFailed,
    CallOutput,
    Connected,
    FromApiServer,
    MetricsPage,
    MetricsRequest,
    Operate,
    Operated,
    Status,
    StatusRequest,
    Stop,
    ToApiServer,
)
from engine.entrypoints.serve.operations import ServerOperation
from engine.errors import EngineDeadError, EngineError
from engine.ipc.channel import Channel
from engine.messages import EngineCoreOutput

ASK_TIMEOUT_S = 2.0
"""The coordinator only passes messages on: one that does not answer for so long hangs."""
POLL_S = 0.5

CallEvent = Admitted | EngineCoreOutput | EngineError


class _OpenCall:
    """A call of this API server that the coordinator knows of."""

    __slots__ = ("events", "is_over")

    def __init__(self) -> None:
        self.events: asyncio.Queue[CallEvent] = asyncio.Queue()
        self.is_over = False
        """The coordinator has sent its last output, or its failure."""

    def tell(self, event: CallEvent) -> None:
        self.is_over = isinstance(event, EngineError) or (
            isinstance(event, EngineCoreOutput) and event.stats is not None
        )
        self.events.put_nowait(event)


class CoordinatorClient:
    """The connection to the coordinator. A thread reads; all else runs on the event loop."""

    def __init__(self, channel: Channel[ToApiServer], on_message: Callable[[ToApiServer], None]) -> None:
        """``on_message`` gets what is said to the process itself."""
        self._channel = channel
        self._on_message = on_message
        self._loop = asyncio.get_running_loop()
        self._calls: dict[str, _OpenCall] = {}
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._numbers = count(1)
        self._closed = False
        self._reader = threading.Thread(target=self._read, name="from-coordinator", daemon=True)

    def start(self) -> None:
        self._reader.start()
        self.send(Connected())

    def close(self) -> None:
        """A socket is closed by nobody while another thread reads from it."""
        self._closed = True
        if self._reader.is_alive():
            self._reader.join()

    def send(self, message: FromApiServer) -> None:
        self._channel.send(message)

    def _read(self) -> None:
        # When the coordinator is gone, this process ends by its lifeline.
        while not self._closed:
            message = self._channel.recv(POLL_S)
            if message is not None:
                self._loop.call_soon_threadsafe(self._dispatch, message)
            if isinstance(message, Stop):
                return  # the coordinator has nothing to say after that

    def _dispatch(self, message: ToApiServer) -> None:
        match message:
            case CallOutput(output):
                self._tell(output.call_id, output)
            case Admitted(call_id):
                self._tell(call_id, message)
            case CallFailed(call_id, error):
                self._tell(call_id, error.rebuilt())
            case Status(number) | MetricsPage(number) | Operated(number):
                asked = self._asked.get(number)
                if asked is not None and not asked.done():
                    asked.set_result(message)
            case _:
                self._on_message(message)

    def _tell(self, call_id: str, event: CallEvent) -> None:
        call = self._calls.get(call_id)
        if call is not None:  # it may have left meanwhile
            call.tell(event)

    def open(self, call_id: str) -> asyncio.Queue[CallEvent]:
        """The queue of what the coordinator will say about this call."""
        self._calls[call_id] = call = _OpenCall()
        return call.events

    def events(self, call_id: str) -> asyncio.Queue[CallEvent]:
        """The queue of an open call."""
        return self._calls[call_id].events

    def end(self, call_id: str) -> None:
        """The call is over here; the coordinator is told unless it is over there as well."""
        if not self._calls.pop(call_id).is_over:
            self.send(AbortCall(call_id))

    async def status(self) -> Status:
        """The state of the whole server. Raises ``EngineDeadError`` when the coordinator does not answer."""
        answer: Status = await self._ask(StatusRequest)
        return answer

    async def metrics(self) -> bytes:
        """Prometheus text of the whole server. Raises ``EngineDeadError`` when the coordinator does not answer."""
        page: MetricsPage = await self._ask(MetricsRequest)
        return page.text

    async def operate(self, operation: ServerOperation) -> None:
        """Has the coordinator change the server. Raises the ``EngineError`` that stopped it."""
        answer: Operated = await self._ask(lambda number: Operate(number, operation), None)
        if answer.error is not None:
            raise answer.error.rebuilt()

    async def _ask(self, question: Callable[[int], FromApiServer], timeout_s: float | None = ASK_TIMEOUT_S) -> Any:
        number = next(self._numbers)
        self._asked[number] = answer = self._loop.create_future()
        try:
            self.send(question(number))
            return await asyncio.wait_for(answer, timeout_s)
        except TimeoutError as error:
            raise EngineDeadError("The coordinator does not answer.", retry_after_s=5) from error
        finally:
            del self._asked[number]
