"""Schedule, execute, update: the pipeline stays full, and what breaks is replayed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.config import EngineConfig, SchedulerConfig
from engine.core.core import EngineCore
from engine.core.pace import LEAD_S
from engine.messages import EngineCoreOutput, EngineCoreRequest
from engine.model_spec import HeadSpec, ModelSpec
from tests.support.fake_worker import FakeExecutor, fake_info, fake_logit

SPEC = ModelSpec(
    name="fake",
    path="",
    tokenizer_path="",
    model_type="qwen3",
    head=HeadSpec(kind="from_2_way_softmax"),
    causal=True,
    max_model_len=100,
    vocab_size=1000,
)
CONFIG = EngineConfig(scheduler=SchedulerConfig(min_shared_tokens=2))
NO_CONSTANT_PREFIX = np.zeros(0, np.int32)


def call(call_id: str, pairs: list[list[int]]) -> EngineCoreRequest:
    flat = np.array([token for pair in pairs for token in pair], np.int32)
    return EngineCoreRequest(call_id, flat, np.array([len(pair) for pair in pairs], np.int32), arrival_s=0.0)


def collect(core: EngineCore) -> list[EngineCoreOutput]:
    outputs: list[EngineCoreOutput] = []
    while core.has_work:
        core.wait(1.0)
        outputs += core.poll().outputs
    return outputs


def scores(outputs: list[EngineCoreOutput]) -> dict[int, float]:
    return {i: round(float(v[0]), 3) for output in outputs for i, v in zip(output.indices, output.values, strict=True)}


def test_the_next_step_is_planned_while_one_runs() -> None:
    executor = FakeExecutor(fake_info(budget=16), hold=True)
    core = EngineCore(CONFIG, SPEC, NO_CONSTANT_PREFIX, executor)
    core.add(call("c", [[i, i + 1, *range(10)] for i in range(6)]))
    core.poll()
    assert len(executor.queue) == 2, "one runs, one waits behind it"
    executor.release()
    executor.hold = False
    assert scores(collect(core)) == {i: round(fake_logit([i, i + 1, *range(10)]), 3) for i in range(6)}


def test_the_next_step_is_planned_shortly_before_the_running_one_ends() -> None:
    """Whoever comes meanwhile is in it, and waits for no other."""
    now = [0.0]
    executor = FakeExecutor(fake_info(budget=16), hold=True)
    core = EngineCore(CONFIG, SPEC, NO_CONSTANT_PREFIX, executor, clock=lambda: now[0])
    core.add(call("c", [[i, i + 1, *range(10)] for i in range(20)]))
    core.poll()
    assert len(executor.queue) == 2, "how long steps take is not known yet"
    executor.runner.device_s = 1.0
    executor.release()
    core.poll()
    assert len(executor.queue) == 1
    assert core.plan_in_s == pytest.approx(1.0 - LEAD_S)
    now[0] += 0.985
    core.poll()
    assert len(executor.queue) == 2, "the device does not wait"
    assert core.plan_in_s is None, "and the core sleeps until a step ends"


def test_while_a_culprit_is_looked_for_one_step_runs_at_a_time() -> None:
    """A worker that dies takes with it an answer that it has just sent; its pairs must not be blamed for that."""
    executor = FakeExecutor(fake_info(budget=16), hold=True, poison=666)
    core = EngineCore(CONFIG, SPEC, NO_CONSTANT_PREFIX, executor)
    core.add(call("c", [[666, 1, 2, 3], *([i, i + 1, *range(10)] for i in range(6))]))
    core.poll()
    assert len(executor.queue) == 2
    executor.release()
    core.poll()
    assert executor.num_recoveries == 1
    assert len(executor.queue) == 1, "nothing behind a step with suspects"
    core.abort_all(["c"])
    executor.release()
    core.drain()
    core.add(call("d", [[i, i + 1, *range(10)] for i in range(6)]))
    core.poll()
    assert len(executor.queue) == 2, "suspects of a call that left do not slow down others"


def test_a_chunk_of_a_long_document_is_queued_before_the_last_one_came_back() -> None:
    executor = FakeExecutor(fake_info(kv_capacity=256, budget=16), hold=True)
    core = EngineCore(CONFIG, SPEC, NO_CONSTANT_PREFIX, executor)
    core.add(call("c", [list(range(60))]))
    core.poll()
    assert [plan.num_tokens for plan, _ in executor.queue] == [16, 16]
    executor.release()
    executor.hold = False
    assert scores(collect(core)) == {0: round(fake_logit(list(range(60))), 3)}


def test_a_lost_worker_costs_a_replay_and_no_answer() -> None:
    executor = FakeExecutor(fake_info(budget=64), poison=666)
    health: list[bool] = []
    core = EngineCore(CONFIG, SPEC, NO_CONSTANT_PREFIX, executor, on_health=lambda ready, reason: health.append(ready))
    pairs = [[*range(20), i] for i in range(5)] + [[*range(20), 666, 1]]
    core.add(call("c", pairs))
    outputs = collect(core)
    assert scores(outputs) == {i: round(fake_logit(pair), 3) for i, pair in enumerate(pairs[:5])}
    assert [list(output.errors) for output in outputs if output.errors] == [[5]]
    assert executor.num_recoveries == health.count(False) == health.count(True) >= 2
    assert core.stats().replayed_pairs >= 6


def test_an_aborted_call_answers_nothing_and_leaves_the_rest_alone() -> None:
    executor = FakeExecutor(fake_info(budget=16), hold=True)
    core = EngineCore(CONFIG, SPEC, NO_CONSTANT_PREFIX, executor)
    core.add(call("gone", [[i, *range(10)] for i in range(6)]))
    core.poll()
    core.add(call("stays", [[5, 5, 5]]))
    core.abort("gone")
    executor.release()
    executor.hold = False
    outputs = collect(core)
    assert {output.call_id for output in outputs} == {"stays"}
    assert sum(plan.num_tokens for plan in executor.runner.plans) <= 32 + 3, "nothing was computed after the abort"


@pytest.mark.parametrize("num_pairs", [1, 300])
def test_answers_carry_the_totals_of_their_call(num_pairs: int) -> None:
    core = EngineCore(CONFIG, SPEC, NO_CONSTANT_PREFIX, FakeExecutor(fake_info(kv_capacity=512, budget=64)))
    core.add(call("c", [[*range(20), i, i] for i in range(num_pairs)]))
    outputs = collect(core)
    stats = outputs[-1].stats
    assert stats is not None
    assert [output.stats for output in outputs[:-1]] == [None] * (len(outputs) - 1)
    assert stats.logical_tokens == 22 * num_pairs
    assert stats.computed_tokens == 22 if num_pairs == 1 else stats.computed_tokens == 20 + 2 * num_pairs


def test_pairs_and_their_tokens_are_counted_together() -> None:
    executor = FakeExecutor(fake_info(kv_capacity=512, budget=64), hold=True)
    core = EngineCore(CONFIG, SPEC, NO_CONSTANT_PREFIX, executor)
    core.add(call("c", [[*range(20), i, i] for i in range(90)]))
    core.poll()
    assert (core.stats().finished_pairs, core.stats().logical_tokens) == (0, 0)
    executor.release()
    executor.hold = False
    collect(core)
    assert (core.stats().finished_pairs, core.stats().logical_tokens) == (90, 90 * 22)


def answered(outputs: list[EngineCoreOutput]) -> dict[tuple[str, int], str | float]:
    found: dict[tuple[str, int], str | float] = {}
    for output in outputs:
        found |= {
            (output.call_id, i): round(float(v[0]), 3) for i, v in zip(output.indices, output.values, strict=True)
        }
        found |= {(output.call_id, i): str(error.rebuilt()) for i, error in output.errors.items()}
    return found


def test_a_call_that_cannot_be_planned_costs_only_itself() -> None:
    core = EngineCore(CONFIG, SPEC, NO_CONSTANT_PREFIX, FakeExecutor(fake_info(budget=16)))
    core.add(
        call("bad", [[], [1, 2]])
    )  # no input processor lets an empty sequence through; the planner has no place for it
    core.add(call("good", [[i, 7] for i in range(4)]))
    outputs = core.poll().outputs + collect(core)
    found = answered(outputs)
    assert {key: value for key, value in found.items() if key[0] == "good"} == {
        ("good", i): round(fake_logit([i, 7]), 3) for i in range(4)
    }
    assert {key for key in found if key[0] == "bad"} == {("bad", 0), ("bad", 1)}


@pytest.mark.parametrize("place", ["take_from", "keep"])
def test_an_error_while_planning_a_step_finds_its_call(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever raises while a step is planned: the call that it is about gets an error, the others their scores."""
    core = EngineCore(CONFIG, SPEC, NO_CONSTANT_PREFIX, FakeExecutor(fake_info(budget=16)))
    scheduler = core.scheduler
    owner = scheduler._filler if place == "take_from" else scheduler._memory
    original = getattr(owner, place)

    def fail(*arguments: Any) -> Any:
        result = original(*arguments)
        names = [arguments[0].call_id] if place == "take_from" else [c.call_id for c in arguments[0].calls if c]
        if "bad" in names:
            raise ZeroDivisionError("planned on purpose")
        return result

    monkeypatch.setattr(owner, place, fail)
    calls = {f"good{i}": [[i, 7], [i, 8]] for i in range(3)} | {"bad": [[5, 5]]}
    for name, pairs in calls.items():
        core.add(call(name, pairs))
    outputs = core.poll().outputs + collect(core)
    outputs += core.poll().outputs
    found = answered(outputs)
    assert "planned on purpose" in str(found.pop(("bad", 0)))
    del calls["bad"]
    expected = {(name, i): round(fake_logit(pair), 3) for name, pairs in calls.items() for i, pair in enumerate(pairs)}
    assert found == expected
    assert not core.has_work
