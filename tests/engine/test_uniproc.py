"""The in-process executor: steps in order, failures typed, and a lost device said so instead of tried again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from engine.backends import worker as worker_module
from engine.backends.base import OutOfMemory
from engine.config import EngineConfig
from engine.errors import EngineDeadError
from engine.executor import StepError
from engine.executor.uniproc import UniprocExecutor
from engine.step import ModelRunnerOutput, SchedulerOutput, WorkerInfo
from tests.support.fake_worker import fake_info


class DeviceFault(RuntimeError):
    pass


class FakeWorker:
    """Launches at once; values wait for ``gate``. ``failures`` by step id, at launch or when values are fetched."""

    def __init__(self, config: object, spec: object, rank: int) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.launched: list[int] = []
        self.failures: dict[int, tuple[str, Exception]] = {}

    def load(self) -> WorkerInfo:
        return fake_info()

    def launch(self, plan: SchedulerOutput) -> Callable[[], ModelRunnerOutput]:
        self.launched.append(plan.step_id)
        when, error = self.failures.get(plan.step_id, ("", Exception()))
        if when == "launch":
            raise error

        def finish() -> ModelRunnerOutput:
            assert self.gate.wait(10)
            if when == "fetch":
                raise error
            return ModelRunnerOutput(plan.step_id, np.zeros((0, 1), np.float32))

        return finish

    def is_lost(self, error: BaseException) -> bool:
        return isinstance(error, DeviceFault)

    def close(self) -> None:
        pass


def plan(step_id: int) -> SchedulerOutput:
    nothing = np.zeros(0, np.int32)
    return SchedulerOutput(step_id, nothing, nothing, nothing, nothing, nothing, nothing, nothing)


@pytest.fixture
def executor(monkeypatch: pytest.MonkeyPatch) -> Iterator[UniprocExecutor]:
    monkeypatch.setattr(worker_module, "Worker", FakeWorker)
    executor = UniprocExecutor(EngineConfig(), None)  # type: ignore[arg-type]
    yield executor
    executor.close()


def fake(executor: UniprocExecutor) -> FakeWorker:
    assert isinstance(executor._worker, FakeWorker)
    return executor._worker


def test_the_next_step_is_launched_while_one_runs(executor: UniprocExecutor) -> None:
    fake(executor).gate.clear()
    first, second = executor.submit(plan(0)), executor.submit(plan(1))
    executor._launcher.submit(lambda: None).result(10)
    assert fake(executor).launched == [0, 1]
    assert not first.done()
    fake(executor).gate.set()
    assert [first.result(10).step_id, second.result(10).step_id] == [0, 1]


@pytest.mark.parametrize("when", ["launch", "fetch"])
def test_out_of_memory_is_told_apart(executor: UniprocExecutor, when: str) -> None:
    fake(executor).failures[0] = (when, OutOfMemory("too large"))
    with pytest.raises(StepError) as caught:
        executor.submit(plan(0)).result(10)
    assert caught.value.out_of_memory
    assert not caught.value.worker_lost
    executor.recover(caught.value, "unknown")
    assert executor.submit(plan(1)).result(10).step_id == 1


@pytest.mark.parametrize("when", ["launch", "fetch"])
def test_a_lost_device_cannot_be_recovered_in_this_process(executor: UniprocExecutor, when: str) -> None:
    fake(executor).failures[0] = (when, DeviceFault("an illegal memory access"))
    with pytest.raises(StepError, match="illegal memory access") as caught:
        executor.submit(plan(0)).result(10)
    assert caught.value.worker_lost
    with pytest.raises(EngineDeadError, match="the device cannot be used any more by this process"):
        executor.recover(caught.value, "unknown")
