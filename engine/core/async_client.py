"""The server's client: many calls at once on one event loop, one core process behind them.

A thread reads the core's messages and hands them to the loop. Every call stays here until its last pair is answered,
so when the core process is lost, a new one is started and gets the open calls again, one at a time, so that a call that
ends a core is found and costs nobody else an answer; answers that had already arrived are not passed on twice.

The core speaks at least every half second. When it is silent, steps cannot be trusted to run: the client says so at
once (``healthy``), and kills the core after ``--step-timeout-s``. A core that its worker took down (executor ``uni``)
is followed by one whose worker is a process of its own, where the pair that did it can be found.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import Self

import numpy as np

from engine.config import EngineConfig
from engine.core.client import CLOSE_TIMEOUT_S, MPClient
from engine.core.open_calls import OpenCalls
from engine.core.operations import AskedOperations
from engine.errors import EngineDeadError, EngineError, ShuttingDownError, StartupError
from engine.executor.base import GAVE_UP
from engine.ipc.channel import ChannelClosedError
from engine.ipc.restart_budget import RestartBudget
from engine.messages import (
    CoreHealth,
    EngineCoreOutput,
    EngineCoreOutputs,
    EngineCoreRequest,
    Operation,
    OperationDone,
    SchedulerStats,
)
from engine.model_spec import ModelSpec
from engine.step import WorkerInfo

logger = logging.getLogger(__name__)
HEARTBEAT_TIMEOUT_S = 2.0
"""A core that says nothing for so long is taken for hung."""
WATCH_S = 0.25


class AsyncMPClient:
    """Use ``start``; all methods belong to the loop that called it."""

    info: WorkerInfo

    def __init__(
        self, config: EngineConfig, spec: ModelSpec, constant_prefix: np.ndarray, *, hold_calls: bool = True
    ) -> None:
        self._hold_calls = hold_calls
        """Keep open calls while the core or its worker is replaced; False: fail them, for somebody else to run."""
        self._arguments = (config, spec, constant_prefix)
        self._loop = asyncio.get_running_loop()
        self._calls = OpenCalls()
        self._operations = AskedOperations()
        self._restarts = RestartBudget(config.device.max_worker_restarts)
        self._lost = asyncio.Event()
        self._core_ready = False
        """Whether the core last said that it can run steps."""
        self._why_not_ready = ""
        """Why it last said that it cannot."""
        self._loading = False
        """Whether a core has been started that has not said yet that its model is loaded."""
        self._watch: asyncio.Task[None] | None = None
        self._closing = False
        self.stats = SchedulerStats()
        self.step_tokens = 0
        self.alive = False
        """Whether there is a core process whose model is loaded."""
        self.last_heartbeat_s = time.monotonic()
        self.idle = self._calls.idle
        """Set while no call is open."""

    @classmethod
    async def start(
        cls, config: EngineConfig, spec: ModelSpec, constant_prefix: np.ndarray, *, hold_calls: bool = True
    ) -> Self:
        """Start the core and wait until its model is loaded; raises ``StartupError``."""
        self = cls(config, spec, constant_prefix, hold_calls=hold_calls)
        try:
            await self._start_core()
        except BaseException:
            await self._stop_core()
            raise
        self._watch = asyncio.create_task(self._watch_core())
        return self

    @property
    def healthy(self) -> bool:
        """Whether steps can run right now: the core is up, says that it is ready, and is not silent."""
        return self.alive and self._core_ready and self._since_heartbeat_s < HEARTBEAT_TIMEOUT_S

    @property
    def why_not_healthy(self) -> str:
        """The reason in words, while ``healthy`` is False."""
        if not self.alive:
            return "the engine core ended and is being replaced"
        return (
            self._why_not_ready
            if not self._core_ready
            else f"the engine core has been silent for {self._since_heartbeat_s:.0f} s"
        )

    @property
    def _since_heartbeat_s(self) -> float:
        return time.monotonic() - self.last_heartbeat_s

    async def wait_lost(self) -> None:
        """Waits until the core is gone and no other will be started."""
        await self._lost.wait()

    async def _start_core(self) -> None:
        # Here, not in a thread: the core is killed when the thread that started it ends.
        self._client = MPClient(*self._arguments)
        self._loading = True
        self.info = await asyncio.to_thread(self._client.wait_ready)
        self._loading = False
        self.alive = self._core_ready = True
        self.last_heartbeat_s = time.monotonic()
        self._receiver = threading.Thread(target=self._receive, args=(self._client,), name="core-results", daemon=True)
        self._receiver.start()

    def _receive(self, client: MPClient) -> None:
        while True:
            try:
                message = client.recv_any()
            except EngineDeadError as error:
                self._loop.call_soon_threadsafe(self._on_core_lost, client, error)
                return
            self.last_heartbeat_s = time.monotonic()
            if message is not None:
                self._loop.call_soon_threadsafe(self._dispatch, message)

    async def _watch_core(self) -> None:
        """A core that runs but says nothing: its calls go elsewhere if they can, and in the end it is killed."""
        timeout_s = self._arguments[0].device.step_timeout_s
        while True:
            await asyncio.sleep(WATCH_S)
            # While it replaces its worker it said that it is not ready, and may be silent.
            if not self.alive or not self._core_ready or self._since_heartbeat_s < HEARTBEAT_TIMEOUT_S:
                continue
            if not self._hold_calls:
                self._calls.fail_all(
                    EngineDeadError(f"the engine core has been silent for {self._since_heartbeat_s:.0f} s")
                )
            if self._since_heartbeat_s > timeout_s:
                logger.error("the engine core has been silent for %.0f s: killing it", self._since_heartbeat_s)
                self._client.child.kill()

    def _dispatch(self, message: EngineCoreOutputs | CoreHealth | OperationDone) -> None:
        if isinstance(message, OperationDone):
            self._operations.answer(message)
            return
        if isinstance(message, CoreHealth):
            self._core_ready, self._why_not_ready = message.ready, message.reason
            if not message.ready and not self._hold_calls:
                self._calls.fail_all(EngineDeadError(message.reason))
            return
        self.stats = message.stats or self.stats
        self.step_tokens = message.step_tokens or self.step_tokens
        for output in message.outputs:
            self._calls.deliver(output)

    async def run(self, request: EngineCoreRequest) -> AsyncGenerator[EngineCoreOutput, None]:
        """A call's answers as they come; the last one carries ``stats``. Leaving the iterator aborts the rest.

        Raises ``ShuttingDownError`` or ``EngineDeadError``, and the ``EngineError`` that ended the call.
        """
        if self._closing:
            raise ShuttingDownError("the server is shutting down")
        if self._lost.is_set():
            raise EngineDeadError("the engine core is gone and was restarted too often")
        call = self._calls.add(request)
        finished = False
        try:
            self._send(lambda client: client.submit(request))
            while not finished:
                output = await call.queue.get()
                if isinstance(output, EngineError):
                    finished = True
                    raise output
                finished = output.stats is not None
                yield output
        finally:
            following = self._calls.remove(request.call_id)
            if not finished:
                self._send(lambda client: client.abort(request.call_id))
            if following is not None:
                self._send(lambda client: client.submit(following))

    def _send(self, send: Callable[[MPClient], None]) -> None:
        """A core that is gone, or not yet back, gets its open calls when it is restarted."""
        if self.alive:
            with contextlib.suppress(ChannelClosedError):
                send(self._client)

    def _on_core_lost(self, client: MPClient, error: EngineDeadError) -> None:
        if client is not self._client or self._closing:
            return
        self.alive = self._core_ready = False
        self._operations.lose(EngineDeadError("the engine core ended before this was done", retry_after_s=5))
        if error.code == GAVE_UP or not self._restarts.spend():
            self._give_up(error)
            return
        if not self._hold_calls:
            self._calls.fail_all(error)
        self._calls.core_lost(client.child.exit_code)
        logger.error("%s; starting a new one, %d calls will be replayed", error, len(self._calls))
        config, spec, constant_prefix = self._arguments
        if config.device.executor == "uni":
            logger.warning("from now on the worker runs in a process of its own, so that its end is not the core's")
            self._arguments = (replace(config, device=replace(config.device, executor="mp")), spec, constant_prefix)
        self._restart = self._loop.create_task(self._restart_core())

    def _give_up(self, error: EngineError) -> None:
        logger.error("the engine core is lost for good: %s", error)
        self._calls.fail_all(error)
        self._lost.set()

    async def _restart_core(self) -> None:
        await self._stop_core()
        try:
            await self._start_core()
        except StartupError as error:
            self._give_up(EngineDeadError(f"the engine core could not be restarted: {error}"))
            return
        for request in self._operations.to_replay():
            self._client.operate(request)
        for call in self._calls.first_of_new_core():
            self._client.submit(call)

    async def _stop_core(self) -> None:
        self.alive = self._core_ready = False
        client = getattr(self, "_client", None)
        if client is None:
            return
        if self._loading:
            client.child.kill()  # it reads no messages yet, and has nothing to finish
            self._loading = False
        elif client.child.alive:
            with contextlib.suppress(ChannelClosedError):
                client.request_shutdown()
        await asyncio.to_thread(client.child.stop, CLOSE_TIMEOUT_S)
        if hasattr(self, "_receiver"):
            await asyncio.to_thread(self._receiver.join, CLOSE_TIMEOUT_S)
        client.child.release()
        client.channel.close()

    def reset_prefix_cache(self) -> None:
        """Drops the keys and values that are kept between calls; a core that is not there has none."""
        self._send(MPClient.reset_prefix_cache)

    async def operate(self, operation: Operation) -> None:
        """Has the core do an operation, and returns when it is done; cores that replace it do it again.

        Raises ``EngineError``; then nothing has changed.
        """
        if not self.alive or self._closing:
            raise EngineDeadError("the engine core is not there now", retry_after_s=5)
        try:
            await self._operations.ask(self._client.operate, operation)
        except ChannelClosedError as error:
            raise EngineDeadError("the engine core ended before this was done", retry_after_s=5) from error

    def undoing(self, name: str) -> Operation:
        """The operation that makes an adapter again what it is here now, after another replica has changed it."""
        return self._operations.undo(name, self._arguments[0].model.lora_modules)

    def kill(self) -> None:
        """End the core at once, and with it its workers; ``shutdown`` then has nothing to wait for."""
        self._closing = True
        self._calls.fail_all(ShuttingDownError("the server was stopped"))
        self._client.child.kill()

    async def shutdown(self, timeout_s: float) -> None:
        """Refuse new calls, give open ones ``timeout_s``, answer the rest with an error, end the core."""
        self._closing = True
        try:
            await asyncio.wait_for(self.idle.wait(), timeout_s)
        except TimeoutError:
            self._calls.fail_all(ShuttingDownError("the server shut down before this call was finished"))
        if self._watch is not None:
            self._watch.cancel()
        await self._stop_core()
