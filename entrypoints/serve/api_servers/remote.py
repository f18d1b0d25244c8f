"""The parts of an API server's service that ask the coordinator.

The service of an API server is the one of a server with a single process. Only where that would use its own core or its
own admission, it uses ``RemoteCore`` and ``RemoteAdmission``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Self

from fastapi import Request
from starlette.responses import Response

from engine.entrypoints.serve.admission import CallSize
from engine.entrypoints.serve.api_servers.coordinator_client import CoordinatorClient
from engine.entrypoints.serve.api_servers.messages import AdmitRequest, Admitted, ResetPrefixCache, Run
from engine.entrypoints.serve.errors import json_response
from engine.entrypoints.serve.metrics import CONTENT_TYPE
from engine.entrypoints.serve.operations import ServerOperation
from engine.entrypoints.serve.service import RerankService
from engine.entrypoints.serve.status import StatusRoutes
from engine.errors import EngineError
from engine.messages import EngineCoreOutput, EngineCoreRequest, Operation, SchedulerStats
from engine.step import WorkerInfo


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
