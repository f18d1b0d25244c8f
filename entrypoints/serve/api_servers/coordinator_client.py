"""The API server's connection to the coordinator, and the parts of the service that ask it.

The service of an API server is the one of a server with a single process. Only where that would use its own core or its
own admission, it uses ``RemoteCore`` and ``RemoteAdmission``, which ask the coordinator.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from itertools import count
from typing import Any, Self

from fastapi import Request
from starlette.responses import Response

from engine.entrypoints.serve.admission import CallSize
from engine.entrypoints.serve.api_servers.messages import (
    AbortCall,
    AdmitRequest,
    Admitted,
    CallFailed,
    CallOutput,
    Connected,
    FromApiServer,
    MetricsPage,
    MetricsRequest,
    Operate,
    Operated,
    ResetPrefixCache,
    Run,
    Status,
    StatusRequest,
    Stop,
    ToApiServer,
)
from engine.entrypoints.serve.errors import json_response
from engine.entrypoints.serve.metrics import CONTENT_TYPE
from engine.entrypoints.serve.operations import ServerOperation
from engine.entrypoints.serve.service import RerankService
from engine.entrypoints.serve.status import StatusRoutes
from engine.errors import EngineDeadError, EngineError
from engine.ipc.channel import Channel
from engine.messages import EngineCoreOutput, EngineCoreRequest, Operation, SchedulerStats
from engine.step import WorkerInfo

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


class RemoteAdmission:
    """``AdmissionControl`` by asking the coordinator. The counts here are this API server's own calls."""

    def __init__(self, coordinator: CoordinatorClient) -> None:
        self._coordinator = coordinator
        self.num_calls = 0
        self.num_pairs = 0
        self.wait_s = 0.0
        self.idle = asyncio.Event()
        self.idle.set()

    async def acquire(
        self, call_id: str, size: CallSize, caller: str, *, model: str, client_timeout_s: float | None
    ) -> RemotePermit:
        """Raises ``OverloadedError`` and whatever else the coordinator refuses the call with."""
        events = self._coordinator.open(call_id)
        try:
            self._coordinator.send(AdmitRequest(call_id, size, caller, model, client_timeout_s))
            answer = await events.get()
            if isinstance(answer, EngineError):
                raise answer
            assert isinstance(answer, Admitted)
        except BaseException:
            # The client may leave before the answer is there; the coordinator then takes the permit back.
            self._coordinator.end(call_id)
            raise
        return RemotePermit(self, call_id, answer.backlog_tokens)

    def begin(self) -> None:
        """Counts a call that was admitted."""
        self.num_calls += 1
        self.idle.clear()

    def end(self, call_id: str) -> None:
        """Counts a call that is over, and aborts what is left of it."""
        self._coordinator.end(call_id)
        self.num_calls -= 1
        if not self.num_calls:
            self.idle.set()


class RemotePermit:
    """A permit that the coordinator holds. It sees the call's pairs and outputs pass, so nothing is counted here."""

    def __init__(self, admission: RemoteAdmission, call_id: str, backlog_tokens: int) -> None:
        self._admission = admission
        self._call_id = call_id
        self.backlog_tokens = backlog_tokens

    def settle(self, size: CallSize) -> None:
        """Does nothing: the coordinator settles when the pairs pass (``Run``)."""

    def answered(self, num_pairs: int) -> None:
        """Does nothing: the coordinator has counted these already."""

    def __enter__(self) -> Self:
        self._admission.begin()
        return self

    def __exit__(self, *raised: object) -> None:
        self._admission.end(self._call_id)


class RemoteOperations:
    """``OperationsControl`` by asking the coordinator."""

    def __init__(self, coordinator: CoordinatorClient) -> None:
        self._coordinator = coordinator

    async def perform(self, operation: ServerOperation) -> None:
        """Raises the ``EngineError`` that stopped it."""
        await self._coordinator.operate(operation)


class RemoteCore:
    """The client of one model's core, which the coordinator owns."""

    healthy = True
    """Not known here: ``RemoteStatus`` asks the coordinator."""
    why_not_healthy = ""

    def __init__(self, coordinator: CoordinatorClient, position: int, info: WorkerInfo) -> None:
        self._coordinator = coordinator
        self._position = position
        self.info = info
        self.stats = SchedulerStats()

    async def run(self, request: EngineCoreRequest) -> AsyncGenerator[EngineCoreOutput, None]:
        """The outputs of a call as its steps finish. What is left when the generator is closed ends with the permit.

        Raises the ``EngineError`` that ended the call.
        """
        events = self._coordinator.events(request.call_id)
        self._coordinator.send(Run(self._position, request))
        finished = False
        while not finished:
            output = await events.get()
            if isinstance(output, EngineError):
                raise output
            assert isinstance(output, EngineCoreOutput)
            finished = output.stats is not None
            yield output

    async def operate(self, operation: Operation) -> None:
        """Raises ``EngineError``: ``RemoteOperations`` passes on what callers want, and the coordinator does it."""
        raise EngineError("What a core is to do is asked of the coordinator.")

    def reset_prefix_cache(self) -> None:
        """Has the coordinator drop what the core keeps between calls."""
        self._coordinator.send(ResetPrefixCache(self._position))

    async def shutdown(self, timeout_s: float) -> None:
        """Does nothing: the coordinator ends the cores."""


class RemoteStatus(StatusRoutes):
    """Status routes that answer for the server as a whole, by asking the coordinator."""

    def __init__(self, service: RerankService, coordinator: CoordinatorClient) -> None:
        super().__init__(service)
        self._coordinator = coordinator

    async def ready(self, request: Request) -> Response:
        status = await self._coordinator.status()
        if status.error is not None:
            raise status.error.rebuilt()
        return await super().ready(request)

    async def load(self, request: Request) -> Response:
        return json_response({"server_load": (await self._coordinator.status()).num_calls})

    async def metrics(self, request: Request) -> Response:
        return Response(await self._coordinator.metrics(), media_type=CONTENT_TYPE)
