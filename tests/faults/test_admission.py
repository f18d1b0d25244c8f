"""One decision a call, in pairs and tokens; when to come back; nobody's backlog keeps the others out."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import pytest

from engine.config import SchedulerConfig, ServerConfig
from engine.entrypoints.serve.admission import Admission, CallSize, estimated_size
from engine.errors import OverloadedError
from engine.messages import EngineCoreRequest
from engine.request import RerankCall
from engine.scheduling.scheduler import Scheduler
from tests.support.fake_worker import FakeRunner, fake_info


def size(num_pairs: int, num_tokens: int) -> CallSize:
    return CallSize(num_pairs, num_tokens, num_tokens)


def test_a_call_is_let_in_or_refused_as_a_whole() -> None:
    admission = Admission(ServerConfig(max_queued_pairs=16, max_queued_tokens=1600))
    with admission.admit(size(10, 100), "a"):
        with pytest.raises(OverloadedError, match="--max-queued-pairs"), admission.admit(size(7, 1), "b"):
            pass
        with pytest.raises(OverloadedError, match="--max-queued-tokens"), admission.admit(size(1, 1501), "b"):
            pass
        assert (admission.num_calls, admission.num_pairs, admission.num_tokens) == (1, 10, 100)
    assert (admission.num_calls, admission.num_pairs, admission.num_tokens) == (0, 0, 0)
    assert admission.queues[""].work == 0
    assert not admission._work_of
    assert admission.idle.is_set()


def test_an_empty_server_takes_any_call_that_is_allowed_at_all() -> None:
    admission = Admission(ServerConfig(max_queued_pairs=16, max_queued_tokens=100))
    with admission.admit(size(500, 10_000), "a", client_timeout_s=0.001):
        assert admission.num_pairs == 500


def test_real_tokens_replace_the_estimate_and_are_not_judged_again() -> None:
    admission = Admission(ServerConfig(max_queued_tokens=1000))
    with admission.admit(size(4, 100), "a") as permit:
        permit.settle(CallSize(8, 5000, 3000))
        assert (admission.num_pairs, admission.num_tokens, admission.queues[""].work) == (8, 5000, 3000)
        permit.answered(2)
        assert (admission.num_pairs, admission.num_tokens, admission.queues[""].work) == (6, 3750, 2250)
        permit.answered(6)
        assert (admission.num_pairs, admission.num_tokens, admission.queues[""].work) == (0, 0, 0)


def test_one_caller_cannot_fill_the_queue() -> None:
    admission = Admission(ServerConfig(max_queued_pairs=80))
    with ExitStack() as inside:
        for _ in range(7):
            inside.enter_context(admission.admit(size(10, 10), "hog"))
        with pytest.raises(OverloadedError, match="kept for other callers"), admission.admit(size(10, 10), "hog"):
            pass
        inside.enter_context(admission.admit(size(10, 10), "newcomer"))
        with pytest.raises(OverloadedError), admission.admit(size(10, 10), "another"):
            pass


def test_a_short_call_does_not_stand_behind_a_long_one_of_the_same_address() -> None:
    admission = Admission(ServerConfig())
    with admission.admit(size(10_000, 2_000_000), "address"), admission.admit(size(1, 200), "address") as short:
        assert short.backlog_tokens == 0
        with (
            admission.admit(size(1, 220), "address") as second,
            admission.admit(size(9000, 10**6 * 2), "address") as long,
        ):
            assert second.backlog_tokens == 200, "but behind another short one"
            assert long.backlog_tokens == 2_000_420
        short.answered(1)
        with admission.admit(size(1, 220), "address") as third:
            assert third.backlog_tokens == 0


def test_estimates_lie_near_the_truth() -> None:
    def estimate(call: RerankCall, template: int) -> tuple[int, int]:
        found = estimated_size(call, template, 8192, shares=True)
        assert estimated_size(call, template, 8192, shares=False).work == found.num_tokens
        return found.num_tokens, found.work

    english = "The giant panda is a bear species endemic to China. " * 20
    one = 40 + 1 + len(english) // 4
    assert estimate(RerankCall(queries=["what"], documents=[english]), 40) == (one, one)
    assert estimate(RerankCall(queries=["q"], documents=["熊猫" * 100]), 40) == (240, 240)
    assert estimate(RerankCall(queries=[], documents=[], prompts=[[1, 2, 3], "abcdefgh"]), 0) == (5, 5)
    both = RerankCall(queries=["a" * 40, "b" * 40], documents=["c" * 400] * 3, every_query=True)
    assert estimate(both, 10) == (6 * 10 + 20 * 3 + 300 * 2, 2 * 10 + 20 + 300 * 2)
    huge = RerankCall(queries=["q"], documents=["panda " * 10**6])
    assert estimate(huge, 40) == (40 + 8192, 40 + 8192), "it will be cut"


def test_a_backlog_stands_behind_the_first_call_of_another_caller() -> None:
    scheduler = Scheduler(SchedulerConfig(), fake_info(256, 16), None, True, 64, lambda: 0.0)
    runner = FakeRunner(256)
    backlog = 0
    for i in range(6):
        tokens = np.arange(i * 50, i * 50 + 12, dtype=np.int32)
        scheduler.add(EngineCoreRequest(f"hog{i}", tokens, np.array([12], np.int32), 0.0, backlog_tokens=backlog))
        backlog += 12
    tokens = np.arange(900, 914, dtype=np.int32)  # longer than the hog's calls, and later
    scheduler.add(EngineCoreRequest("newcomer", tokens, np.array([14], np.int32), 0.0))
    order = []
    while (plan := scheduler.schedule()) is not None:
        order += [output.call_id for output in scheduler.update(runner.execute(plan))]
    assert order[:2] == ["hog0", "newcomer"]
    assert order[2:] == [f"hog{i}" for i in range(1, 6)]
