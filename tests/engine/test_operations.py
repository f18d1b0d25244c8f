"""Adapters and sleep in the core: what waits for what, and what a new worker gets again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.config import ModelConfig
from engine.core.core import EngineCore
from engine.messages import (
    EngineCoreRequest,
    LoadAdapter,
    Operation,
    OperationDone,
    OperationRequest,
    Sleep,
    UnloadAdapter,
    WakeUp,
)
from tests.engine.test_core import CONFIG, NO_CONSTANT_PREFIX, SPEC, call, collect, scores
from tests.support.fake_worker import FakeExecutor, fake_info, fake_logit

LEGAL = LoadAdapter("legal", "/adapters/legal", "mark")
PAIR = [7, 8, 9]
SCORE = {0: round(fake_logit(PAIR), 3)}


def core_of(executor: FakeExecutor) -> EngineCore:
    config = replace(CONFIG, model=ModelConfig(lora_modules={"first": "/adapters/first"}))
    return EngineCore(config, SPEC, NO_CONSTANT_PREFIX, executor)


def on(adapter: str | None, call_id: str = "c", pair: list[int] = PAIR) -> EngineCoreRequest:
    request = call(call_id, [pair])
    request.adapter = adapter
    return request


def done(core: EngineCore, operation: Operation) -> OperationDone:
    core.operations.ask(OperationRequest(1, operation))
    core.poll()
    core.poll()  # a worker's answer is looked at in the next turn
    (answer,) = core.operations.take_done()
    return answer


def refused(core: EngineCore, request: EngineCoreRequest) -> str:
    core.add(request)
    (output,) = core.poll().outputs
    assert output.stats is not None
    return str(output.errors[0].rebuilt())


def test_a_new_adapter_is_there_once_it_is_loaded_and_gone_once_it_is_not() -> None:
    core = core_of(FakeExecutor(fake_info()))
    assert refused(core, on("legal")) == "the adapter 'legal' is not loaded"
    assert done(core, LEGAL).error is None
    core.add(on("legal"))
    assert scores(collect(core)) == SCORE
    assert done(core, UnloadAdapter("legal")).error is None
    assert "not loaded" in refused(core, on("legal"))
    assert done(core, UnloadAdapter("first")).error is None
    assert "not loaded" in refused(core, on("first"))


def test_an_adapter_is_changed_between_the_calls_on_it() -> None:
    """Those before it are finished first, those behind it wait; others go on."""
    executor = FakeExecutor(fake_info(), hold=True)
    core = core_of(executor)
    core.add(on("first", "before"))
    core.poll()
    core.operations.ask(OperationRequest(1, replace_first := LoadAdapter("first", "/adapters/other", "mark")))
    core.add(on("first", "behind", [1, 2, 3]))
    core.add(on(None, "other", [4, 5, 6]))
    core.poll()
    assert not executor.changes
    executor.release()
    assert {output.call_id for output in core.poll().outputs} == {"before", "other"}
    core.poll()
    assert [change for change, _ in executor.changes] == [replace_first]
    assert core.has_work
    executor.change()
    executor.hold = False
    outputs = collect(core)
    assert [output.call_id for output in outputs] == ["behind"]
    assert scores(outputs) == {0: round(fake_logit([1, 2, 3]), 3)}
    assert [answer.error for answer in core.operations.take_done()] == [None]


def test_a_call_that_waits_for_an_adapter_can_be_given_up() -> None:
    executor = FakeExecutor(fake_info(), hold=True)
    core = core_of(executor)
    core.operations.ask(OperationRequest(1, LEGAL))
    core.poll()
    core.add(on("legal"))
    core.abort("c")
    executor.change()
    core.poll()
    assert not core.has_work


def test_a_failed_change_leaves_things_as_they_were() -> None:
    executor = FakeExecutor(fake_info())
    executor.unloadable = {"legal"}
    core = core_of(executor)
    error = done(core, LEGAL).error
    assert error is not None
    assert str(error.rebuilt()) == "this is no adapter"
    assert executor.changes[-1][0] == UnloadAdapter("legal"), "another worker of the group may have loaded it"
    assert "not loaded" in refused(core, on("legal"))
    core.add(on("first"))
    assert scores(collect(core)) == SCORE


@pytest.mark.parametrize("is_damaged", [False, True])
def test_a_new_worker_gets_the_adapters_again(is_damaged: bool) -> None:
    """One whose files are others by then is served no more, and costs nobody else an answer."""
    executor = FakeExecutor(fake_info(), poison=666)
    core = core_of(executor)
    assert done(core, LEGAL).error is None
    assert done(core, UnloadAdapter("first")).error is None
    executor.changes.clear()
    executor.unloadable = {"legal"} if is_damaged else set()
    core.add(on(None, "killer", [666, 1]))
    core.add(on(None, "good"))
    answers = {output.call_id: output for output in collect(core)}
    assert executor.num_recoveries
    assert scores([answers["good"]]) == SCORE
    assert [change for change, _ in executor.changes][:2] == [UnloadAdapter("first"), LEGAL]
    if is_damaged:
        assert "not loaded" in refused(core, on("legal"))
    else:
        core.add(on("legal"))
        assert scores(collect(core)) == SCORE


def test_sleep_waits_for_work_and_refuses_more() -> None:
    executor = FakeExecutor(fake_info(), hold=True)
    core = core_of(executor)
    assert done(core, WakeUp()).error is None
    core.add(on(None))
    core.poll()
    core.operations.ask(OperationRequest(1, Sleep()))
    core.poll()
    assert not executor.asleep
    executor.release()
    assert scores(core.poll().outputs) == SCORE
    core.poll()
    assert executor.asleep
    assert core.operations.take_done()[0].error is None
    assert "wake_up (POST)" in refused(core, on(None))
    error = done(core, LEGAL).error
    assert error is not None
    executor.hold = False
    assert done(core, UnloadAdapter("first")).error is None
    assert done(core, WakeUp()).error is None
    assert executor.changes[-1][0] == UnloadAdapter("first"), "its new worker has loaded it"
    core.add(on(None))
    assert scores(collect(core)) == SCORE


def test_a_device_that_has_less_room_than_before_is_not_woken_up() -> None:
    executor = FakeExecutor(fake_info(kv_capacity=512))
    core = core_of(executor)
    assert done(core, Sleep()).error is None
    executor.info = fake_info(kv_capacity=512)
    wake = executor.wake_up

    def to_less_room() -> None:
        wake()
        executor.info = fake_info(kv_capacity=100)

    executor.wake_up = to_less_room  # type: ignore[method-assign]
    error = done(core, WakeUp()).error
    assert error is not None
    assert "had room for 512" in str(error.rebuilt())
    assert executor.asleep
    assert "wake_up (POST)" in refused(core, on(None))
