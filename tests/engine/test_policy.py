"""Which call goes first: a short call is not held back by a long one, and nobody starves, whatever else comes."""

from __future__ import annotations

import random

import pytest

from engine.config import SchedulerConfig
from engine.scheduling.policy import SWEEP_FROM, CallHeap, oldest
from engine.scheduling.scheduler import Scheduler
from tests.engine.test_scheduler import CONSTANT_PREFIX, Clock, request, run_all, scheduler
from tests.support.fake_worker import FakeRunner

BUDGET = 32


def pairs(count: int, first: int = 0, length: int = 4) -> list[list[int]]:
    """Pairs that have nothing but the constant prefix in common."""
    return [[*CONSTANT_PREFIX.tolist(), 1000 + first + i, *range(length - 1)] for i in range(count)]


def steps_until(subject: Scheduler, runner: FakeRunner, call_id: str, clock: Clock, most: int = 200) -> int:
    for number in range(1, most):
        plan = subject.schedule()
        assert plan is not None
        clock.now += 1.0
        if any(output.call_id == call_id and output.stats for output in subject.update(runner.execute(plan))):
            return number
    pytest.fail(f"{call_id} was not done after {most} steps")


@pytest.mark.parametrize("age_s", [0.0, 10.0, 100_000.0])
def test_a_call_of_ten_thousand_documents_holds_no_short_call_back(age_s: float) -> None:
    clock = Clock()
    subject, runner = scheduler(budget=BUDGET, clock=clock), FakeRunner(256)
    subject.add(request("large", pairs(10_000), clock.now - age_s))
    for i in range(20):
        subject.add(request(f"short {i}", pairs(1, 20_000 + i), clock.now))
        assert steps_until(subject, runner, f"short {i}", clock) <= 2


def test_an_endless_stream_of_short_calls_leaves_half_of_the_device_to_the_oldest() -> None:
    clock = Clock()
    subject, runner = scheduler(budget=BUDGET, clock=clock, max_num_seqs=64), FakeRunner(256)
    subject.add(request("large", pairs(400), clock.now))
    alone = 400 * 4 / BUDGET
    for step in range(1, 1000):
        for i in range(10):  # more than a step holds
            subject.add(request(f"s{step}.{i}", pairs(1, 1000 * step + i), clock.now))
        plan = subject.schedule()
        assert plan is not None
        assert plan.num_tokens >= BUDGET - 4, "no room is wasted"
        clock.now += 0.1
        if any(output.call_id == "large" and output.stats for output in subject.update(runner.execute(plan))):
            assert step <= 2 * alone + 2
            return
    pytest.fail("the large call starved")


def test_segments_as_long_as_a_step_take_turns_with_short_calls() -> None:
    clock = Clock()
    subject, runner = scheduler(kv=600, budget=BUDGET, clock=clock), FakeRunner(600)
    long = [*CONSTANT_PREFIX.tolist(), *range(5000, 5000 + 100)]
    subject.add(request("long", [long], clock.now))
    for step in range(1, 40):
        subject.add(request(f"s{step}", pairs(1, step), clock.now))
        plan = subject.schedule()
        assert plan is not None
        clock.now += 0.1
        outputs = subject.update(runner.execute(plan))
        if any(output.call_id == "long" for output in outputs):
            assert step <= 2 * 5
            break
    else:
        pytest.fail("the long document starved")
    done = {output.call_id for output in run_all(subject, runner)}
    assert len(done) <= 3, "the short calls did not wait for the long document"


def test_adapters_take_turns() -> None:
    clock = Clock()
    subject, runner = scheduler(budget=BUDGET, clock=clock), FakeRunner(256)
    subject.add(request("large", pairs(1000), clock.now, adapter="a"))
    subject.add(request("other", pairs(1, 5000), clock.now + 1, adapter="b"))
    assert steps_until(subject, runner, "other", clock) <= 3


def test_a_callers_backlog_stands_behind_others() -> None:
    clock = Clock()
    subject, runner = scheduler(budget=BUDGET, clock=clock, max_num_seqs=4), FakeRunner(256)
    for i in range(40):
        subject.add(request(f"hog {i}", pairs(1, i), clock.now, backlog_tokens=10_000_000 * i))
    subject.add(request("newcomer", pairs(1, 5000), clock.now + 1.0))
    assert steps_until(subject, runner, "newcomer", clock) <= 2


def test_the_calls_of_one_caller_are_done_in_the_order_in_which_they_came() -> None:
    """Also where what it has in flight grows and shrinks: else a large call would let all later ones pass."""
    clock = Clock()
    subject, runner = scheduler(budget=BUDGET, clock=clock), FakeRunner(256)
    rng, in_flight, done = random.Random(0), {}, []
    for i in range(60):
        for _ in range(rng.choice((0, 0, 3))):
            name, count = str(len(done) + len(in_flight)), rng.choice((1, 1, 1, 16))
            subject.add(request(name, pairs(count, 100 * i), clock.now, backlog_tokens=sum(in_flight.values())))
            in_flight[name] = 4 * count
        clock.now += 1.0
        if plan := subject.schedule():
            for output in subject.update(runner.execute(plan)):
                in_flight[output.call_id] -= 4 * len(output.indices)
                if output.stats:
                    done.append(int(output.call_id))
                    del in_flight[output.call_id]
    assert len(done) > 40
    assert max(abs(place - name) for place, name in enumerate(done)) <= 2, "a step may hold the ends of several"


def test_calls_that_are_done_do_not_stay_behind_one_that_is_not() -> None:
    clock = Clock()
    subject, runner = scheduler(budget=BUDGET, clock=clock), FakeRunner(256)
    subject.add(request("large", pairs(10_000), clock.now))
    for i in range(3 * SWEEP_FROM):
        subject.add(request(f"short {i}", pairs(1, 20_000 + i), clock.now + i))
        plan = subject.schedule()
        assert plan is not None
        subject.update(runner.execute(plan))
    assert len(subject._queues._old) <= 2 * SWEEP_FROM


def test_the_sweep_keeps_what_waits() -> None:
    heap = CallHeap(oldest, SchedulerConfig(), BUDGET)
    subject = scheduler()
    for i in range(2 * SWEEP_FROM):
        subject.add(request(f"c{i}", [[i, 1]], float(i)))
    calls = list(subject._calls.values())
    for call in calls:
        heap.push(call)
    assert [heap.pop() for _ in range(len(heap))] == calls


def test_calls_of_a_few_steps_are_passed_only_by_those_that_come_before_their_own_work_could_be_done() -> None:
    clock = Clock()
    subject, runner = scheduler(budget=BUDGET, clock=clock), FakeRunner(256)
    rng, came, done = random.Random(0), [], []
    for step in range(60):
        for _ in range(rng.choice((0, 1, 2, 3))):
            count = rng.choice((1, 2, 4, 16))
            subject.add(request(str(len(came)), pairs(count, 100 * len(came)), clock.now + step))
            came.append((step * BUDGET, 4 * count))
        if plan := subject.schedule():
            done += [int(output.call_id) for output in subject.update(runner.execute(plan)) if output.stats]
    assert len(done) > 40
    for place, name in enumerate(done):
        passed = [earlier for earlier in range(name) if earlier not in done[:place]]
        (arrival, work), slack = came[name], 2 * BUDGET
        assert all(came[earlier][0] + came[earlier][1] >= arrival + work - slack for earlier in passed)


def test_a_long_call_with_little_left_is_still_behind_short_ones() -> None:
    clock = Clock()
    subject, runner = scheduler(budget=BUDGET, clock=clock), FakeRunner(256)
    subject.add(request("large", pairs(400), clock.now))
    for i in range(40):
        subject.add(request(f"short {i}", pairs(1, 20_000 + i), clock.now))
        assert steps_until(subject, runner, f"short {i}", clock) == 1


def test_a_step_with_a_short_call_is_not_filled_up_with_long_ones() -> None:
    subject, runner = scheduler(budget=BUDGET), FakeRunner(256)
    for name in ("large", "also large"):
        subject.add(request(name, pairs(400), 1000.0))
    subject.update(runner.execute(subject.schedule()))  # with the constant prefix
    subject.add(request("short", pairs(1, 20_000), 1000.0))
    sizes = []
    while any(call.call_id == "short" for call in subject._calls.values()):
        sizes.append((plan := subject.schedule()).num_tokens)
        subject.update(runner.execute(plan))
    assert sizes == [BUDGET // 2 + 4]
    assert subject.schedule().num_tokens == BUDGET, "long calls among themselves fill it"
