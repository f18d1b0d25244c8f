"""An API server process: ``python -m engine.entrypoints.serve.api_servers.process``, with its set-up on stdin.

The coordinator decides when to stop: the signals that end a server are ignored here, so that a signal to the whole
process group still lets calls in flight finish.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from dataclasses import replace

from engine.entrypoints.serve.api_servers.coordinator_client import CoordinatorClient
from engine.entrypoints.serve.api_servers.listener import ConnectionCounts, SharingHttpServer
from engine.entrypoints.serve.api_servers.messages import (
    AdaptersChanged,
    AdaptersKnown,
    ApiServerFailed,
    ApiServerModel,
    ApiServerSetup,
    Attach,
    Attached,
    Snapshot,
    SnapshotRequest,
    StateChange,
    Stop,
    ToApiServer,
)
from engine.entrypoints.serve.api_servers.remote import RemoteAdmission, RemoteCore, RemoteOperations, RemoteStatus
from engine.entrypoints.serve.api_servers.totals import ApiServerMetrics
from engine.entrypoints.serve.app import create_app
from engine.entrypoints.serve.loaded_engine import LoadedEngine
from engine.entrypoints.serve.loop import new_loop
from engine.entrypoints.serve.service import RerankService
from engine.entrypoints.settings.log_setup import set_up_logging
from engine.errors import EngineError
from engine.inputs.processor import InputProcessor
from engine.ipc.channel import Channel
from engine.ipc.child_process import receive_setup
from engine.messages import WireError

logger = logging.getLogger(__name__)
HEARTBEAT_INTERVAL_S = 1.0
"""How often the counters are sent, which is the heartbeat of an API server."""


class ApiServer:
    """The HTTP server of this process, with a service whose queue and cores are the coordinator's."""

    def __init__(self, setup: ApiServerSetup, channel: Channel[ToApiServer]) -> None:
        self._setup = setup
        self._coordinator = CoordinatorClient(channel, self._on_message)
        self._metrics = ApiServerMetrics()
        self._service = RerankService(setup.server, self._metrics, RemoteAdmission(self._coordinator))
        self._service.started_at = setup.started_at
        self._models: asyncio.Future[list[ApiServerModel]] = asyncio.get_running_loop().create_future()
        self._attached = asyncio.Event()
        self._changes: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Serves until the coordinator sends ``Stop``; raises ``RuntimeError`` where its HTTP server ends before."""
        setup = self._setup
        coordinator = self._coordinator
        app = create_app(self._service, RemoteStatus(self._service, coordinator), RemoteOperations(coordinator))
        counts = ConnectionCounts(setup.counts_fd, setup.server.api_server_count)
        http = SharingHttpServer(app, setup.server, counts, setup.index)
        listener = socket.socket(fileno=setup.listener_fd)
        self._coordinator.start()
        heartbeats = asyncio.create_task(self._send_heartbeats())
        stopping = asyncio.create_task(self._stop.wait())
        attaching = asyncio.create_task(self._attach())
        serving: asyncio.Task[None] | None = None
        try:
            if setup.is_late:
                await asyncio.wait((attaching, stopping), return_when=asyncio.FIRST_COMPLETED)
                if attaching.done():
                    attaching.result()
            serving = asyncio.create_task(http.serve(sockets=[listener]))
            waiting = {serving, stopping, attaching}
            while not stopping.done():
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
                if serving in done:
                    raise RuntimeError("the HTTP server ended by itself")
        finally:
            http.should_exit = True
            if serving is not None:
                await asyncio.wait((serving,))
            for task in (heartbeats, stopping, attaching):
                task.cancel()
            await self._service.stop()
            self._coordinator.close()

    async def _attach(self) -> None:
        """Loads the tokenizers, which each API server has for itself; the rest of a model is the coordinator's."""
        engines = []
        for position, model in enumerate(await self._models):
            processor = await asyncio.to_thread(InputProcessor, model.spec, model.config)
            client = RemoteCore(self._coordinator, position, model.info)
            engine = LoadedEngine.of(model.spec, processor, client, model.config)
            engines.append(replace(engine, adapters=model.adapters))
        self._service.attach(*engines)
        self._attached.set()
        self._coordinator.send(Attached())

    async def _change_adapters(self, change: AdaptersChanged) -> None:
        await self._attached.wait()
        models = self._service.models
        engine = list(models)[change.model]
        gone = [name for name in engine.adapters if name not in change.adapters]
        for name in gone:
            models.drop_adapter(name)
        for name, mark in change.adapters.items():
            models.put_adapter(engine, name, mark)
        for name in gone:
            await models.unused(name)
        self._coordinator.send(AdaptersKnown(change.number))

    async def _send_heartbeats(self) -> None:
        while True:
            self._coordinator.send(Snapshot(0, self._metrics.counts()))
            await asyncio.sleep(HEARTBEAT_INTERVAL_S)

    def _on_message(self, message: ToApiServer) -> None:
        match message:
            case Attach(models):
                self._models.set_result(models)
            case AdaptersChanged():
                task = asyncio.create_task(self._change_adapters(message))
                self._changes.add(task)
                task.add_done_callback(self._changes.discard)
            case StateChange(state, cut_off, asleep):
                self._service.asleep = asleep
                if state not in ("starting", "ready"):  # when it is ready, this API server knows itself
                    self._service.state = state
                if cut_off:
                    self._service.cut_off.set()
            case SnapshotRequest(number):
                self._coordinator.send(Snapshot(number, self._metrics.counts()))
            case Stop():
                self._stop.set()


async def _run(setup: ApiServerSetup, channel: Channel[ToApiServer]) -> None:
    await ApiServer(setup, channel).run()


def main() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    setup = receive_setup(ApiServerSetup)
    set_up_logging(setup.log_level, setup.log_format, f"api-{setup.index}")
    channel: Channel[ToApiServer] = Channel.connect(setup.folder, ToApiServer)
    code = 0
    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(_run(setup, channel))
    except EngineError as error:
        channel.send(ApiServerFailed(WireError.of(error)))
        code = 1
    except Exception:
        # Our bug: the coordinator starts another API server, and the log says where.
        logger.exception("an API server failed")
        code = 1
    channel.close()
    logging.shutdown()
    os._exit(code)  # not sys.exit: a thread may be inside a text that takes long


if __name__ == "__main__":
    main()
