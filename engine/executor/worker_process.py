"""A worker as a process of its own: receives steps, runs them in order, sends results. ``python -m`` entry point."""

from __future__ import annotations

import logging

import msgspec

from engine.config import EngineConfig
from engine.errors import EngineError, StepFailedError
from engine.messages import ShutdownRequest, StepRequest, StepResult, ToWorker, WireError, WorkerFailed, WorkerReady
from engine.model_spec import ModelSpec
from engine.process import receive_setup
from engine.transport import Channel

logger = logging.getLogger(__name__)


class WorkerSetup(msgspec.Struct):
    config: EngineConfig
    spec: ModelSpec
    rank: int
    folder: str
    log_level: str


def main() -> None:
    setup = receive_setup(WorkerSetup)
    logging.basicConfig(level=setup.log_level, format=f"%(asctime)s worker{setup.rank} %(levelname)s %(message)s")
    channel: Channel[ToWorker] = Channel.connect(setup.folder, ToWorker)
    try:
        _serve(channel, setup)
    finally:
        channel.close()


def _serve(channel: Channel[ToWorker], setup: WorkerSetup) -> None:
    from engine.backends.worker import Worker

    worker = Worker(setup.config, setup.spec, setup.rank)
    try:
        channel.send(WorkerReady(worker.load()))
    except EngineError as error:
        channel.send(WorkerFailed(-1, WireError(error.type, str(error))))
        return
    while True:
        message = channel.recv()
        if isinstance(message, ShutdownRequest):
            worker.close()
            return
        assert isinstance(message, StepRequest)
        channel.send(_execute(worker, message))


def _execute(worker: object, request: StepRequest) -> StepResult | WorkerFailed:
    from engine.backends.base import OutOfMemory
    from engine.backends.worker import Worker

    assert isinstance(worker, Worker)
    step_id = request.plan.step_id
    try:
        return StepResult(worker.execute(request.plan))
    except OutOfMemory as error:
        return WorkerFailed(step_id, WireError(StepFailedError.type, str(error)), True)
    except Exception as error:
        # Anything a kernel raises becomes the answer for this step; the worker goes on.
        logger.exception("step %d failed", step_id)
        return WorkerFailed(step_id, WireError(StepFailedError.type, f"{type(error).__name__}: {error}"))


if __name__ == "__main__":
    main()
