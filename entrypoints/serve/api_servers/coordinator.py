"""The coordinator: starts the API servers, watches them, replaces those that die, and stops them together.

An API server that died is replaced within ``--max-worker-restarts``, counted like losses of workers but separately; one
that is silent for ``--step-timeout-s`` is killed first. Only its own connections are lost with it: their calls, queued
or on a device, are aborted. The coordinator never waits for an API server, so none can hold up another.
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
from engine.entrypoints.serve.api_servers.adapter_news import AdapterNews
from engine.entrypoints.serve.api_servers.broker import CallBroker
from engine.entrypoints.serve.api_servers.handle import HEARTBEAT_TIMEOUT_S, ApiServerHandle
from engine.entrypoints.serve.api_servers.listener import NOT_LISTENING, ConnectionCounts
from engine.entrypoints.serve.api_servers.messages import (
    AbortCall,
    AdaptersKnown,
    AdmitRequest,
    ApiServerFailed,
    ApiServerModel,
    ApiServerSetup,
    Attach,
    Attached,
    Connected,
    Count,
    FromApiServer,
    MetricsPage,
    MetricsRequest,
    Operate,
    Operated,
    ResetPrefixCache,
    Run,
    StateChange,
    Status,
    StatusRequest,
    Stop,
)
from engine.entrypoints.serve.api_servers.totals import render, summed
from engine.entrypoints.serve.http import HARD_STOP_S, stop_timeout_s
from engine.entrypoints.serve.loaded_engine import LoadedEngine
from engine.entrypoints.serve.operations import ServerOperations
from engine.entrypoints.serve.service import RerankService, State
from engine.errors import EngineError, StartupError
from engine.ipc.restart_budget import RestartBudget
from engine.logs import current_format
from engine.messages import WireError

logger = logging.getLogger(__name__)
WATCH_S = 0.1
LAST_ERRORS_S = 0.3
"""Time between a second signal and the kill of the API servers, in which errors may still go out."""


class Coordinator:
    """The HTTP side of a server with several API servers (``server.py`` has the one for a single process)."""

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
        self._servers: dict[int, ApiServerHandle] = {}
        self._brokers: dict[int, CallBroker] = {}
        self._models: list[ApiServerModel] = []
        self._all_attached = asyncio.Event()
        self._restarts = RestartBudget(engine_configs[0].device.max_worker_restarts)
        self._past: list[Count] = []
        """Counters of API servers that have ended."""
        self._sent_state: tuple[State, bool, bool] = ("starting", False, False)
        self._operations = ServerOperations(service, self._announce)
        self._adapter_news = AdapterNews()
        self._stopping = False
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stop_now = asyncio.Event()
        self._page_tasks: set[asyncio.Task[None]] = set()
        service.metrics.api_servers.set_function(lambda: sum(server.attached for server in self._servers.values()))

    async def serve(self) -> None:
        """Serves until ``stop``; raises ``StartupError`` when API servers cannot be kept running."""
        for index in range(self._config.api_server_count):
            self._start(index)
        pids = ", ".join(str(server.pid) for server in self._servers.values())
        logger.info("%d API servers share the port (pids %s)", len(self._servers), pids)
        watching = asyncio.create_task(self._watch())
        try:
            await self._over
        finally:
            self._stopping = True
            watching.cancel()
            await self._end()

    async def attach(self, engines: Sequence[LoadedEngine]) -> None:
        """The models are loaded; returns once every API server can take calls for them."""
        pairs = zip(engines, self._engine_configs, strict=True)
        self._models = [
            ApiServerModel(engine.spec, config.model, engine.client.info, engine.adapters) for engine, config in pairs
        ]
        for server in self._servers.values():
            server.send(Attach(self._models))
        await self._all_attached.wait()

    def report_state(self) -> None:
        """Sends the service's state to the API servers if it has changed."""
        now = (self._service.state, self._service.cut_off.is_set(), self._service.asleep)
        if now != self._sent_state:
            self._sent_state = now
            for server in self._servers.values():
                server.send(StateChange(*now))

    def stop(self) -> None:
        """Ends ``serve``: answers in flight are written first."""
        if not self._over.done():
            self._over.set_result(None)

    def stop_now(self) -> None:
        """Ends ``serve`` without waiting for answers in flight."""
        self.report_state()
        self._stop_now.set()

    def _start(self, index: int) -> None:
        self._servers[index] = server = ApiServerHandle(partial(self._setup, index), self._on_message, self._on_exit)
        self._brokers[index] = CallBroker(self._service, self._admission, server.send)

    def _setup(self, index: int, folder: str) -> ApiServerSetup:
        return ApiServerSetup(
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

    # -- messages of the API servers ----------------------------------------------------------------------------------

    def _on_message(self, server: ApiServerHandle, message: FromApiServer) -> None:
        broker = self._brokers[server.index]
        match message:
            case AdmitRequest():
                if broker.admit(message):
                    self._service.metrics.api_server_calls.labels(str(server.index)).inc()
            case Run():
                broker.run(message)
            case AbortCall():
                broker.abort(message)
            case ResetPrefixCache(model):
                list(self._service.models)[model].client.reset_prefix_cache()
            case AdaptersKnown() | Operate() | StatusRequest() | MetricsRequest():
                self._on_question(server, message)
            case Connected():
                server.send(StateChange(*self._sent_state))
                if self._models:
                    server.send(Attach(self._models))
            case Attached():
                server.attached = True
                if all(other.attached for other in self._servers.values()):
                    self._all_attached.set()
            case ApiServerFailed(error):
                self._on_failed(server, error)

    def _on_question(
        self, server: ApiServerHandle, message: AdaptersKnown | Operate | StatusRequest | MetricsRequest
    ) -> None:
        match message:
            case AdaptersKnown(number):
                self._adapter_news.confirm(number)
            case Operate():
                self._begin(self._operate(server, message))
            case StatusRequest(number):
                server.send(self._status(number))
            case MetricsRequest(number):
                self._begin(self._send_metrics(server, number))

    def _status(self, number: int) -> Status:
        try:
            self._service.check_ready()
        except EngineError as error:
            return Status(number, self._admission.num_calls, WireError.of(error))
        return Status(number, self._admission.num_calls, None)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._page_tasks.add(task)
        task.add_done_callback(self._page_tasks.discard)

    async def _operate(self, server: ApiServerHandle, message: Operate) -> None:
        error: WireError | None = None
        try:
            await self._operations.perform(message.operation)
        except EngineError as failure:
            error = WireError.of(failure)
        except Exception:
            # Our bug; the caller must hear of its end all the same.
            logger.exception("an operation failed in the coordinator")
            error = WireError.of(EngineError("Internal error; the log of the server has it."))
        server.send(Operated(message.number, error))

    async def _announce(self, engine: LoadedEngine | None) -> None:
        """Returns when every API server knows the state of the server, or the adapters of the model."""
        self.report_state()
        if engine is None:
            return
        position = list(self._service.models).index(engine)
        # Those that are not connected yet get the adapters with the models.
        connected = [server for server in self._servers.values() if server.connected]
        await self._adapter_news.tell(connected, position, engine.adapters)

    async def _send_metrics(self, server: ApiServerHandle, number: int) -> None:
        servers = list(self._servers.values())
        await asyncio.gather(*(one.refresh() for one in servers))
        counts = chain(self._past, *(one.counts for one in self._servers.values()))
        server.send(MetricsPage(number, render(self._service.metrics.registry, counts)))

    def _on_failed(self, server: ApiServerHandle, error: WireError) -> None:
        failure = error.rebuilt()
        if self._all_attached.is_set():  # others work: its end is treated like any other
            logger.error("API server %d: %s", server.index, failure)
            return
        self._give_up(failure if isinstance(failure, StartupError) else StartupError(str(failure)))

    # -- start, watch, end --------------------------------------------------------------------------------------------

    def _on_exit(self, server: ApiServerHandle) -> None:
        self._brokers[server.index].close()
        self._adapter_news.forget(server)
        self._connections[server.index] = NOT_LISTENING
        self._past = summed(chain(self._past, server.counts))
        server.counts = []
        if self._stopping or self._over.done():
            return
        how = f"API server {server.index} (pid {server.pid}) ended with exit code {server.child.exit_code}"
        if not self._restarts.spend():
            self._give_up(StartupError(f"{how}, too often to start it again."))
            return
        logger.error("%s; starting another one", how)
        self._service.metrics.api_server_restarts.inc()
        self._start(server.index)

    def _give_up(self, error: StartupError) -> None:
        if not self._over.done():
            self._over.set_exception(error)

    async def _watch(self) -> None:
        """Sends changes of the server's state, and kills API servers that hang."""
        timeout_s = self._engine_configs[0].device.step_timeout_s
        while True:
            await asyncio.sleep(WATCH_S)
            self.report_state()
            for server in self._servers.values():
                server.since_heartbeat_s += WATCH_S
                if server.since_heartbeat_s > timeout_s and not server.gone.is_set():
                    logger.error(
                        "API server %d has been silent for %.0f s: killing it", server.index, server.since_heartbeat_s
                    )
                    server.since_heartbeat_s = 0.0
                    server.kill()

    async def _end(self) -> None:
        """Lets the API servers write the answers in flight, then ends them; kills what is left when the time is up."""
        self._listener.close()  # else it would take connections that nobody serves
        self.report_state()
        for server in self._servers.values():
            if server.connected and server.since_heartbeat_s < HEARTBEAT_TIMEOUT_S:
                server.send(Stop())
            elif not server.gone.is_set():
                server.kill()
        ending = asyncio.gather(*(server.gone.wait() for server in self._servers.values()))
        stopping_now = asyncio.create_task(self._stop_now.wait())
        timeout_s = stop_timeout_s(self._config) + HARD_STOP_S
        await asyncio.wait((ending, stopping_now), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if not ending.done():
            await asyncio.wait((ending,), timeout=LAST_ERRORS_S)
        for server in self._servers.values():
            if not server.gone.is_set():
                server.kill()
        await ending
        stopping_now.cancel()
