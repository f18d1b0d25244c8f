"""How front ends talk to the core: one protocol, in this process or across a process border.

``InprocClient`` runs the core in the calling thread; ``MPClient`` starts it as a process. Both are driven by one
thread. The asyncio client of the server stands in ``async_client.py``.
"""

from __future__ import annotations

import contextlib
import logging
from typing import Protocol

import numpy as np

from engine.config import EngineConfig
from engine.core.core import EngineCore
from engine.core.process import CoreSetup
from engine.errors import EngineDeadError, EngineError, ModelLoadError
from engine.executor import create_executor
from engine.ipc.channel import Channel, ChannelClosedError
from engine.ipc.child_process import Child
from engine.logs import current_format
from engine.messages import (
    AbortRequest,
    CoreFailed,
    CoreHealth,
    CoreReady,
    EngineCoreOutputs,
    EngineCoreRequest,
    FromCore,
    OperationDone,
    OperationRequest,
    ResetPrefixCacheRequest,
    SchedulerStats,
    ShutdownRequest,
)
from engine.model_spec import ModelSpec
from engine.step import WorkerInfo

CLOSE_TIMEOUT_S = 5.0


class EngineClient(Protocol):
    """A core that one thread drives."""

    info: WorkerInfo
    """The workers behind the core, described as one."""

    def submit(self, request: EngineCoreRequest) -> None:
        """Hand over a call; its answers come out of ``recv``. Raises ``ChannelClosedError`` where the core is gone."""
        ...

    def abort(self, call_id: str) -> None:
        """Answer no more pairs of this call; unknown calls are ignored."""
        ...

    def recv(self, timeout_s: float | None = None) -> EngineCoreOutputs:
        """Answers that became ready; waits for some, at most ``timeout_s``. Raises ``EngineDeadError``."""
        ...

    def reset_prefix_cache(self) -> None:
        """Forget the queries that are kept between calls; the constant prefix stays."""
        ...

    def stats(self) -> SchedulerStats:
        """Totals since the start, and the present state."""
        ...

    def close(self) -> None:
        """Let the running step end, then end the core and its workers."""
        ...


class InprocClient:
    """The core in this process."""

    def __init__(self, config: EngineConfig, spec: ModelSpec, constant_prefix: np.ndarray) -> None:
        executor = create_executor(config, spec, automatic="uni")
        try:
            self._core = EngineCore(config, spec, constant_prefix, executor)
        except BaseException:
            executor.close()
            raise
        self.info = executor.info

    def submit(self, request: EngineCoreRequest) -> None:
        self._core.add(request)

    def abort(self, call_id: str) -> None:
        self._core.abort(call_id)

    def recv(self, timeout_s: float | None = None) -> EngineCoreOutputs:
        outputs = self._core.poll()
        while not outputs.outputs and self._core.has_work:
            self._core.wait(timeout_s)
            outputs = self._core.poll()
            if timeout_s is not None:
                break
        return outputs

    def reset_prefix_cache(self) -> None:
        self._core.scheduler.drop_queries()

    def stats(self) -> SchedulerStats:
        return self._core.stats()

    def close(self) -> None:
        self._core.close()


class MPClient:
    """The core as a child process, which starts its workers itself."""

    def __init__(self, config: EngineConfig, spec: ModelSpec, constant_prefix: np.ndarray) -> None:
        self.channel: Channel[FromCore] = Channel.listen(FromCore)
        level = logging.getLevelName(logging.getLogger().getEffectiveLevel())
        setup = CoreSetup(config, spec, constant_prefix, self.channel.folder, level, current_format())
        self.child = Child("engine.core.process", setup)
        self._stats = SchedulerStats()

    def wait_ready(self) -> WorkerInfo:
        """Waits until the model is loaded; raises the ``StartupError`` that stopped it."""
        try:
            message = self.channel.recv(watch_fd=self.child.handle)
        except ChannelClosedError:
            code = self.child.exit_code
            raise ModelLoadError(f"the core process ended with code {code} while starting") from None
        if isinstance(message, CoreFailed):
            raise message.error.rebuilt()
        assert isinstance(message, CoreReady)
        self.channel.hide()
        self.info = message.info
        return message.info

    def submit(self, request: EngineCoreRequest) -> None:
        self.channel.send(request)

    def abort(self, call_id: str) -> None:
        self.channel.send(AbortRequest([call_id]))

    def operate(self, request: OperationRequest) -> None:
        """Ask for an operation; ``recv_any`` returns its ``OperationDone``."""
        self.channel.send(request)

    def recv_any(self, timeout_s: float | None = None) -> EngineCoreOutputs | CoreHealth | OperationDone | None:
        """The next message; None after ``timeout_s``. Raises ``EngineDeadError`` when the core is gone."""
        try:
            message = self.channel.recv(timeout_s, watch_fd=self.child.handle)
        except ChannelClosedError as error:
            raise EngineDeadError(f"the core process ended (exit code {self.child.exit_code})") from error
        if isinstance(message, CoreFailed):
            cause = message.error.rebuilt()
            raise EngineDeadError(str(cause), retry_after_s=cause.retry_after_s, code=cause.code) from cause
        assert not isinstance(message, CoreReady)
        if isinstance(message, EngineCoreOutputs) and message.stats is not None:
            self._stats = message.stats
        return message

    def recv(self, timeout_s: float | None = None) -> EngineCoreOutputs:
        message = self.recv_any(timeout_s)
        return message if isinstance(message, EngineCoreOutputs) else EngineCoreOutputs()

    def reset_prefix_cache(self) -> None:
        self.channel.send(ResetPrefixCacheRequest())

    def stats(self) -> SchedulerStats:
        return self._stats

    def request_shutdown(self) -> None:
        self.channel.send(ShutdownRequest())

    def close(self) -> None:
        """Let the core finish its step, then end it, and with it its workers."""
        if self.child.alive:
            with contextlib.suppress(ChannelClosedError):
                self.request_shutdown()
        self.child.stop(CLOSE_TIMEOUT_S)
        self.child.release()
        self.channel.close()


def create_client(
    config: EngineConfig, spec: ModelSpec, constant_prefix: np.ndarray, *, own_process: bool = False
) -> EngineClient:
    """Starts a core and waits for its model; with ``own_process`` scheduler and workers run outside of this process."""
    if not own_process:
        return InprocClient(config, spec, constant_prefix)
    client = MPClient(config, spec, constant_prefix)
    try:
        client.wait_ready()
    except EngineError:
        client.close()
        raise
    return client
