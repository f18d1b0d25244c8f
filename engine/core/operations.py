"""What callers may change while the engine runs: its LoRA adapters, and whether its weights are in memory.

``Operations`` is the core's side. Operations are done one after the other, each between two steps, and only once no
call in flight needs what it changes: calls on an adapter that is being replaced wait until it has been, and a model
falls asleep when it has nothing left to do. What was done is done again for a worker that replaces a lost one.

``AskedOperations`` is the front end's side: it waits for the answers, and has a core that replaces a lost one do again
what the lost one had done.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from itertools import count

from engine.errors import DeviceError, EngineDeadError, EngineError, NotFoundError, NotReadyError
from engine.executor import Executor
from engine.messages import (
    AdapterChange,
    EngineCoreRequest,
    LoadAdapter,
    Operation,
    OperationDone,
    OperationRequest,
    Sleep,
    UnloadAdapter,
    WakeUp,
    WireError,
)
from engine.scheduling.scheduler import Scheduler

logger = logging.getLogger(__name__)
RESTORE_TIMEOUT_S = 120.0
"""For a new worker to load one adapter."""
ASLEEP = "The model sleeps, and has given its memory back: call the route wake_up (POST) first."


class Operations:
    """Driven by the thread that drives the core."""

    def __init__(
        self,
        executor: Executor,
        scheduler: Scheduler,
        adapters: Mapping[str, str],
        on_health: Callable[[bool, str], None],
    ) -> None:
        """``adapters``: name and folder of those that every worker loads when it starts."""
        self._executor, self._scheduler, self._on_health = executor, scheduler, on_health
        self._first = frozenset(adapters)
        self._adapters = {name: LoadAdapter(name, folder, "") for name, folder in adapters.items()}
        self._waiting: deque[OperationRequest] = deque()
        self._running: tuple[OperationRequest, Future[None]] | None = None
        self._held: list[EngineCoreRequest] = []
        """Calls on adapters that are about to change."""
        self._done: list[OperationDone] = []
        self._asleep = False

    # -- calls --------------------------------------------------------------------------------------------------------

    def refusal(self, call: EngineCoreRequest) -> EngineError | None:
        """Why a call cannot be scored now; None where it can, or will be."""
        if self._asleep:
            return NotReadyError(ASLEEP, retry_after_s=5)
        name = call.adapter
        if name is None or name in self._adapters or self._is_changing(name):
            return None
        return NotFoundError(f"the adapter {name!r} is not loaded", param="model", code="model_not_found")

    def hold(self, call: EngineCoreRequest) -> bool:
        """Whether the call has to wait for a change of its adapter; ``poll`` returns it then."""
        if call.adapter is None or not self._is_changing(call.adapter):
            return False
        self._held.append(call)
        return True

    def forget(self, call_id: str) -> None:
        """A call that may be held was given up."""
        self._held = [call for call in self._held if call.call_id != call_id]

    # -- operations ---------------------------------------------------------------------------------------------------

    @property
    def pending(self) -> bool:
        return bool(self._waiting or self._running or self._held)

    def ask(self, request: OperationRequest) -> None:
        self._waiting.append(request)

    def take_done(self) -> list[OperationDone]:
        """Answers, each once."""
        done, self._done = self._done, []
        return done

    def poll(self, on_done: Callable[[], None] | None) -> list[EngineCoreRequest]:
        """Goes on as far as possible; returns calls that had to wait, and may be scored or refused now."""
        if self._running is not None and self._running[1].done():
            self._finish(*self._running)
            self._running = None
        while self._running is None and self._waiting and self._may_start(self._waiting[0].operation):
            self._start(self._waiting.popleft(), on_done)
        if not self._held:
            return []
        freed = [call for call in self._held if not self._is_changing(call.adapter)]
        self._held = [call for call in self._held if self._is_changing(call.adapter)]
        return freed

    def restore(self) -> None:
        """The workers are new: they get the adapters that the old ones had. One that cannot be loaded any more is
        dropped, and costs the others nothing."""
        changes: list[AdapterChange] = [UnloadAdapter(name) for name in self._first if name not in self._adapters]
        changes += [adapter for adapter in self._adapters.values() if adapter.fingerprint]
        for change in changes:
            try:
                self._executor.change_adapters(change).result(RESTORE_TIMEOUT_S)
            except (EngineDeadError, TimeoutError):
                logger.warning("the worker was lost again while it loaded the adapter %r", change.name)
                return
            except EngineError as error:
                logger.error("the adapter %r is no longer served: %s", change.name, error)
                self._adapters.pop(change.name, None)

    def _is_changing(self, name: str | None) -> bool:
        requests = [*self._waiting, *([self._running[0]] if self._running else [])]
        return any(
            isinstance(one.operation, LoadAdapter | UnloadAdapter) and one.operation.name == name for one in requests
        )

    def _may_start(self, operation: Operation) -> bool:
        if isinstance(operation, Sleep):
            return not self._scheduler.has_work
        return isinstance(operation, WakeUp) or not self._scheduler.uses_adapter(operation.name)

    def _start(self, request: OperationRequest, on_done: Callable[[], None] | None) -> None:
        error: EngineError | None = None
        match request.operation:
            case LoadAdapter() if self._asleep:
                error = NotReadyError(ASLEEP, retry_after_s=5)
            case UnloadAdapter(name) if self._asleep:
                self._adapters.pop(name, None)
            case LoadAdapter() | UnloadAdapter() as change:
                future = self._executor.change_adapters(change)
                self._running = request, future
                if on_done is not None:
                    future.add_done_callback(lambda _: on_done())
                return
            case Sleep():
                self._sleep()
            case WakeUp():
                error = self._wake_up()
        self._answer(request, error)

    def _finish(self, request: OperationRequest, future: Future[None]) -> None:
        operation = request.operation
        assert isinstance(operation, LoadAdapter | UnloadAdapter)
        error = future.exception()
        if error is None:
            self._adapters.pop(operation.name, None)
            if isinstance(operation, LoadAdapter):
                self._adapters[operation.name] = operation
            self._scheduler.drop_queries()  # their keys were computed with what the name meant before
            self._answer(request, None)
            return
        # Of several workers, some may have made the change.
        self._executor.change_adapters(self._adapters.get(operation.name) or UnloadAdapter(operation.name))
        if not isinstance(error, EngineError):
            logger.error("an adapter could not be changed", exc_info=error)
            error = EngineError(f"{type(error).__name__}: {error}")
        self._answer(request, error)

    def _answer(self, request: OperationRequest, error: EngineError | None) -> None:
        self._done.append(OperationDone(request.number, None if error is None else WireError.of(error)))

    def _sleep(self) -> None:
        if not self._asleep:
            self._asleep = True
            self._on_health(False, "the model sleeps")
            self._executor.sleep()

    def _wake_up(self) -> EngineError | None:
        """What stopped it; then the model sleeps on."""
        if not self._asleep:
            return None
        room = self._executor.info.kv_capacity
        try:
            self._executor.wake_up()
            if self._executor.info.kv_capacity < room:
                self._executor.sleep()
                return DeviceError(
                    f"the device has room for {self._executor.info.kv_capacity} tokens of keys and values beside the "
                    f"weights, and had room for {room}: something else took its memory meanwhile"
                )
        except EngineError as error:
            return error
        self._scheduler.forget_kv()
        self._asleep = False
        self.restore()
        self._on_health(True, "the model is awake")
        return None


class AskedOperations:
    """Operations that a front end has asked one core for. Belongs to the loop of the front end."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._open: dict[int, asyncio.Future[None]] = {}
        self._lasting: dict[str, Operation] = {}
        """The last operation on each adapter, by its name, and that the model was put to sleep, under ""."""

    async def ask(self, send: Callable[[OperationRequest], None], operation: Operation) -> None:
        """Sends it, and returns when it is done. Raises ``EngineError``."""
        number = next(self._numbers)
        self._open[number] = done = asyncio.get_running_loop().create_future()
        try:
            send(OperationRequest(number, operation))
            await done
        finally:
            del self._open[number]
        if isinstance(operation, WakeUp):
            self._lasting.pop("", None)
        else:
            self._lasting["" if isinstance(operation, Sleep) else operation.name] = operation

    def answer(self, done: OperationDone) -> None:
        """The core has answered."""
        future = self._open.get(done.number)
        error = None if done.error is None else done.error.rebuilt()
        if future is None or future.done():
            if error is not None:
                logger.error("the new core could not do again what the old one had done: %s", error)
        elif error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

    def lose(self, error: EngineError) -> None:
        """The core is gone: nobody answers what it was asked for."""
        for future in self._open.values():
            if not future.done():
                future.set_exception(error)

    def to_replay(self) -> Iterator[OperationRequest]:
        """The operations after which a new core is as the old one was."""
        yield from (OperationRequest(0, operation) for operation in self._lasting.values())

    def undo(self, name: str, at_start: Mapping[str, str]) -> Operation:
        """The operation that takes back one on an adapter that is not done: see ``ReplicaClient.operate``."""
        before = self._lasting.get(name)
        if before is None and name in at_start:
            return LoadAdapter(name, at_start[name], "")
        return before or UnloadAdapter(name)
