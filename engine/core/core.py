"""The engine's heart: schedule, execute, update.

``EngineCore`` never blocks by itself. ``poll`` takes what the executor has finished, turns it into answers, and keeps
the pipeline full: while a step runs, the next one is scheduled and queued. Who drives it decides how to wait: the
in-process client waits on the running step, the core process on its inbox as well.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from engine.config import EngineConfig
from engine.core.known_pair import KnownPair
from engine.core.operations import Operations
from engine.core.pace import StepPace
from engine.errors import EngineDeadError, EngineError, StepFailedError
from engine.executor import Executor, StepError
from engine.messages import (
    CallStats,
    EngineCoreOutput,
    EngineCoreOutputs,
    EngineCoreRequest,
    SchedulerStats,
    WireError,
)
from engine.model_spec import ModelSpec
from engine.scheduling.answers import NO_PAIRS, NO_VALUES
from engine.scheduling.scheduler import Scheduler
from engine.step import Blame, ModelRunnerOutput, WorkerInfo

logger = logging.getLogger(__name__)
STALL_S = 5.0
STALL_FACTOR = 10
"""A step that takes so many times longer per token than the slowest one before, and this many seconds at least, is
reported as a stall. It is killed only after ``--step-timeout-s``."""


@dataclass(slots=True)
class _RunningStep:
    future: Future[ModelRunnerOutput]
    num_tokens: int
    submitted_s: float


class _BrokenWorkerError(StepError):
    """No step of this worker can be trusted: no pair is to blame, and the worker has to be replaced."""

    def __init__(self, what: str) -> None:
        super().__init__(EngineDeadError(f"the worker {what}"), worker_lost=True)


class EngineCore:
    """One scheduler and one executor. Not thread-safe: one thread drives it."""

    def __init__(
        self,
        config: EngineConfig,
        spec: ModelSpec,
        constant_prefix: np.ndarray,
        executor: Executor,
        clock: Callable[[], float] = time.monotonic,
        on_health: Callable[[bool, str], None] | None = None,
    ) -> None:
        self._config = config
        self._executor = executor
        self._clock = clock
        self._on_health = on_health or (lambda ready, reason: None)
        self.scheduler = Scheduler(
            config.scheduler, executor.info, constant_prefix, spec.causal, spec.max_model_len, clock
        )
        self.operations = Operations(executor, self.scheduler, config.model.lora_modules, self._on_health)
        self._refused: list[EngineCoreOutput] = []
        self._known_pair = KnownPair(config.scheduler, executor.info)
        self._failed_in_a_row = 0
        """Steps that failed since one succeeded, or since the worker was last seen to be well."""
        self._running: deque[_RunningStep] = deque()
        self._num_restarts = 0
        self._last_done_s = clock()
        self._pace = StepPace()
        self._slowest_token_s = 0.0
        self._stalled = False

    @property
    def info(self) -> WorkerInfo:
        return self._executor.info

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work or self.operations.pending

    def add(self, request: EngineCoreRequest) -> None:
        error = self.operations.refusal(request)
        if error is not None:
            self._refused.append(_refused(request, error))
        elif not self.operations.hold(request):
            self._known_pair.add(request)
            self.scheduler.add(request)

    def abort(self, call_id: str) -> None:
        self.operations.forget(call_id)
        self.scheduler.abort(call_id)

    def poll(self, on_done: Callable[[], None] | None = None) -> EngineCoreOutputs:
        """Collect finished steps, refill the pipeline; ``on_done`` is called when a step submitted here ends."""
        for call in self.operations.poll(on_done):
            self.add(call)
        result = EngineCoreOutputs(outputs=self.scheduler.expire() + self._refused)
        self._refused = []
        self._fill(result, on_done)
        while self._running and self._running[0].future.done():
            self._collect(self._running.popleft(), result)
            self._fill(result, on_done)
        self._check_progress()
        result.outputs += self.scheduler.take_unplannable()
        if result.outputs:
            result.stats = self.stats()
        return result

    @property
    def plan_in_s(self) -> float | None:
        """Seconds until ``poll`` would plan another step beside the running one; None: not before that has ended."""
        early_s = self._too_early_s() if len(self._running) < self._depth and self.scheduler.has_waiting else 0.0
        return early_s or None

    def wait(self, timeout_s: float | None) -> None:
        """Waits until the running step is done, or another one should be planned; returns at once when none runs."""
        if self._running:
            limits = [limit for limit in (timeout_s, self.plan_in_s) if limit is not None]
            try:
                self._running[0].future.exception(min(limits, default=None))
            except TimeoutError:
                return

    @property
    def _depth(self) -> int:
        # An answer on its way is lost with its worker. While a culprit is looked for, it must not be mistaken for one.
        return 1 if self.scheduler.has_suspects else self._config.scheduler.pipeline_depth

    def _too_early_s(self) -> float:
        """Seconds that another step should not be planned for yet, since the device has enough to do."""
        if not self._running:
            return 0.0
        return self._pace.too_early_s(sum(step.num_tokens for step in self._running), self._age(self._running[0]))

    def _fill(self, result: EngineCoreOutputs, on_done: Callable[[], None] | None) -> None:
        while len(self._running) < self._depth and not self._too_early_s():
            try:
                scheduler_output = self.scheduler.schedule()
            except Exception as error:
                self._replan(error, result)
                return
            if scheduler_output is None:
                return
            future = self._executor.submit(scheduler_output)
            self._running.append(_RunningStep(future, scheduler_output.num_tokens, self._clock()))
            if on_done is not None:
                future.add_done_callback(lambda _: on_done())

    def _replan(self, error: Exception, result: EngineCoreOutputs) -> None:
        """A step could not be planned: finish those that run, then look for the call that is to blame, as after a
        failed step."""
        logger.exception("a step could not be planned")
        while self._running:
            step = self._running[0]
            step.future.exception()
            self._collect(self._running.popleft(), result)
        failure = StepFailedError(f"a step could not be planned: {type(error).__name__}: {error}")
        outputs, _ = self.scheduler.replay(failure)
        result.outputs += outputs

    def _collect(self, step: _RunningStep, result: EngineCoreOutputs) -> None:
        try:
            output = step.future.result()
            if output.values.size and not np.isfinite(output.values).any() and (broken := self._check_worker()):
                raise broken
        except StepError as failure:
            result.outputs += self._recover(self._judged(failure))
            return
        self._failed_in_a_row = 0
        self._pace.learn(step.num_tokens, output.device_s)
        self._slowest_token_s = max(self._slowest_token_s, self._age(step) / step.num_tokens)
        self._last_done_s = self._clock()
        if self._stalled:
            self._stalled = False
            self._on_health(True, "steps are done again")
        outputs = self.scheduler.update(output)
        self._known_pair.learn(outputs)
        result.outputs += outputs
        result.step_tokens += step.num_tokens

    def _judged(self, failure: StepError) -> StepError:
        """What a failed step means: from the second in a row on, the worker may be to blame instead of the pairs."""
        if failure.worker_lost:
            return failure
        self._failed_in_a_row += 1
        return (self._check_worker() if self._failed_in_a_row > 1 else None) or failure

    def _check_worker(self) -> _BrokenWorkerError | None:
        """Let the worker run a pair that was scored before; None if it can. It waits for that one step."""
        step = self._known_pair.step()
        if step is None:
            return None
        try:
            output = self._executor.submit(step).result(self._config.device.step_timeout_s)
        except TimeoutError:
            self._executor.kill_hung()
            return _BrokenWorkerError("does not end a step that it could do before")
        except StepError as failure:
            logger.error("the worker cannot run a pair that was scored before: %s", failure)
            return _BrokenWorkerError("fails steps that it could do before")
        if not np.isfinite(output.values).all():
            return _BrokenWorkerError("has no finite score for a pair that had one before")
        self._failed_in_a_row = 0
        return None

    def _recover(self, failure: StepError) -> list[EngineCoreOutput]:
        """Replace what broke, then replay. Later steps are lost with the failed one; their results are ignored."""
        logger.warning("a step failed: %s", failure)
        self._running.clear()
        if failure.worker_lost:
            self._on_health(False, str(failure))
            self._num_restarts += 1
        broken = failure if isinstance(failure, _BrokenWorkerError) else None
        outputs, blame = self.scheduler.replay(
            failure.error, out_of_memory=failure.out_of_memory, blame_pairs=broken is None
        )
        self._replace(failure, blame)
        while broken and (broken := self._check_worker()):  # until the budget of restarts is spent
            self._num_restarts += 1
            self._replace(broken, blame)
        self._last_done_s = self._clock()
        if failure.worker_lost or self._stalled:
            self._stalled = False
            self._on_health(True, "the worker was restarted")
        return outputs

    def _replace(self, failure: StepError, blame: Blame) -> None:
        self._executor.recover(failure, blame)
        if failure.worker_lost:
            self.operations.restore()

    def _age(self, step: _RunningStep) -> float:
        """How long the first step has been running: a queued one starts when the one before it ends."""
        return self._clock() - max(step.submitted_s, self._last_done_s)

    def _check_progress(self) -> None:
        """Report a step that takes far longer than any before it; end one that takes longer than it may."""
        if not self._running or self._running[0].future.done():
            return
        step, timeout_s = self._running[0], self._config.device.step_timeout_s
        age_s = self._age(step)
        if age_s > timeout_s:
            self._on_health(False, f"a step did not end within {timeout_s:g} s")
            if not self._executor.kill_hung():
                raise EngineDeadError(f"a step did not end within {timeout_s:g} s")
        elif not self._stalled and age_s > max(STALL_S, STALL_FACTOR * step.num_tokens * self._slowest_token_s):
            self._stalled = True
            self._on_health(False, f"a step of {step.num_tokens} tokens has been running for {age_s:.1f} s")

    def stats(self) -> SchedulerStats:
        stats = self.scheduler.stats()
        stats.worker_restarts = self._num_restarts
        return stats

    def abort_all(self, call_ids: list[str]) -> None:
        for call_id in call_ids:
            self.abort(call_id)

    def drain(self) -> None:
        """Wait for the steps under way and forget their results; used after everything was aborted."""
        while self._running:
            step = self._running.popleft()
            try:
                self.scheduler.update(step.future.result())
            except StepError as failure:
                self._recover(failure)

    def close(self) -> None:
        try:
            self._executor.close()
        except EngineError:
            logger.exception("the executor did not close cleanly")


def _refused(request: EngineCoreRequest, error: EngineError) -> EngineCoreOutput:
    """The answer to a call of which nothing is scored."""
    errors = dict.fromkeys(range(request.num_pairs), WireError.of(error))
    stats = CallStats(len(request.token_ids), 0, 0.0, 0.0, 0)
    return EngineCoreOutput(request.call_id, NO_PAIRS, NO_VALUES, errors, stats)
