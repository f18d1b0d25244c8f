"""A worker as a process of its own: receives steps, runs them in order, sends results. ``python -m`` entry point.

One thread launches steps and one waits for their values and sends them, so the next step is packed while one runs.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import msgspec

from engine import garbage_collector, logs
from engine.config import EngineConfig
from engine.errors import EngineError, ModelLoadError, StepFailedError
from engine.executor.faults import AnswerDropped, FaultyWorker, with_faults
from engine.ipc.channel import Address, Channel
from engine.ipc.child_process import receive_setup
from engine.messages import (
    AdapterChange,
    OperationDone,
    OperationRequest,
    ShutdownRequest,
    StepRequest,
    StepResult,
    ToWorker,
    WireError,
    WorkerFailed,
    WorkerReady,
)
from engine.model_spec import ModelSpec
from engine.step import ModelRunnerOutput, SchedulerOutput, TPRank

if TYPE_CHECKING:
    from engine.backends.worker import Worker

logger = logging.getLogger(__name__)
WORKER_MODULE = "engine.executor.worker_process"
DEVICE_LOST = 70
"""Exit code: the device can no longer be used by this process. Whoever started it starts another."""


class WorkerSetup(msgspec.Struct):
    config: EngineConfig
    spec: ModelSpec
    rank: int
    tp_rank: TPRank
    folder: str
    log_level: str
    log_format: str
    address: Address | None = None
    """Of the executor where it is on another host; else ``folder`` has the sockets."""


def main() -> None:
    garbage_collector.pause()
    setup = receive_setup(WorkerSetup)
    logs.set_up(setup.log_level, setup.log_format, f"worker{setup.rank}")
    channel: Channel[ToWorker] = (
        Channel.connect_to(setup.address, ToWorker) if setup.address else Channel.connect(setup.folder, ToWorker)
    )
    try:
        _serve(channel, setup)
    finally:
        channel.close()


def _serve(channel: Channel[ToWorker], setup: WorkerSetup) -> None:
    from engine.backends.worker import Worker

    worker = with_faults(Worker(setup.config, setup.spec, setup.rank, setup.tp_rank), setup.config.device)
    try:
        info = worker.load()
        garbage_collector.resume()
        channel.send(WorkerReady(info))
    except EngineError as error:
        channel.send(WorkerFailed(-1, WireError.of(error)))
        return
    except Exception as error:
        if worker.is_lost(error):
            logger.exception("the device was lost while the model was loaded")
            os._exit(DEVICE_LOST)
        raise
    with ThreadPoolExecutor(1, thread_name_prefix="results") as sender:
        while True:
            message = channel.recv()
            if isinstance(message, ShutdownRequest):
                break
            if isinstance(message, OperationRequest):
                sender.submit(channel.send, _change_adapters(worker, message))
                continue
            assert isinstance(message, StepRequest)
            step_id, launched = message.scheduler_output.step_id, _launch(worker, message.scheduler_output)
            sender.submit(_finish_and_send, channel, worker, setup.tp_rank, step_id, launched)
    worker.close()


def _change_adapters(worker: Worker | FaultyWorker, message: OperationRequest) -> OperationDone:
    change = message.operation
    assert isinstance(change, AdapterChange)
    try:
        worker.change_adapters(change)
    except EngineError as error:
        return OperationDone(message.number, WireError.of(error))
    except Exception as error:
        # A file may be wrong in ways that nobody thought of; the worker still has what it had.
        logger.exception("an adapter could not be loaded")
        return OperationDone(message.number, WireError.of(ModelLoadError(f"{type(error).__name__}: {error}")))
    return OperationDone(message.number)


def _launch(worker: Worker | FaultyWorker, scheduler_output: SchedulerOutput) -> Callable[[], ModelRunnerOutput]:
    """A failed launch is reported where the step's values would be: results keep the order of the steps."""
    try:
        return worker.launch(scheduler_output)
    except Exception as error:
        failure = error

        def fail() -> ModelRunnerOutput:
            raise failure

        return fail


def _finish_and_send(
    channel: Channel[ToWorker],
    worker: Worker | FaultyWorker,
    tp_rank: TPRank,
    step_id: int,
    launched: Callable[[], ModelRunnerOutput],
) -> None:
    with contextlib.suppress(AnswerDropped):
        result = _finish(worker, step_id, launched)
        if tp_rank.index == 0 or isinstance(result, WorkerFailed):
            channel.send(result)


def _finish(
    worker: Worker | FaultyWorker, step_id: int, launched: Callable[[], ModelRunnerOutput]
) -> StepResult | WorkerFailed:
    from engine.backends.base import OutOfMemory

    try:
        return StepResult(launched())
    except OutOfMemory as error:
        return WorkerFailed(step_id, WireError.of(StepFailedError(str(error))), True)
    except AnswerDropped:
        raise
    except Exception as error:
        # Anything a kernel raises becomes the answer for this step; the worker goes on, unless its device is gone.
        logger.exception("step %d failed", step_id)
        if worker.is_lost(error):
            os._exit(DEVICE_LOST)
        return WorkerFailed(step_id, WireError.of(StepFailedError(f"{type(error).__name__}: {error}")))


if __name__ == "__main__":
    main()
