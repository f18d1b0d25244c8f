"""The scheduler as a process of its own. ``python -m engine.core.process``; the set-up comes on stdin.

Two threads: one reads the inbox, the main one drives the core. Both wake the same event, so the core sleeps until
there is a message or a finished step.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from typing import NoReturn

import msgspec
import numpy as np

from engine import garbage_collector, logs
from engine.config import EngineConfig
from engine.core.core import EngineCore
from engine.errors import EngineError
from engine.executor import create_executor
from engine.ipc.channel import Channel
from engine.ipc.child_process import receive_setup
from engine.messages import (
    AbortRequest,
    CoreFailed,
    CoreHealth,
    CoreReady,
    EngineCoreOutputs,
    EngineCoreRequest,
    OperationRequest,
    ResetPrefixCacheRequest,
    ShutdownRequest,
    ToCore,
    WireError,
)
from engine.model_spec import ModelSpec

logger = logging.getLogger(__name__)
HEARTBEAT_INTERVAL_S = 0.5
"""How often the front end hears from the core at least: its heartbeat."""


class CoreSetup(msgspec.Struct):
    config: EngineConfig
    spec: ModelSpec
    constant_prefix: np.ndarray
    folder: str
    log_level: str
    log_format: str


class CoreProcess:
    def __init__(self, core: EngineCore, channel: Channel[ToCore]) -> None:
        self._core = core
        self._channel = channel
        self._inbox: deque[ToCore] = deque()
        self._wake = threading.Event()
        self._stopping = False
        self._closed = False

    def run(self) -> None:
        """Runs until a ``ShutdownRequest`` comes; calls that were accepted before are finished first."""
        reader = threading.Thread(target=self._read_inbox, name="inbox", daemon=True)
        reader.start()
        try:
            self._drive()
        finally:
            # A socket is closed by nobody while another thread reads from it.
            self._closed = True
            reader.join()

    def _drive(self) -> None:
        while not (self._stopping and not self._core.has_work):
            self._wake.wait(min(HEARTBEAT_INTERVAL_S, self._core.plan_in_s or HEARTBEAT_INTERVAL_S))
            self._wake.clear()
            while self._inbox:
                self._handle(self._inbox.popleft())
            outputs = self._core.poll(on_done=self._wake.set)
            if outputs.stats is None:
                outputs = EngineCoreOutputs(outputs=outputs.outputs, stats=self._core.stats())
            self._channel.send(outputs)
            for done in self._core.operations.take_done():
                self._channel.send(done)

    def _read_inbox(self) -> None:
        while not self._closed:
            message = self._channel.recv(HEARTBEAT_INTERVAL_S)
            if message is not None:
                self._inbox.append(message)
                self._wake.set()

    def _handle(self, message: ToCore) -> None:
        match message:
            case EngineCoreRequest():
                self._core.add(message)
            case AbortRequest(call_ids):
                self._core.abort_all(call_ids)
            case OperationRequest():
                self._core.operations.ask(message)
            case ResetPrefixCacheRequest():
                self._core.scheduler.drop_queries()
            case ShutdownRequest():
                self._stopping = True


def main() -> None:
    garbage_collector.pause()
    setup = receive_setup(CoreSetup)
    logs.set_up(setup.log_level, setup.log_format, "core")
    channel: Channel[ToCore] = Channel.connect(setup.folder, ToCore)
    try:
        _run(setup, channel)
    except EngineError as error:
        logger.error("%s", error)
        channel.send(CoreFailed(WireError.of(error)))
        channel.close()
        _end_now()
    except Exception:
        # Our bug: the front end starts another core, and the log says where.
        logger.exception("the core failed")
        _end_now()
    channel.close()


def _end_now() -> NoReturn:
    """Not sys.exit: a thread may be inside a step that never ends. The children follow (``ipc/child_process.py``)."""
    logging.shutdown()
    os._exit(1)


def _run(setup: CoreSetup, channel: Channel[ToCore]) -> None:
    def report(ready: bool, reason: str) -> None:
        logger.log(logging.INFO if ready else logging.WARNING, "%s: %s", "ready" if ready else "not ready", reason)
        channel.send(CoreHealth(ready, reason))

    executor = create_executor(setup.config, setup.spec, automatic="mp")
    core = EngineCore(setup.config, setup.spec, setup.constant_prefix, executor, on_health=report)
    channel.send(CoreReady(executor.info))
    garbage_collector.resume()
    CoreProcess(core, channel).run()
    executor.close()


if __name__ == "__main__":
    main()
