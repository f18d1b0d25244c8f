"""The worker in this process, on one thread of its own: while it computes, the next step is planned."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from engine.config import EngineConfig
from engine.errors import EngineError, StepFailedError
from engine.executor.base import StepError
from engine.model_spec import ModelSpec
from engine.step import ModelRunnerOutput, SchedulerOutput


class UniprocExecutor:
    def __init__(self, config: EngineConfig, spec: ModelSpec) -> None:
        from engine.backends.worker import Worker

        self._worker = Worker(config, spec)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="worker")
        try:
            self.info = self._thread.submit(self._worker.load).result()
        except BaseException:
            self.close()
            raise

    def submit(self, plan: SchedulerOutput) -> Future[ModelRunnerOutput]:
        return self._thread.submit(self._execute, plan)

    def _execute(self, plan: SchedulerOutput) -> ModelRunnerOutput:
        from engine.backends.base import OutOfMemory

        try:
            return self._worker.execute(plan)
        except OutOfMemory as error:
            raise StepError(StepFailedError(str(error)), out_of_memory=True) from error
        except EngineError as error:
            raise StepError(error) from error
        except Exception as error:
            # Whatever a kernel raises ends in a typed answer for the pairs of the step; the cause is kept.
            raise StepError(StepFailedError(f"{type(error).__name__}: {error}")) from error

    def kill_hung(self) -> bool:
        return False

    def recover(self, failure: StepError) -> None:
        """A thread is never lost, and the worker overwrites its keys and values: nothing to do."""

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._worker.close()
