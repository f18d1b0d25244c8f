"""One worker process, wherever it runs, the channel to it, and the thread that listens to both."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol

from engine.errors import ModelLoadError
from engine.ipc.channel import Channel, ChannelClosedError
from engine.messages import FromWorker, OperationDone, StepResult, WorkerFailed, WorkerReady
from engine.step import WorkerInfo

STOP_TIMEOUT_S = 5.0
JOIN_TIMEOUT_S = 5.0


class WorkerChild(Protocol):
    """A worker's process for an executor: ``engine.ipc.child_process.Child``, or its like on another host."""

    @property
    def handle(self) -> int:
        """Readable when the process has ended."""
        ...

    @property
    def pid(self) -> int: ...
    @property
    def alive(self) -> bool: ...
    @property
    def exit_code(self) -> int | None: ...
    def stop(self, timeout_s: float) -> int: ...
    def kill(self) -> int: ...
    def release(self) -> None: ...


class RankProcess:
    """``ready`` tells how its start went; from then on every message goes to ``on_message``, its end to ``on_end``."""

    def __init__(
        self,
        index: int,
        name: str,
        child: WorkerChild,
        channel: Channel[FromWorker],
        on_message: Callable[[StepResult | WorkerFailed | OperationDone], None],
        on_end: Callable[[RankProcess], None],
    ) -> None:
        self.index, self.name = index, name
        self.child, self.channel = child, channel
        self.ready: Future[WorkerInfo] = Future()
        self._on_message, self._on_end = on_message, on_end
        self._receiver = threading.Thread(target=self._receive, name=f"worker-{index}-results", daemon=True)
        self._receiver.start()

    def _receive(self) -> None:
        while True:
            try:
                message = self.channel.recv(watch_fd=self.child.handle)
            except ChannelClosedError:
                self._end()
                return
            if isinstance(message, WorkerReady):
                self.ready.set_result(message.info)
            elif isinstance(message, WorkerFailed) and not self.ready.done():
                self.ready.set_exception(message.error.rebuilt())
            elif message is not None:
                self._on_message(message)

    def _end(self) -> None:
        if not self.ready.done():
            code = self.child.stop(1.0)
            self.ready.set_exception(ModelLoadError(f"{self.name} ended with code {code} while loading the model"))
        self._on_end(self)

    def stop(self) -> None:
        """Wait for its end, or kill it; then let go of everything."""
        self.child.stop(STOP_TIMEOUT_S)
        self._receiver.join(JOIN_TIMEOUT_S)
        self.child.release()
        self.channel.close()
