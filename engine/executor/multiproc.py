"""Workers as processes, one a device. When one ends or hangs, all are replaced, within a budget of restarts.

Where the processes come from is one method, ``_start_workers``: here they are children of this process.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from itertools import count

import msgspec

from engine.config import EngineConfig
from engine.errors import EngineDeadError, EngineError
from engine.executor.base import GAVE_UP, StepError
from engine.executor.rank_process import RankProcess, WorkerChild
from engine.executor.worker_process import DEVICE_LOST, WORKER_MODULE, WorkerSetup
from engine.ipc.channel import Address, Channel, ChannelClosedError
from engine.ipc.child_process import Child
from engine.ipc.restart_budget import RESTART_WINDOW_S, RestartBudget
from engine.logs import current_format
from engine.messages import (
    AdapterChange,
    FromWorker,
    OperationDone,
    OperationRequest,
    ShutdownRequest,
    StepRequest,
    StepResult,
    WireError,
    WorkerFailed,
)
from engine.model_spec import ModelSpec
from engine.step import Blame, ModelRunnerOutput, SchedulerOutput, TPRank, WorkerInfo

logger = logging.getLogger(__name__)


class _Change:
    """A change of adapters that workers have been told of."""

    def __init__(self, num_workers: int) -> None:
        self.future: Future[None] = Future()
        self._num_left = num_workers
        self._error: EngineError | None = None

    def done(self, error: WireError | None) -> bool:
        """One worker has answered; returns whether all have."""
        self._num_left -= 1
        if error is not None and self._error is None:
            self._error = error.rebuilt()
        if self._num_left:
            return False
        if self._error is None:
            self.future.set_result(None)
        else:
            self.future.set_exception(self._error)
        return True


class MultiprocExecutor:
    def __init__(self, config: EngineConfig, spec: ModelSpec) -> None:
        self._config = config
        self._spec = spec
        self._pending: deque[tuple[int, Future[ModelRunnerOutput]]] = deque()
        self._changes: dict[int, _Change] = {}
        self._numbers = count()
        self._lock = threading.Lock()
        self._restarts = RestartBudget(config.device.max_worker_restarts)
        self.num_restarts = 0
        self._size = config.device.tensor_parallel_size
        self._closing = False
        self.info = self._start()

    def _start(self) -> WorkerInfo:
        """All workers at once, anew if one lost its device, as often as the budget of restarts allows.

        Raises what stopped the first one that failed.
        """
        while True:
            failure = self._start_all()
            if failure is None:
                if self._size == 1:  # else the workers still have their rendezvous file there
                    self._ranks[0].channel.hide()
                return _together([rank.ready.result() for rank in self._ranks])
            was_lost = any(rank.child.exit_code == DEVICE_LOST for rank in self._ranks)
            self._stop_ranks(kill=self._size > 1)
            if not (was_lost and self._restarts.spend()):
                raise failure
            self.num_restarts += 1
            logger.warning("a worker lost its device while it loaded the model: starting it again (%s)", failure)

    def _start_all(self) -> BaseException | None:
        """Wait until all workers are ready, or one has failed: then what stopped it."""
        self._loss: StepError | None = None
        self._ranks: list[RankProcess] = []
        for index, (child, channel) in enumerate(self._start_workers()):
            name = "the worker process" if self._size == 1 else f"the process of worker {index}"
            rank = RankProcess(index, name, child, channel, self._take_message, self._on_end)
            self._ranks.append(rank)
        done, _ = wait([rank.ready for rank in self._ranks], return_when=FIRST_EXCEPTION)
        return next((error for ready in done if (error := ready.exception()) is not None), None)

    def _start_workers(self) -> Iterator[tuple[WorkerChild, Channel[FromWorker]]]:
        """One after the other, without waiting for them."""
        rendezvous_file = ""
        for index in range(self._size):
            channel: Channel[FromWorker] = Channel.listen(FromWorker)
            if self._size > 1:
                rendezvous_file = rendezvous_file or f"{channel.folder}/rendezvous"
            tp_rank = TPRank(index, self._size, rendezvous_file)
            setup = self._setup(self._config.device.first_rank + index, tp_rank, channel.folder)
            yield Child(WORKER_MODULE, setup), channel

    def _setup(self, rank: int, tp_rank: TPRank, folder: str, address: Address | None = None) -> WorkerSetup:
        level = logging.getLevelName(logging.getLogger().getEffectiveLevel())
        return WorkerSetup(self._config, self._spec, rank, tp_rank, folder, level, current_format(), address)

    def submit(self, scheduler_output: SchedulerOutput) -> Future[ModelRunnerOutput]:
        future: Future[ModelRunnerOutput] = Future()
        with self._lock:
            self._pending.append((scheduler_output.step_id, future))
        self._send(StepRequest(scheduler_output))
        return future

    def change_adapters(self, change: AdapterChange) -> Future[None]:
        number = next(self._numbers)
        with self._lock:
            self._changes[number] = told = _Change(self._size)
        self._send(OperationRequest(number, change))
        return told.future

    def _send(self, message: StepRequest | OperationRequest) -> None:
        for rank in self._ranks:
            with contextlib.suppress(ChannelClosedError):  # its receiver notices, and fails what is pending
                rank.channel.send(message)
        if self._loss is not None:
            self._fail_pending(self._loss)

    def _take_message(self, message: StepResult | WorkerFailed | OperationDone) -> None:
        if isinstance(message, OperationDone):
            with self._lock:
                told = self._changes.get(message.number)
                if told is not None and told.done(message.error):
                    del self._changes[message.number]
            return
        if isinstance(message, StepResult):
            future = self._take(message.output.step_id)
            if future is not None:
                future.set_result(message.output)
            return
        error = message.error.rebuilt()
        if self._size > 1:  # the others may wait for it inside the step for ever
            self._lose(StepError(error, out_of_memory=message.out_of_memory, worker_lost=True))
            return
        future = self._take(message.step_id)
        if future is not None:
            future.set_exception(StepError(error, out_of_memory=message.out_of_memory))

    def _take(self, step_id: int) -> Future[ModelRunnerOutput] | None:
        """The future of this step. Steps come back in order: one that is missing was lost, and its worker with it."""
        with self._lock:
            if self._pending and self._pending[0][0] == step_id:
                return self._pending.popleft()[1]
        logger.error("the worker answered step %d out of turn: killing it (pid %d)", step_id, self._ranks[0].child.pid)
        self._kill()
        return None

    def _on_end(self, rank: RankProcess) -> None:
        error = EngineDeadError(f"{rank.name} ended (exit code {rank.child.exit_code})")
        self._lose(StepError(error, worker_lost=True))

    def _lose(self, failure: StepError) -> None:
        """One worker is gone or out of step: end the others, which may be waiting for it, and fail what is pending."""
        with self._lock:
            is_first = self._loss is None
            if is_first:
                self._loss = failure
        if is_first:
            if not self._closing:
                self._kill()
            self._fail_pending(failure)

    def _kill(self) -> None:
        for rank in self._ranks:
            rank.child.kill()

    def _fail_pending(self, failure: StepError) -> None:
        with self._lock:
            lost, self._pending = self._pending, deque()
            changes, self._changes = self._changes, {}
        for _, future in lost:
            future.set_exception(failure)
        for told in changes.values():
            told.future.set_exception(EngineDeadError(str(failure), retry_after_s=5))

    def kill_hung(self) -> bool:
        pids = ", ".join(str(rank.child.pid) for rank in self._ranks)
        logger.error("the worker makes no progress: killing it (pid %s)", pids)
        self._kill()
        return True

    def recover(self, failure: StepError, blame: Blame) -> None:
        """Start another worker. Raises ``EngineDeadError`` where it does not start, or died too often."""
        if not failure.worker_lost:
            return
        self._charge(failure, blame)
        self.num_restarts += 1
        self._stop_ranks(kill=True)
        logger.warning("restarting the worker (%s)", failure)
        try:
            self.info = self._start()
        except EngineError as error:
            raise EngineDeadError(f"the worker could not be restarted: {error}") from error

    def _charge(self, failure: StepError, blame: Blame) -> None:
        """Count a loss against the restarts, unless a pair explains it: then the first one is forgiven as well."""
        if blame == "found":
            self._restarts.refund()
        if blame != "unknown" or failure.out_of_memory:  # the next steps are smaller
            return
        if not self._restarts.spend():
            limit = self._config.device.max_worker_restarts
            raise EngineDeadError(f"the worker died {limit + 1} times in {RESTART_WINDOW_S:.0f} s", code=GAVE_UP)

    def _stop_ranks(self, *, kill: bool = False) -> None:
        if kill:
            self._kill()
        for rank in self._ranks:
            rank.stop()
        self._ranks = []

    def sleep(self) -> None:
        self._end_workers()

    def wake_up(self) -> None:
        self._closing = False
        self.info = self._start()

    def close(self) -> None:
        self._end_workers()

    def _end_workers(self) -> None:
        self._closing = True
        for rank in self._ranks:
            if rank.child.alive:
                with contextlib.suppress(ChannelClosedError):
                    rank.channel.send(ShutdownRequest())
        self._stop_ranks()


def _together(infos: list[WorkerInfo]) -> WorkerInfo:
    """The workers of a group described as one: memory is summed up, and the slowest load counts."""
    return msgspec.structs.replace(
        infos[0],
        device=" + ".join(info.device for info in infos),
        weight_bytes=sum(info.weight_bytes for info in infos),
        peak_memory_bytes=sum(info.peak_memory_bytes for info in infos),
        load_s=max(info.load_s for info in infos),
    )
