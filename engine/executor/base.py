"""The contract of an executor. Steps run in the order in which they were submitted.

**How workers are addressed.** A replica has ``tensor_parallel_size`` workers that compute every step together. Each is
told two things that have nothing to do with one another:

* ``rank``: the number of its device among those that its process sees, ``first_rank + index`` where it sees all of the
  host's, 0 where whoever placed it shows it one device only;
* ``tp_rank``: which share of the model it has, of how many, and the file through which the workers of the replica find
  each other (``step.TPRank``).

The same steps in the same order go to all of them. Worker 0 sends the results; the others send only failures. As they
wait for one another inside a step, any failure of one of them ends all: the executor kills the rest, starts the group
anew and the steps in flight are replayed. ``engine/executor/worker_process.py`` is such a worker for every executor
that has processes.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import Protocol

from engine.errors import EngineError
from engine.messages import AdapterChange
from engine.step import Blame, ModelRunnerOutput, SchedulerOutput, WorkerInfo

GAVE_UP = "gave_up"
"""``EngineDeadError.code``: whoever supervises the process that raised it need not start another."""


class StepError(Exception):
    """A step, and every step submitted after it, is lost; keys and values kept so far are not to be trusted."""

    def __init__(self, error: EngineError, *, out_of_memory: bool = False, worker_lost: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        self.out_of_memory = out_of_memory
        self.worker_lost = worker_lost


class Executor(Protocol):
    """Runs steps on the workers of one replica."""

    info: WorkerInfo
    """The workers, described as one."""

    def submit(self, scheduler_output: SchedulerOutput) -> Future[ModelRunnerOutput]:
        """Queue a step. The future fails with ``StepError``."""
        ...

    def kill_hung(self) -> bool:
        """The running step takes too long: end its worker, so that its future fails. False where that is impossible,
        and only the end of this process helps."""
        ...

    def recover(self, failure: StepError, blame: Blame) -> None:
        """Make the executor usable again after ``failure``; raises ``EngineError`` when it cannot.

        ``blame``: what the scheduler makes of it. A loss that a pair explains is not counted against the worker.
        """
        ...

    def change_adapters(self, change: AdapterChange) -> Future[None]:
        """Queue a change of LoRA adapters behind the steps. The future fails with ``EngineError``; then a worker may
        have made it nevertheless."""
        ...

    def sleep(self) -> None:
        """No step is queued: end the workers, and with them all that they hold on their devices."""
        ...

    def wake_up(self) -> None:
        """Start the workers again, without the adapters that were loaded meanwhile. Raises ``EngineError``; then it may
        be tried again."""
        ...

    def close(self) -> None:
        """End the workers."""
        ...
