"""The scheduler as a property: every pair exactly one right answer, whatever comes, goes and breaks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.config import SchedulerConfig
from engine.errors import StepFailedError
from engine.messages import EngineCoreOutput, EngineCoreRequest
from engine.scheduling.scheduler import Scheduler
from engine.step import Blame, SchedulerOutput
from tests.support.fake_worker import FakeRunner, fake_info, fake_logit

CONSTANT_PREFIX = np.arange(1, 7, dtype=np.int32)
MAX_LEN = 120


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def request(call_id: str, pairs: list[list[int]], arrival_s: float = 1000.0, **extra: object) -> EngineCoreRequest:
    return EngineCoreRequest(
        call_id=call_id,
        token_ids=np.array([token for pair in pairs for token in pair], np.int32),
        pair_lens=np.array([len(pair) for pair in pairs], np.int32),
        arrival_s=arrival_s,
        **extra,  # type: ignore[arg-type]
    )


def scheduler(
    kv: int = 256, budget: int = 32, clock: Clock | None = None, causal: bool = True, **config: object
) -> Scheduler:
    settings_ = SchedulerConfig(**{"min_shared_tokens": 2, "max_num_seqs": 8, **config})  # type: ignore[arg-type]
    return Scheduler(
        settings_, fake_info(kv, budget), CONSTANT_PREFIX, causal, MAX_LEN if causal else budget, clock or Clock()
    )


def run_all(subject: Scheduler, runner: FakeRunner) -> list[EngineCoreOutput]:
    outputs = []
    while (plan := subject.schedule()) is not None:
        outputs += subject.update(runner.execute(plan))
    return outputs


def scores(outputs: list[EngineCoreOutput]) -> dict[tuple[str, int], float]:
    found: dict[tuple[str, int], float] = {}
    for output in outputs:
        for index, value in zip(output.indices, output.values, strict=True):
            assert (output.call_id, index) not in found, "answered twice"
            found[output.call_id, index] = round(float(value[0]), 3)
    return found


def expected(calls: dict[str, list[list[int]]]) -> dict[tuple[str, int], float]:
    return {(name, i): round(fake_logit(pair), 3) for name, pairs in calls.items() for i, pair in enumerate(pairs)}


PAIR = st.builds(
    lambda constant_prefix, body: [*CONSTANT_PREFIX.tolist(), *body] if constant_prefix else body,
    st.booleans(),
    st.lists(st.integers(0, 4), min_size=1, max_size=100),
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(PAIR, min_size=1, max_size=6), min_size=1, max_size=5),
    st.sampled_from([8, 16, 33, 64]),
    st.sampled_from(["off", "template", "query"]),
)
def test_every_pair_is_scored_with_all_its_tokens(calls: list[list[list[int]]], budget: int, cache: str) -> None:
    subject = scheduler(kv=256, budget=budget, prefix_cache=cache)
    named = {f"c{i}": pairs for i, pairs in enumerate(calls)}
    for name, pairs in named.items():
        subject.add(request(name, pairs, query_lens=np.full(len(pairs), 9, np.int32)))
    runner = FakeRunner(256)
    assert scores(run_all(subject, runner)) == expected(named)
    assert not subject.has_work
    for plan in runner.plans:
        assert plan.num_tokens <= budget
        assert plan.num_segments <= 8


class SchedulerMachine(RuleBasedStateMachine):
    """Calls come, are aborted and expire; steps run in order, out of memory, or die with their worker."""

    @initialize(
        budget=st.sampled_from([8, 16, 40]),
        kv=st.sampled_from([160, 300]),
        cache=st.sampled_from(["template", "query"]),
    )
    def start(self, budget: int, kv: int, cache: str) -> None:
        self.clock = Clock()
        self.budget = budget
        self.subject = scheduler(kv=kv, budget=budget, clock=self.clock, prefix_cache=cache)
        self.runner = FakeRunner(kv)
        self.plans: list[SchedulerOutput] = []
        self.calls: dict[str, list[list[int]]] = {}
        self.gone: set[str] = set()
        self.answers: dict[tuple[str, int], float | None] = {}

    @rule(
        pairs=st.lists(PAIR, min_size=1, max_size=5), priority=st.integers(-2, 2), patience=st.sampled_from([None, 3.0])
    )
    def add(self, pairs: list[list[int]], priority: int, patience: float | None) -> None:
        name = f"c{len(self.calls)}"
        self.calls[name] = pairs
        deadline = None if patience is None else self.clock.now + patience
        hints = np.full(len(pairs), 10, np.int32)
        self.subject.add(request(name, pairs, self.clock.now, priority=priority, deadline_s=deadline, query_lens=hints))

    @precondition(lambda self: self.calls)
    @rule(pick=st.integers(0, 100))
    def abort(self, pick: int) -> None:
        name = f"c{pick % len(self.calls)}"
        self.gone.add(name)
        self.subject.abort(name)

    @precondition(lambda self: len(self.plans) < 3)
    @rule()
    def plan(self) -> None:
        plan = self.subject.schedule()
        if plan is not None:
            assert plan.num_tokens <= self.budget
            self.plans.append(plan)

    @precondition(lambda self: self.plans)
    @rule()
    def run_step(self) -> None:
        self._take(self.subject.update(self.runner.execute(self.plans.pop(0))))

    @precondition(lambda self: self.plans)
    @rule(out_of_memory=st.booleans())
    def lose_steps(self, out_of_memory: bool) -> None:
        self.plans.clear()
        self.runner.kv_cache[:] = -1
        outputs, _ = self.subject.replay(StepFailedError("lost"), out_of_memory=out_of_memory)
        self._take(outputs)

    @rule(seconds=st.sampled_from([0.1, 2.0, 50.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds
        self._take(self.subject.expire())

    def _take(self, outputs: list[EngineCoreOutput]) -> None:
        for output in outputs:
            for index, value in zip(output.indices, output.values, strict=True):
                self._answer(output.call_id, index, round(float(value[0]), 3))
            for index in output.errors:
                self._answer(output.call_id, index, None)
            done = {index for name, index in self.answers if name == output.call_id}
            assert (output.stats is not None) == (len(done) == len(self.calls[output.call_id]))

    def _answer(self, name: str, index: int, score: float | None) -> None:
        assert name not in self.gone, "an aborted call was answered"
        assert (name, index) not in self.answers, "answered twice"
        if score is not None:
            assert score == round(fake_logit(self.calls[name][index]), 3)
        self.answers[name, index] = score

    @invariant()
    def memory_is_accounted_for(self) -> None:
        if hasattr(self, "subject"):
            stats = self.subject.stats()
            assert 0 <= stats.kv_used_tokens <= self.runner.kv_cache.size

    def teardown(self) -> None:
        if not hasattr(self, "subject"):
            return
        for plan in self.plans:
            self._take(self.subject.update(self.runner.execute(plan)))
        self._take(run_all(self.subject, self.runner))
        wanted = {(name, i) for name, pairs in self.calls.items() if name not in self.gone for i in range(len(pairs))}
        assert wanted <= set(self.answers)
        assert not self.subject.has_work
        stats = self.subject.stats()
        assert stats.num_waiting_tokens == 0
        assert stats.kv_used_tokens == stats.prefix_store_tokens, "an abort or a failure left slots behind"


SchedulerMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestSchedulerMachine = SchedulerMachine.TestCase


def test_a_query_is_computed_once_for_all_its_documents() -> None:
    query = [*CONSTANT_PREFIX.tolist(), *range(100, 120)]
    pairs = [[*query, 200 + i, 300 + i, 301] for i in range(30)]
    subject, runner = scheduler(), FakeRunner(256)
    subject.add(request("c", pairs))
    assert scores(run_all(subject, runner)) == expected({"c": pairs})
    assert sum(plan.num_tokens for plan in runner.plans) == len(query) + 30 * 3


def test_the_template_is_computed_once_for_all_calls() -> None:
    subject, runner = scheduler(), FakeRunner(256)
    for i in range(5):
        subject.add(request(f"c{i}", [[*CONSTANT_PREFIX.tolist(), 50 + i, 51]]))
        run_all(subject, runner)
    assert sum(plan.num_tokens for plan in runner.plans) == len(CONSTANT_PREFIX) + 5 * 2


def test_queries_are_kept_only_where_asked_for_and_only_in_their_scope() -> None:
    pair = [*CONSTANT_PREFIX.tolist(), *range(100, 110)]
    hints = np.array([len(pair)], np.int32)
    for cache, scopes, tokens in [
        ("template", ["", ""], 6 + 12 + 12),
        ("query", ["", ""], 6 + 12 + 2),
        ("query", ["a", "b"], 6 + 12 + 12),
    ]:
        subject, runner = scheduler(prefix_cache=cache), FakeRunner(256)
        for i, scope in enumerate(scopes):
            subject.add(request(f"c{i}", [[*pair, 7 + i, 9]], query_lens=hints, cache_scope=scope))
            run_all(subject, runner)
        assert sum(plan.num_tokens for plan in runner.plans) == tokens


def test_a_long_document_runs_in_chunks_beside_others() -> None:
    long = [*CONSTANT_PREFIX.tolist(), *range(100, 214)]
    subject, runner = scheduler(budget=32), FakeRunner(256)
    subject.add(request("long", [long]))
    subject.add(request("short", [[*CONSTANT_PREFIX.tolist(), 9, 9]]))
    outputs = run_all(subject, runner)
    assert scores(outputs) == expected({"long": [long], "short": [[*CONSTANT_PREFIX.tolist(), 9, 9]]})
    assert outputs[0].call_id == "short", "the short call does not wait for the long one"


def test_nobody_starves() -> None:
    """A large call under an endless stream of small ones ends within the time that its size buys."""
    clock = Clock()
    subject, runner = scheduler(clock=clock, ageing_tokens_per_s=100.0), FakeRunner(256)
    large = [[*CONSTANT_PREFIX.tolist(), *range(i, i + 20)] for i in range(0, 400, 25)]
    subject.add(request("large", large, clock.now))
    for i in range(1000):
        subject.add(request(f"s{i}", [[*CONSTANT_PREFIX.tolist(), 1000 + i, *range(20)]], clock.now))
        plan = subject.schedule()
        assert plan is not None
        if any(output.call_id == "large" and output.stats for output in subject.update(runner.execute(plan))):
            break
        clock.now += 0.1
    else:
        pytest.fail("the large call starved")
    remaining_tokens = sum(len(pair) for pair in large)
    assert clock.now - 1000.0 <= remaining_tokens / 100.0 + 3.0


def test_priority_goes_first() -> None:
    subject, runner = scheduler(budget=16, prefix_cache="off"), FakeRunner(256)
    for name, priority in [("low", 5), ("high", -5), ("mid", 0)]:
        subject.add(request(name, [list(range(12))], priority=priority))
    assert [output.call_id for output in run_all(subject, runner)] == ["high", "mid", "low"]


@pytest.mark.parametrize("worker_broke_before", [False, True])
def test_one_poisonous_pair_fails_alone(worker_broke_before: bool) -> None:
    pairs = [[*CONSTANT_PREFIX.tolist(), 100 + i, 1] for i in range(7)]
    pairs[3].append(666)
    subject, runner = scheduler(), FakeRunner(256, poison=666)
    subject.add(request("c", pairs))
    outputs: list[EngineCoreOutput] = []
    blames: list[Blame] = []
    if worker_broke_before:
        assert subject.schedule() is not None
        assert subject.replay(StepFailedError("the worker's own fault"), blame_pairs=False) == ([], "unknown")
    for _ in range(20):
        plan = subject.schedule()
        if plan is None:
            break
        try:
            outputs += subject.update(runner.execute(plan))
        except RuntimeError as error:
            runner.kv_cache[:] = -1
            lost, blame = subject.replay(StepFailedError(str(error)))
            outputs += lost
            blames.append(blame)
    assert blames == ["unknown", *["narrowed"] * (len(blames) - 2), "found"]
    assert {index for output in outputs for index in output.errors} == {3}
    assert set(scores(outputs)) == {("c", i) for i in range(7) if i != 3}
    assert outputs[-1].stats is not None


def test_a_nonfinite_score_is_an_error_for_that_pair_alone() -> None:
    subject, runner = scheduler(), FakeRunner(256)
    subject.add(request("c", [[1, 2, 3], [4, 5, 6]]))
    plan = subject.schedule()
    assert plan is not None
    output = runner.execute(plan)
    output.values[0, 0] = np.nan
    (answer,) = subject.update(output)
    assert len(answer.errors) == len(answer.indices) == 1
    assert next(iter(answer.errors.values())).type == "non_finite_score"


def test_encoders_pack_whole_pairs() -> None:
    pairs = [[1, 2, 3]] * 2 + [[1, 2, 4], list(range(30))]
    subject, runner = scheduler(kv=0, budget=32, causal=False), FakeRunner(0)
    subject.add(request("c", pairs, token_type_ids=np.zeros(39, np.int32)))
    assert scores(run_all(subject, runner)) == expected({"c": pairs})
    assert [plan.num_tokens for plan in runner.plans] == [6, 30] or sum(p.num_tokens for p in runner.plans) == 36
    assert all((plan.context_ids == -1).all() for plan in runner.plans)


def test_the_template_is_kept_only_where_the_longest_pair_fits_beside_it() -> None:
    pair = [*CONSTANT_PREFIX.tolist(), *range(MAX_LEN - len(CONSTANT_PREFIX))]
    for kv, num_computed in (
        (MAX_LEN, 2 * MAX_LEN),
        (MAX_LEN + len(CONSTANT_PREFIX), 2 * MAX_LEN - len(CONSTANT_PREFIX)),
    ):
        subject, runner = scheduler(kv=kv), FakeRunner(kv)
        for name in ("a", "b"):
            subject.add(request(name, [pair]))
            assert scores(run_all(subject, runner)) == expected({name: [pair]})
        assert sum(plan.num_tokens for plan in runner.plans) == num_computed
