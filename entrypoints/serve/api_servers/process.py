"""A front: one of several API processes. ``python -m engine.entrypoints.serve.api_servers.process``; set-up on stdin.

When to stop is main's decision: the signals that end a server mean nothing here, so that one that is sent to a whole
process group still lets the calls inside be finished.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket

from engine.entrypoints.serve.api_servers.listener import ConnectionCounts, SharingHttpServer
from engine.entrypoints.serve.api_servers.messages import (
    Attach,
    Attached,
    FrontFailed,
    FrontModel,
    FrontSetup,
    Snapshot,
    SnapshotRequest,
    StateChange,
    Stop,
    ToFront,
)
from engine.entrypoints.serve.api_servers.relay import Relay, RelayedClient, RelayedDoor, RelayedStatus
from engine.entrypoints.serve.api_servers.totals import FrontMetrics
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
BEAT_S = 1.0
"""Main hears from a front this often."""


class Front:
    def __init__(self, setup: FrontSetup, channel: Channel[ToFront]) -> None:
        self._setup = setup
        self._relay = Relay(channel, self._on_message)
        self._metrics = FrontMetrics()
        self._service = RerankService(setup.server, self._metrics, RelayedDoor(self._relay))
        self._service.started_at = setup.started_at
        self._models: asyncio.Future[list[FrontModel]] = asyncio.get_running_loop().create_future()
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Until main says ``Stop``; raises what no other front could do better."""
        setup = self._setup
        app = create_app(self._service, RelayedStatus(self._service, self._relay))
        counts = ConnectionCounts(setup.counts_fd, setup.server.api_server_count)
        http = SharingHttpServer(app, setup.server, counts, setup.index)
        listener = socket.socket(fileno=setup.listener_fd)
        self._relay.start()
        beating = asyncio.create_task(self._beat())
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
            for task in (beating, stopping, attaching):
                task.cancel()
            await self._service.stop()
            self._relay.close()

    async def _attach(self) -> None:
        """The tokenizers are this front's own; everything else about the models is main's."""
        engines = []
        for position, model in enumerate(await self._models):
            processor = await asyncio.to_thread(InputProcessor, model.spec, model.config)
            client = RelayedClient(self._relay, position, model.info)
            names, adapters = model.config.served_model_name, tuple(model.config.lora_modules)
            engines.append(LoadedEngine(model.spec, processor, client, names, adapters))
        self._service.attach(*engines)
        self._relay.send(Attached())

    async def _beat(self) -> None:
        while True:
            self._relay.send(Snapshot(0, self._metrics.counts()))
            await asyncio.sleep(BEAT_S)

    def _on_message(self, message: ToFront) -> None:
        match message:
            case Attach(models):
                self._models.set_result(models)
            case StateChange(state, cut_off):
                if state not in ("starting", "ready"):  # how far this front is with that, it knows better
                    self._service.state = state
                if cut_off:
                    self._service.cut_off.set()
            case SnapshotRequest(number):
                self._relay.send(Snapshot(number, self._metrics.counts()))
            case Stop():
                self._stop.set()


async def _run(setup: FrontSetup, channel: Channel[ToFront]) -> None:
    await Front(setup, channel).run()


def main() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    setup = receive_setup(FrontSetup)
    set_up_logging(setup.log_level, setup.log_format, f"api-{setup.index}")
    channel: Channel[ToFront] = Channel.connect(setup.folder, ToFront)
    code = 0
    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(_run(setup, channel))
    except EngineError as error:
        channel.send(FrontFailed(WireError.of(error)))
        code = 1
    except Exception:
        # Our bug: main starts another front, and the log says where.
        logger.exception("an API process failed")
        code = 1
    channel.close()
    logging.shutdown()
    os._exit(code)  # not sys.exit: a thread may be inside a text that takes long


if __name__ == "__main__":
    main()
