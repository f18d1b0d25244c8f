"""One worker process, the channel to it, and the thread that listens to both."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future

from engine.config import EngineConfig
from engine.errors import ModelLoadError, from_wire
from engine.executor.worker_process import WorkerSetup
from engine.logs import current_format
from engine.messages import FromWorker, StepResult, WorkerFailed, WorkerReady
from engine.model_spec import ModelSpec
from engine.process import Child
from engine.step import Member, WorkerInfo
from engine.transport import Channel, ChannelClosedError

STOP_TIMEOUT_S = 5.0
JOIN_TIMEOUT_S = 5.0


class RankProcess:
    """``ready`` tells how its start went; from then on every message goes to ``on_message``, its end to ``on_end``."""

    def __init__(
        self,
        config: EngineConfig,
        spec: ModelSpec,
        member: Member,
        channel: Channel[FromWorker],
        on_message: Callable[[StepResult | WorkerFailed], None],
        on_end: Callable[[RankProcess], None],
    ) -> None:
        self.index, self._alone = member.index, member.size == 1
        self.channel = channel
        self.ready: Future[WorkerInfo] = Future()
        self._on_message, self._on_end = on_message, on_end
        level = logging.getLevelName(logging.getLogger().getEffectiveLevel())
        rank = config.device.first_rank + member.index
        setup = WorkerSetup(config, spec, rank, member, channel.folder, level, current_format())
        self.child = Child("engine.executor.worker_process", setup)
        self._receiver = threading.Thread(target=self._receive, name=f"worker-{self.index}-results", daemon=True)
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
                self.ready.set_exception(from_wire(message.error.type, message.error.message))
            elif message is not None:
                self._on_message(message)

    def _end(self) -> None:
        if not self.ready.done():
            code = self.child.stop(1.0)
            which = "the worker process" if self._alone else f"the process of worker {self.index}"
            self.ready.set_exception(ModelLoadError(f"{which} ended with code {code} while loading the model"))
        self._on_end(self)

    def stop(self) -> None:
        """Wait for its end, or kill it; then let go of everything."""
        self.child.stop(STOP_TIMEOUT_S)
        self._receiver.join(JOIN_TIMEOUT_S)
        self.child.release()
        self.channel.close()
