"""A front's side: main as an engine, as a door, and as whoever knows how the server is.

The service of a front is the one of a server with a single API process; only where that would ask its own core or its
own admission, it asks main through these.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from itertools import count
from typing import Any, Self

from fastapi import Request
from starlette.responses import Response

from engine.entrypoints.serve.api_servers.messages import (
    Answer,
    CallFailed,
    Connected,
    Enter,
    Entered,
    FromFront,
    Leave,
    MetricsPage,
    MetricsRequest,
    Run,
    Status,
    StatusRequest,
    Stop,
    ToFront,
)
from engine.entrypoints.serve.errors import json_response
from engine.entrypoints.serve.metrics import CONTENT_TYPE
from engine.entrypoints.serve.service import RerankService
from engine.entrypoints.serve.status import StatusRoutes
from engine.errors import EngineDeadError, EngineError
from engine.ipc.channel import Channel
from engine.messages import EngineCoreOutput, EngineCoreRequest, SchedulerStats
from engine.step import WorkerInfo

ASK_TIMEOUT_S = 2.0
"""Main only passes messages on: when it says nothing for so long, it hangs."""
POLL_S = 0.5

CallEvent = Entered | EngineCoreOutput | EngineError


class _OpenCall:
    """A call of this front."""

    __slots__ = ("events", "is_over")

    def __init__(self) -> None:
        self.events: asyncio.Queue[CallEvent] = asyncio.Queue()
        self.is_over = False
        """Main has done with it."""

    def tell(self, event: CallEvent) -> None:
        self.is_over = isinstance(event, EngineError) or (
            isinstance(event, EngineCoreOutput) and event.stats is not None
        )
        self.events.put_nowait(event)


class Relay:
    """The connection to main. A thread reads; all else belongs to the loop."""

    def __init__(self, channel: Channel[ToFront], on_message: Callable[[ToFront], None]) -> None:
        """``on_message`` gets what is said to the process itself."""
        self._channel = channel
        self._on_message = on_message
        self._loop = asyncio.get_running_loop()
        self._calls: dict[str, _OpenCall] = {}
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._numbers = count(1)
        self._closed = False
        self._reader = threading.Thread(target=self._read, name="from-main", daemon=True)

    def start(self) -> None:
        self._reader.start()
        self.send(Connected())

    def close(self) -> None:
        """A socket is closed by nobody while another thread reads from it."""
        self._closed = True
        if self._reader.is_alive():
            self._reader.join()

    def send(self, message: FromFront) -> None:
        self._channel.send(message)

    def _read(self) -> None:
        # When main is gone, this process ends by its life line.
        while not self._closed:
            message = self._channel.recv(POLL_S)
            if message is not None:
                self._loop.call_soon_threadsafe(self._dispatch, message)
            if isinstance(message, Stop):
                return  # main has nothing to say after that

    def _dispatch(self, message: ToFront) -> None:
        match message:
            case Answer(output):
                self._tell(output.call_id, output)
            case Entered(call_id):
                self._tell(call_id, message)
            case CallFailed(call_id, error):
                self._tell(call_id, error.rebuilt())
            case Status(number) | MetricsPage(number):
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
        self._calls[call_id] = call = _OpenCall()
        return call.events

    def events(self, call_id: str) -> asyncio.Queue[CallEvent]:
        return self._calls[call_id].events

    def leave(self, call_id: str) -> None:
        if not self._calls.pop(call_id).is_over:
            self.send(Leave(call_id))

    async def status(self) -> Status:
        answer: Status = await self._ask(StatusRequest)
        return answer

    async def metrics(self) -> bytes:
        page: MetricsPage = await self._ask(MetricsRequest)
        return page.text

    async def _ask(self, question: Callable[[int], FromFront]) -> Any:
        number = next(self._numbers)
        self._asked[number] = answer = self._loop.create_future()
        try:
            self.send(question(number))
            return await asyncio.wait_for(answer, ASK_TIMEOUT_S)
        except TimeoutError as error:
            raise EngineDeadError("The main process does not answer.", retry_after_s=5) from error
        finally:
            del self._asked[number]


class RelayedDoor:
    """``Door``: main decides. What is counted here is this front's own part."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self.num_calls = 0
        self.num_pairs = 0
        self.idle = asyncio.Event()
        self.idle.set()

    async def enter(self, call_id: str, num_pairs: int, num_tokens: int, caller: str) -> RelayedPlace:
        events = self._relay.open(call_id)
        try:
            self._relay.send(Enter(call_id, num_pairs, num_tokens, caller))
            answer = await events.get()
            if isinstance(answer, EngineError):
                raise answer
            assert isinstance(answer, Entered)
        except BaseException:
            # The client may leave before the answer is there; main then takes the place back.
            self._relay.leave(call_id)
            raise
        return RelayedPlace(self, call_id, answer.backlog_tokens)

    def come_in(self) -> None:
        self.num_calls += 1
        self.idle.clear()

    def leave(self, call_id: str) -> None:
        self._relay.leave(call_id)
        self.num_calls -= 1
        if not self.num_calls:
            self.idle.set()


class RelayedPlace:
    """The place is main's, which also sees the call's pairs and their answers pass: nothing is counted here."""

    def __init__(self, door: RelayedDoor, call_id: str, backlog_tokens: int) -> None:
        self._door = door
        self._call_id = call_id
        self.backlog_tokens = backlog_tokens

    def settle(self, num_pairs: int, num_tokens: int) -> None:
        """Main settles when the pairs come by (``Run``)."""

    def answered(self, num_pairs: int) -> None:
        """Main has counted these already."""

    def __enter__(self) -> Self:
        self._door.come_in()
        return self

    def __exit__(self, *raised: object) -> None:
        self._door.leave(self._call_id)


class RelayedClient:
    """One model's cores, behind main."""

    healthy = True
    """Main knows; ``RelayedStatus`` asks it."""

    def __init__(self, relay: Relay, position: int, info: WorkerInfo) -> None:
        self._relay = relay
        self._position = position
        self.info = info
        self.stats = SchedulerStats()

    async def run(self, request: EngineCoreRequest) -> AsyncGenerator[EngineCoreOutput, None]:
        """A call's answers as they come. What is left when it is closed is given up when the call leaves its place."""
        events = self._relay.events(request.call_id)
        self._relay.send(Run(self._position, request))
        finished = False
        while not finished:
            output = await events.get()
            if isinstance(output, EngineError):
                raise output
            assert isinstance(output, EngineCoreOutput)
            finished = output.stats is not None
            yield output

    async def shutdown(self, timeout_s: float) -> None:
        """The cores are main's to end."""


class RelayedStatus(StatusRoutes):
    """The same answers from every front: those that concern the server as a whole are main's."""

    def __init__(self, service: RerankService, relay: Relay) -> None:
        super().__init__(service)
        self._relay = relay

    async def ready(self, request: Request) -> Response:
        status = await self._relay.status()
        if status.error is not None:
            raise status.error.rebuilt()
        return await super().ready(request)

    async def load(self, request: Request) -> Response:
        return json_response({"server_load": (await self._relay.status()).num_calls})

    async def metrics(self, request: Request) -> Response:
        return Response(await self._relay.metrics(), media_type=CONTENT_TYPE)
