"""A worker whose every step fails is replaced, and no pair is blamed for it; a pair that breaks steps fails alone."""

from __future__ import annotations

from concurrent.futures import Future

import numpy as np
import pytest

from engine.core.core import EngineCore
from engine.errors import EngineDeadError, StepFailedError
from engine.executor import StepError
from engine.step import Blame, ModelRunnerOutput, SchedulerOutput
from tests.engine.test_core import CONFIG, NO_CONSTANT_PREFIX, SPEC, call, collect, scores
from tests.support.fake_worker import FakeExecutor, fake_info, fake_logit

PAIRS = [[i, i + 1, *range(10)] for i in range(20)]
EXPECTED = {i: round(fake_logit(pair), 3) for i, pair in enumerate(PAIRS)}


class BrittleExecutor(FakeExecutor):
    """Raises, or answers NaN, in every step while it is ``broken``, and in steps with the token ``poisonous``."""

    def __init__(self, *, nan: bool = False, poisonous: int = -1) -> None:
        super().__init__(fake_info(budget=64))
        self.broken = False
        self.heals = True
        self.nan = nan
        self.poisonous = poisonous
        self.restarts = 3

    def submit(self, scheduler_output: SchedulerOutput) -> Future[ModelRunnerOutput]:
        ok = super().submit(scheduler_output)
        if not self.broken and self.poisonous not in scheduler_output.token_ids:
            return ok
        bad: Future[ModelRunnerOutput] = Future()
        if self.nan:
            output = ok.result()
            bad.set_result(ModelRunnerOutput(output.step_id, np.full_like(output.values, np.nan)))
        else:
            bad.set_exception(StepError(StepFailedError("the device says no")))
        return bad

    def recover(self, failure: StepError, blame: Blame) -> None:
        super().recover(failure, blame)
        if not failure.worker_lost:
            return
        assert blame == "unknown", "it counts against the worker"
        self.restarts -= 1
        if self.restarts < 0:
            raise EngineDeadError("restarted too often")
        self.broken = not self.heals


def core_of(executor: BrittleExecutor) -> tuple[EngineCore, list[tuple[bool, str]]]:
    health: list[tuple[bool, str]] = []
    core = EngineCore(CONFIG, SPEC, NO_CONSTANT_PREFIX, executor, on_health=lambda *said: health.append(said))
    core.add(call("first", [[1, 2, 3]]))
    assert scores(collect(core)) == {0: round(fake_logit([1, 2, 3]), 3)}
    return core, health


@pytest.mark.parametrize("nan", [False, True])
def test_a_broken_worker_is_replaced_and_costs_no_answer(nan: bool) -> None:
    executor = BrittleExecutor(nan=nan)
    core, health = core_of(executor)
    executor.broken = True
    for name in ("c", "d"):
        core.add(call(name, PAIRS))
    outputs = collect(core)
    for name in ("c", "d"):
        assert scores([output for output in outputs if output.call_id == name]) == EXPECTED
    assert not any(output.errors for output in outputs)
    assert executor.restarts == 2
    assert [ready for ready, _ in health] == [False, True]
    assert "the worker" in health[0][1]
    assert core.stats().worker_restarts == 1


@pytest.mark.parametrize("nan", [False, True])
def test_a_worker_that_stays_broken_ends_the_core_when_the_restarts_are_spent(nan: bool) -> None:
    executor = BrittleExecutor(nan=nan)
    core, health = core_of(executor)
    executor.broken, executor.heals = True, False
    core.add(call("c", PAIRS))
    with pytest.raises(EngineDeadError, match="too often"):
        collect(core)
    assert [ready for ready, _ in health] == [False], "it was never ready in between"


@pytest.mark.parametrize("nan", [False, True])
def test_pairs_that_break_their_steps_fail_alone_and_replace_nobody(nan: bool) -> None:
    """However many of them come in a row, with nothing else to run between them."""
    executor = BrittleExecutor(nan=nan, poisonous=666)
    core, health = core_of(executor)
    for i in range(40):
        core.add(call(f"p{i}", [[666, i]]))
        assert [list(output.errors) for output in collect(core) if output.errors] == [[0]]
    core.add(call("c", [*PAIRS, [666, 5]]))
    outputs = collect(core)
    if not nan:  # NaN is not narrowed down: here the whole step has it
        assert scores(outputs) == EXPECTED
    assert executor.restarts == 3
    assert health == []
