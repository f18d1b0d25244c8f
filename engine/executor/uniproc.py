"""The worker in this process, on threads of its own: one launches steps, one waits for their values.

So while a step runs on a device of its own, the next one is packed and launched, and the one after that is scheduled.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from engine.config import EngineConfig
from engine.errors import EngineDeadError, EngineError, StepFailedError
from engine.executor.base import StepError
from engine.executor.faults import FaultyWorker, with_faults
from engine.messages import AdapterChange
from engine.model_spec import ModelSpec
from engine.step import Blame, ModelRunnerOutput, SchedulerOutput


class UniprocExecutor:
    def __init__(self, config: EngineConfig, spec: ModelSpec) -> None:
        from engine.backends.worker import Worker

        def make_worker() -> Worker | FaultyWorker:
            return with_faults(Worker(config, spec, config.device.first_rank), config.device)

        self._make_worker = make_worker
        self._worker = make_worker()
        self._launcher = ThreadPoolExecutor(1, thread_name_prefix="worker")
        self._finisher = ThreadPoolExecutor(1, thread_name_prefix="worker-values")
        try:
            self.info = self._launcher.submit(self._worker.load).result()
        except BaseException:
            self.close()
            raise

    def submit(self, scheduler_output: SchedulerOutput) -> Future[ModelRunnerOutput]:
        launched = self._launcher.submit(self._worker.launch, scheduler_output)
        return self._finisher.submit(self._finish, launched)

    def _finish(self, launched: Future[Callable[[], ModelRunnerOutput]]) -> ModelRunnerOutput:
        from engine.backends.base import OutOfMemory

        try:
            return launched.result()()
        except OutOfMemory as error:
            raise StepError(StepFailedError(str(error)), out_of_memory=True) from error
        except EngineError as error:
            raise StepError(error) from error
        except Exception as error:
            # Whatever a kernel raises ends in a typed answer for the pairs of the step; the cause is kept.
            failure = StepFailedError(f"{type(error).__name__}: {error}")
            raise StepError(failure, worker_lost=self._worker.is_lost(error)) from error

    def kill_hung(self) -> bool:
        return False

    def recover(self, failure: StepError, blame: Blame) -> None:
        """A thread is never lost, and the worker overwrites its keys and values: nothing to do, if the device lives.

        Raises ``EngineDeadError`` if it does not.
        """
        if failure.worker_lost:
            raise EngineDeadError(f"the device cannot be used any more by this process: {failure}; start it again")

    def change_adapters(self, change: AdapterChange) -> Future[None]:
        return self._launcher.submit(self._worker.change_adapters, change)

    def sleep(self) -> None:
        self._launcher.submit(self._worker.close).result()

    def wake_up(self) -> None:
        self._worker = self._make_worker()
        self.info = self._launcher.submit(self._worker.load).result()

    def close(self) -> None:
        for threads in (self._launcher, self._finisher):
            threads.shutdown(wait=True, cancel_futures=True)
        self._worker.close()
