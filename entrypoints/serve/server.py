"""``engine serve``: the life of the API process.

The port is taken first, so that a wrong one costs no loading time. HTTP answers /live and /ready from the start, while
the model loads behind it. The first SIGTERM, SIGINT or SIGHUP drains: not ready at once, what was
accepted is finished until the deadline, exit 0. A second one stops at once.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Protocol

from engine import garbage_collector
from engine.config import EngineConfig, ServerConfig
from engine.core.async_client import AsyncMPClient
from engine.core.replicas import ReplicaClient
from engine.entrypoints.serve.admission import Admission
from engine.entrypoints.serve.api_servers.coordinator import Coordinator
from engine.entrypoints.serve.app import create_app
from engine.entrypoints.serve.auth import check_exposure, with_key_file
from engine.entrypoints.serve.dialect_registry import by_name
from engine.entrypoints.serve.http import HARD_STOP_S, http_server
from engine.entrypoints.serve.loaded_engine import LoadedEngine
from engine.entrypoints.serve.loading import check_model_path, load_engine
from engine.entrypoints.serve.log_stats import log_stats
from engine.entrypoints.serve.loop import new_loop
from engine.entrypoints.serve.metrics import ServerMetrics
from engine.entrypoints.serve.ports import address_of, allow_open_files, listen, listen_on_path
from engine.entrypoints.serve.service import RerankService
from engine.entrypoints.serve.tls import check_tls
from engine.entrypoints.serve.tracing import collector_url
from engine.errors import ConfigError, RequestError, StartupError
from engine.extras import pip_install
from engine.ipc.stop_signals import stop_signals

logger = logging.getLogger(__name__)


class _HttpListener(Protocol):
    """Who accepts connections: this process, or the API servers of a coordinator."""

    async def serve(self) -> None:
        """Serves until ``stop``; raises ``StartupError``."""
        ...

    async def attach(self, engines: Sequence[LoadedEngine]) -> None:
        """Hands over the loaded models; returns when calls for them can be taken."""
        ...

    def report_state(self) -> None:
        """Passes on that the service's state has changed."""
        ...

    def stop(self) -> None:
        """Ends ``serve`` once the answers in flight are written."""
        ...

    def stop_now(self) -> None:
        """Ends ``serve`` without waiting."""
        ...


class _OneProcess:
    """The HTTP side where this process speaks HTTP itself."""

    def __init__(self, service: RerankService, listener: socket.socket) -> None:
        self._listener = listener
        self._http = http_server(create_app(service), service.config)

    async def serve(self) -> None:
        await self._http.serve(sockets=[self._listener])

    async def attach(self, engines: Sequence[LoadedEngine]) -> None:
        """Does nothing: the models are in this process."""

    def report_state(self) -> None:
        """Does nothing: the service is in this process."""

    def stop(self) -> None:
        self._http.should_exit = True

    def stop_now(self) -> None:
        self._http.force_exit = True


def run_server(engine_config: EngineConfig, server_config: ServerConfig, *more_models: EngineConfig) -> int:
    """Serves until a signal and returns the exit code. Raises ``StartupError`` for what stops the start."""
    server_config = with_key_file(server_config)
    check_exposure(server_config)
    for config in (engine_config, *more_models):
        check_model_path(config)
    if server_config.dialect:
        try:
            by_name(server_config.dialect)
        except RequestError as error:
            raise ConfigError(f"--dialect: {error}", param="dialect") from error
    if server_config.otlp_traces_endpoint:
        collector_url(server_config.otlp_traces_endpoint)
    check_tls(server_config)
    if server_config.grpc_port is not None:
        _grpc_module().check_grpc(server_config)
    if server_config.uds is not None:
        listener = listen_on_path(server_config.uds)
    else:
        listener = listen(server_config.host, server_config.port)
    try:
        fitting = allow_open_files(server_config.max_connections)
        server_config = replace(server_config, max_connections=fitting)
        with asyncio.Runner(loop_factory=new_loop) as runner:
            return runner.run(_Server((engine_config, *more_models), server_config, listener).run())
    finally:
        listener.close()
        if server_config.uds is not None:
            Path(server_config.uds).unlink(missing_ok=True)


def _grpc_module() -> ModuleType:
    """Raises ``ConfigError`` where the extra is missing."""
    try:
        return importlib.import_module("engine.entrypoints.serve.grpc_rerank")
    except ModuleNotFoundError as error:
        raise ConfigError(f"--grpc-port needs {error.name}: {pip_install('grpc')}.", param="grpc_port") from error


class _Server:
    def __init__(
        self, engine_configs: Sequence[EngineConfig], server_config: ServerConfig, listener: socket.socket
    ) -> None:
        self._engine_configs = engine_configs
        self._config = server_config
        self._listener = listener
        self._admission = Admission(server_config)
        self._service = RerankService(server_config, ServerMetrics(), self._admission)
        self._num_signals = 0
        self._stop = asyncio.Event()
        self._stats: list[asyncio.Task[None]] = []
        self._clients: list[AsyncMPClient | ReplicaClient] = []

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in stop_signals():
            loop.add_signal_handler(number, self._on_signal, number)
        self._http = http = self._http_listener()
        grpc = None if self._config.grpc_port is None else _grpc_module().GrpcServer(self._service)
        if grpc is not None:
            await grpc.start()
        serving = asyncio.create_task(http.serve())
        loading = asyncio.create_task(self._load())
        stopping = asyncio.create_task(self._stop.wait())
        lost: asyncio.Task[None] | None = None
        try:
            done, _ = await asyncio.wait((serving, loading, stopping), return_when=asyncio.FIRST_COMPLETED)
            if loading in done:
                loading.result()  # raises what stopped the start
                lost = asyncio.create_task(self._wait_lost())
                done, _ = await asyncio.wait((serving, stopping, lost), return_when=asyncio.FIRST_COMPLETED)
            if lost is not None and lost in done:
                return await self._end_without_core()
            if stopping not in done:
                serving.result()
                raise StartupError("The HTTP server ended by itself.")
            if loading.done():
                await self._service.drain()
            return 0
        finally:
            for task in (loading, stopping, lost, *self._stats):
                if task is not None:
                    task.cancel()
            await asyncio.wait((loading,))
            http.stop()
            if grpc is not None:
                await grpc.stop()
            await self._service.stop()
            await serving

    def _http_listener(self) -> _HttpListener:
        if self._config.api_server_count == 1:
            return _OneProcess(self._service, self._listener)
        return Coordinator(self._service, self._admission, self._engine_configs, self._listener)

    async def _end_without_core(self) -> int:
        """Answers calls in flight with an error; whoever started this process starts another."""
        logger.error("the engine core was restarted too often: ending")
        self._service.state = "refusing"
        await asyncio.wait((asyncio.ensure_future(self._service.admission.idle.wait()),), timeout=HARD_STOP_S)
        return 1

    async def _wait_lost(self) -> None:
        """Waits until a core is lost for good."""
        waits = [asyncio.ensure_future(client.wait_lost()) for client in self._clients]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _load(self) -> None:
        """Loads the models in turn; calls are taken when all of them are there."""
        address = address_of(self._listener, tls=self._config.ssl_certfile is not None)
        logger.info("listening on %s (pid %d), loading the model", address, os.getpid())
        engines: list[LoadedEngine] = []
        started_s = time.monotonic()
        try:
            for config in self._engine_configs:
                engines.append(await load_engine(config, on_started=self._clients.append))
                if not self._config.disable_log_stats:
                    self._stats.append(asyncio.create_task(log_stats(partial(attrgetter("stats"), engines[-1].client))))
            await self._http.attach(engines)
            self._service.attach(*engines)
            garbage_collector.resume()
        except BaseException:
            await asyncio.gather(*(engine.client.shutdown(0.0) for engine in engines))
            raise
        for engine in engines:
            info = engine.client.info
            logger.info(
                "ready on %s after %.1f s: %s on %s in %s, weights loaded in %.1f s",
                address,
                time.monotonic() - started_s,
                ", ".join((engine.spec.name, *engine.adapters)),
                info.device,
                info.dtype,
                info.load_s,
            )
            for note in info.notes:
                logger.info("%s", note)

    def _on_signal(self, number: signal.Signals) -> None:
        """The first one drains, the second stops at once; a terminal that closes may send SIGHUP several times."""
        if number == signal.SIGHUP and self._num_signals:
            return
        self._num_signals += 1
        if self._num_signals == 1:
            logger.info("stopping: finishing the calls in flight, for at most %.0f s", self._config.shutdown_timeout_s)
            self._service.state = "draining"
            self._http.report_state()
            self._stop.set()
        else:
            logger.warning("second signal: stopping at once")
            self._service.stop_now()
            for client in self._clients:
                client.kill()
            self._http.stop_now()
