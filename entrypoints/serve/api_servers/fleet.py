"""Main's side of all fronts: they are started, watched, replaced when they die, and stopped together.

A front that is gone is followed by another within ``--max-worker-restarts``, counted like losses of workers but by
themselves; one that says nothing for ``--step-timeout-s`` is killed first. Its connections are lost with it, and only
its: what they had in the queue or on a device is given up. Main never waits for a front, so none can hold up another.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Coroutine, Sequence
from functools import partial
from itertools import chain
from typing import Any

from engine.config import EngineConfig, ServerConfig
from engine.entrypoints.serve.admission import Admission
from engine.entrypoints.serve.api_servers.desk import Desk
from engine.entrypoints.serve.api_servers.handle import SILENCE_S, FrontHandle
from engine.entrypoints.serve.api_servers.listener import AWAY, ConnectionCounts
from engine.entrypoints.serve.api_servers.messages import (
    Attach,
    Attached,
    Connected,
    Count,
    Enter,
    FromFront,
    FrontFailed,
    FrontModel,
    FrontSetup,
    Leave,
    MetricsPage,
    MetricsRequest,
    Run,
    StateChange,
    Status,
    StatusRequest,
    Stop,
)
from engine.entrypoints.serve.api_servers.totals import render, summed
from engine.entrypoints.serve.http import HARD_STOP_S, stop_timeout_s
from engine.entrypoints.serve.loaded_engine import LoadedEngine
from engine.entrypoints.serve.service import RerankService, State
from engine.errors import EngineError, StartupError
from engine.ipc.restart_budget import RestartBudget
from engine.logs import current_format
from engine.messages import WireError

logger = logging.getLogger(__name__)
WATCH_S = 0.1
LAST_WORDS_S = 0.3
"""From a second signal until the fronts are killed: errors may still go out."""


class Fronts:
    """The HTTP side of a server with several API processes (``server.py`` has the one for a single process)."""

    def __init__(
        self,
        service: RerankService,
        admission: Admission,
        engine_configs: Sequence[EngineConfig],
        listener: socket.socket,
    ) -> None:
        """``service`` has no routes here: it is the server's state, and the models."""
        self._service = service
        self._admission = admission
        self._config: ServerConfig = service.config
        self._engine_configs = engine_configs
        self._listener = listener
        self._connections = ConnectionCounts.create(self._config.api_server_count)
        self._fronts: dict[int, FrontHandle] = {}
        self._desks: dict[int, Desk] = {}
        self._models: list[FrontModel] = []
        self._all_attached = asyncio.Event()
        self._restarts = RestartBudget(engine_configs[0].device.max_worker_restarts)
        self._past: list[Count] = []
        """What fronts that are gone had counted."""
        self._told: tuple[State, bool] = ("starting", False)
        self._stopping = False
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._hurry = asyncio.Event()
        self._pages: set[asyncio.Task[None]] = set()
        service.metrics.api_servers.set_function(lambda: sum(front.attached for front in self._fronts.values()))

    async def serve(self) -> None:
        """Until ``stop``; raises ``StartupError`` when fronts cannot be kept running."""
        for index in range(self._config.api_server_count):
            self._start(index)
        pids = ", ".join(str(front.pid) for front in self._fronts.values())
        logger.info("%d API processes share the port (pids %s)", len(self._fronts), pids)
        watching = asyncio.create_task(self._watch())
        try:
            await self._over
        finally:
            self._stopping = True
            watching.cancel()
            await self._end()

    async def attach(self, engines: Sequence[LoadedEngine]) -> None:
        """The models are loaded; returns once every front can take calls for them."""
        pairs = zip(engines, self._engine_configs, strict=True)
        self._models = [FrontModel(engine.spec, config.model, engine.client.info) for engine, config in pairs]
        for front in self._fronts.values():
            front.send(Attach(self._models))
        await self._all_attached.wait()

    def tell_state(self) -> None:
        now = (self._service.state, self._service.cut_off.is_set())
        if now != self._told:
            self._told = now
            for front in self._fronts.values():
                front.send(StateChange(*now))

    def stop(self) -> None:
        if not self._over.done():
            self._over.set_result(None)

    def stop_now(self) -> None:
        self.tell_state()
        self._hurry.set()

    def _start(self, index: int) -> None:
        self._fronts[index] = front = FrontHandle(partial(self._setup, index), self._on_message, self._on_gone)
        self._desks[index] = Desk(self._service, self._admission, front.send)

    def _setup(self, index: int, folder: str) -> FrontSetup:
        return FrontSetup(
            server=self._config,
            index=index,
            listener_fd=self._listener.fileno(),
            counts_fd=self._connections.descriptor,
            folder=folder,
            started_at=self._service.started_at,
            is_late=bool(self._models),
            log_level=logging.getLevelName(logging.getLogger().getEffectiveLevel()),
            log_format=current_format(),
        )

    # -- what fronts say ----------------------------------------------------------------------------------------------

    def _on_message(self, front: FrontHandle, message: FromFront) -> None:
        desk = self._desks[front.index]
        match message:
            case Enter():
                if desk.enter(message):
                    self._service.metrics.api_server_calls.labels(str(front.index)).inc()
            case Run():
                desk.run(message)
            case Leave():
                desk.leave(message)
            case StatusRequest(number):
                front.send(self._status(number))
            case MetricsRequest(number):
                self._begin(self._send_metrics(front, number))
            case Connected():
                front.send(StateChange(*self._told))
                if self._models:
                    front.send(Attach(self._models))
            case Attached():
                front.attached = True
                if all(other.attached for other in self._fronts.values()):
                    self._all_attached.set()
            case FrontFailed(error):
                self._on_failed(front, error)

    def _status(self, number: int) -> Status:
        try:
            self._service.check_ready()
        except EngineError as error:
            return Status(number, self._admission.num_calls, WireError.of(error))
        return Status(number, self._admission.num_calls, None)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._pages.add(task)
        task.add_done_callback(self._pages.discard)

    async def _send_metrics(self, front: FrontHandle, number: int) -> None:
        fronts = list(self._fronts.values())
        await asyncio.gather(*(one.refresh() for one in fronts))
        counts = chain(self._past, *(one.counts for one in self._fronts.values()))
        front.send(MetricsPage(number, render(self._service.metrics.registry, counts)))

    def _on_failed(self, front: FrontHandle, error: WireError) -> None:
        failure = error.rebuilt()
        if self._all_attached.is_set():  # others work: its end is treated like any other
            logger.error("API process %d: %s", front.index, failure)
            return
        self._give_up(failure if isinstance(failure, StartupError) else StartupError(str(failure)))

    # -- their lives --------------------------------------------------------------------------------------------------

    def _on_gone(self, front: FrontHandle) -> None:
        self._desks[front.index].close()
        self._connections[front.index] = AWAY
        self._past = summed(chain(self._past, front.counts))
        front.counts = []
        if self._stopping or self._over.done():
            return
        how = f"API process {front.index} (pid {front.pid}) ended with exit code {front.child.exit_code}"
        if not self._restarts.spend():
            self._give_up(StartupError(f"{how}, too often to start it again."))
            return
        logger.error("%s; starting another one", how)
        self._service.metrics.api_server_restarts.inc()
        self._start(front.index)

    def _give_up(self, error: StartupError) -> None:
        if not self._over.done():
            self._over.set_exception(error)

    async def _watch(self) -> None:
        """Tells fronts what the server's state is, and ends those that hang."""
        timeout_s = self._engine_configs[0].device.step_timeout_s
        while True:
            await asyncio.sleep(WATCH_S)
            self.tell_state()
            for front in self._fronts.values():
                front.silent_s += WATCH_S
                if front.silent_s > timeout_s and not front.gone.is_set():
                    logger.error("API process %d has been silent for %.0f s: killing it", front.index, front.silent_s)
                    front.silent_s = 0.0
                    front.kill()

    async def _end(self) -> None:
        """Answers on their way are written; then, or when there is no more time, the fronts are gone."""
        self._listener.close()  # else it would take connections that nobody serves
        self.tell_state()
        for front in self._fronts.values():
            if front.connected and front.silent_s < SILENCE_S:
                front.send(Stop())
            elif not front.gone.is_set():
                front.kill()
        ending = asyncio.gather(*(front.gone.wait() for front in self._fronts.values()))
        hurry = asyncio.create_task(self._hurry.wait())
        timeout_s = stop_timeout_s(self._config) + HARD_STOP_S
        await asyncio.wait((ending, hurry), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if not ending.done():
            await asyncio.wait((ending,), timeout=LAST_WORDS_S)
        for front in self._fronts.values():
            if not front.gone.is_set():
                front.kill()
        await ending
        hurry.cancel()
