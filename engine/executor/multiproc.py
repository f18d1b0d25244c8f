"""Workers as processes, one a device. A worker that ends or hangs is replaced within a budget of restarts."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from concurrent.futures import Future

from engine.config import EngineConfig
from engine.errors import EngineDeadError, EngineError, ModelLoadError, from_wire
from engine.executor.base import GAVE_UP, RESTART_WINDOW_S, StepError
from engine.executor.worker_process import WorkerSetup
from engine.logs import current_format
from engine.messages import FromWorker, ShutdownRequest, StepRequest, StepResult, WorkerFailed, WorkerReady
from engine.model_spec import ModelSpec
from engine.process import Child
from engine.step import ModelRunnerOutput, SchedulerOutput, WorkerInfo
from engine.transport import Channel, ChannelClosedError

logger = logging.getLogger(__name__)
STOP_TIMEOUT_S = 5.0


class MultiprocExecutor:
    def __init__(self, config: EngineConfig, spec: ModelSpec) -> None:
        self._config = config
        self._spec = spec
        self._pending: deque[tuple[int, Future[ModelRunnerOutput]]] = deque()
        self._lock = threading.Lock()
        self._restarts: deque[float] = deque()
        self.num_restarts = 0
        self.info = self._start()

    def _start(self) -> WorkerInfo:
        self._channel: Channel[FromWorker] = Channel.listen(FromWorker)
        level = logging.getLevelName(logging.getLogger().getEffectiveLevel())
        rank, folder = self._config.device.first_rank, self._channel.folder
        setup = WorkerSetup(self._config, self._spec, rank, folder, level, current_format())
        self._child = Child("engine.executor.worker_process", setup)
        try:
            message = self._channel.recv(watch_fd=self._child.handle)
        except ChannelClosedError:
            code = self._child.stop(1.0)
            self._stop_child()
            raise ModelLoadError(f"the worker process ended with code {code} while loading the model") from None
        if isinstance(message, WorkerFailed):
            self._stop_child()
            raise from_wire(message.error.type, message.error.message)
        assert isinstance(message, WorkerReady)
        self._receiver = threading.Thread(target=self._receive, name="worker-results", daemon=True)
        self._receiver.start()
        return message.info

    def submit(self, plan: SchedulerOutput) -> Future[ModelRunnerOutput]:
        future: Future[ModelRunnerOutput] = Future()
        with self._lock:
            self._pending.append((plan.step_id, future))
        with contextlib.suppress(ChannelClosedError):  # the receiver notices, and fails what is pending
            self._channel.send(StepRequest(plan))
        if not self._receiver.is_alive():
            self._fail_pending(self._lost())
        return future

    def _receive(self) -> None:
        channel, child = self._channel, self._child
        while True:
            try:
                message = channel.recv(watch_fd=child.handle)
            except ChannelClosedError:
                self._fail_pending(self._lost())
                return
            if isinstance(message, StepResult):
                future = self._take(message.output.step_id)
                if future is not None:
                    future.set_result(message.output)
            elif isinstance(message, WorkerFailed):
                error = from_wire(message.error.type, message.error.message)
                future = self._take(message.step_id)
                if future is not None:
                    future.set_exception(StepError(error, out_of_memory=message.out_of_memory))

    def _take(self, step_id: int) -> Future[ModelRunnerOutput] | None:
        """The future of this step. Steps come back in order: one that is missing was lost, and its worker with it."""
        with self._lock:
            if self._pending and self._pending[0][0] == step_id:
                return self._pending.popleft()[1]
        logger.error("the worker answered step %d out of turn: killing it (pid %d)", step_id, self._child.pid)
        self._child.kill()
        return None

    def _lost(self) -> StepError:
        code = self._child.exit_code
        return StepError(EngineDeadError(f"the worker process ended (exit code {code})"), worker_lost=True)

    def _fail_pending(self, failure: StepError) -> None:
        with self._lock:
            lost, self._pending = self._pending, deque()
        for _, future in lost:
            future.set_exception(failure)

    def kill_hung(self) -> bool:
        logger.error("the worker makes no progress: killing it (pid %d)", self._child.pid)
        self._child.kill()
        return True

    def recover(self, failure: StepError) -> None:
        if not failure.worker_lost:
            return
        self._charge(failure)
        self.num_restarts += 1
        self._stop_child()
        logger.warning("restarting the worker (%s)", failure)
        try:
            self.info = self._start()
        except EngineError as error:
            raise EngineDeadError(f"the worker could not be restarted: {error}") from error

    def _charge(self, failure: StepError) -> None:
        """Count a loss against the restarts, unless a pair explains it: then the first one is forgiven as well."""
        if failure.verdict == "found" and self._restarts:
            self._restarts.pop()
        if failure.verdict != "unknown":
            return
        now = time.monotonic()
        while self._restarts and now - self._restarts[0] > RESTART_WINDOW_S:
            self._restarts.popleft()
        if len(self._restarts) >= self._config.device.max_worker_restarts:
            raise EngineDeadError(
                f"the worker died {len(self._restarts) + 1} times in {RESTART_WINDOW_S:.0f} s", code=GAVE_UP
            )
        self._restarts.append(now)

    def _stop_child(self) -> None:
        self._child.stop(STOP_TIMEOUT_S)
        if hasattr(self, "_receiver"):
            self._receiver.join(5.0)
        self._child.release()
        self._channel.close()

    def close(self) -> None:
        if self._child.alive:
            with contextlib.suppress(ChannelClosedError):
                self._channel.send(ShutdownRequest())
        self._stop_child()
