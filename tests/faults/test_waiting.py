"""How long a call would wait, and who is refused for it: on a simulated clock, with a server that answers so many
tokens a second."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from engine.config import ServerConfig
from engine.entrypoints.serve.admission import Admission, AdmissionPermit, CallSize
from engine.entrypoints.serve.waiting import FULL_SHARE, ModelQueue, Speed
from engine.errors import OverloadedError

SPEED = 1000
"""Tokens a second of the simulated server."""


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def size(work: int) -> CallSize:
    return CallSize(1, work, work)


class Simulation:
    """A server with default limits that answers the oldest call first, a tenth of a second of work at a time."""

    def __init__(self, config: ServerConfig | None = None) -> None:
        self.clock = Clock()
        self.admission = Admission(config or ServerConfig(), self.clock)
        self.inside: list[tuple[AdmissionPermit, float, int]] = []
        self.waits_s: list[float] = []
        self.answered = 0
        self.room = 0.0

    def offer(self, work: int, **more: float) -> OverloadedError | None:
        caller = f"caller {self.clock.now} {len(self.inside)}"
        try:
            permit = self.admission.admit(size(work), caller, model="m", **more)
        except OverloadedError as error:
            return error
        self.inside.append((permit, self.clock.now, work))
        return None

    def step(self, seconds: float = 0.1) -> None:
        self.clock.now += seconds
        self.room += SPEED * seconds
        while self.inside and self.room >= self.inside[0][0].open_work:
            permit, came_s, work = self.inside.pop(0)
            self.room -= permit.open_work
            permit.answered(1)
            permit.release()
            self.waits_s.append(self.clock.now - came_s)
            self.answered += work

    def know_the_speed(self) -> None:
        while self.offer(SPEED // 10) is None and len(self.inside) < 20:
            pass
        for _ in range(10):
            self.step()


@pytest.mark.parametrize("factor", [2, 5, 10])
def test_at_any_overload_the_goodput_is_the_capacity_and_nobody_waits_longer_than_the_limit(factor: int) -> None:
    rng, run = random.Random(factor), Simulation()
    offered: Counter[int] = Counter()
    admitted: Counter[int] = Counter()
    steps = 1200
    for _ in range(steps):
        asked = 0
        while asked < factor * SPEED // 10:
            work = 2 ** rng.randrange(1, 7)
            offered[work] += 1
            admitted[work] += run.offer(work) is None
            asked += work
        run.step()
    assert run.answered >= 0.95 * SPEED * steps / 10
    late = sorted(run.waits_s[len(run.waits_s) // 10 :])[int(0.99 * 0.9 * len(run.waits_s))]
    assert late <= ServerConfig.max_queue_seconds
    # Large calls are let in as often as small ones.
    shares = [admitted[work] / offered[work] for work in offered]
    assert max(shares) < 1.3 * min(shares), dict(zip(offered, shares, strict=True))


def test_a_call_of_ten_thousand_documents_keeps_no_short_call_out() -> None:
    run = Simulation()
    run.know_the_speed()
    assert run.offer(60 * SPEED) is None, "its own size is no wait"
    assert all(run.offer(20) is None for _ in range(20))
    refused = run.offer(60 * SPEED)
    assert refused is not None, "a second one would wait for all of the first"
    assert 50 < (refused.retry_after_s or 0) < 61
    while run.offer(20) is None:
        pass
    short_s = run.admission.queues["m"].work / SPEED - 60
    full_s = FULL_SHARE * ServerConfig.max_queue_seconds
    assert short_s == pytest.approx(full_s / 2, abs=0.3), (
        "short calls have half of each step, so half the limit of them"
    )


def test_a_call_that_would_outwait_its_caller_is_refused_at_once() -> None:
    run = Simulation()
    run.know_the_speed()
    while run.admission.queues["m"].work < 2 * SPEED:
        run.offer(50)
    refused = run.offer(10, client_timeout_s=0.5)
    assert refused is not None
    assert "0.5 s that its caller waits" in str(refused)
    assert 1.5 <= (refused.retry_after_s or 0) <= 2.5
    assert run.offer(10, client_timeout_s=3.0) is None
    for _ in range(round(10 * (refused.retry_after_s or 0))):
        run.step()
    assert run.offer(10, client_timeout_s=0.5) is None, "Retry-After was right"


def test_without_a_limit_only_the_callers_own_one_counts() -> None:
    run = Simulation(ServerConfig(max_queue_seconds=0))
    run.know_the_speed()
    assert all(run.offer(SPEED) is None for _ in range(100))
    assert run.offer(10, client_timeout_s=10.0) is not None


def test_models_wait_for_themselves_only() -> None:
    run = Simulation()
    run.know_the_speed()
    while run.offer(100) is None:
        pass
    assert run.admission.wait_s == pytest.approx(FULL_SHARE * ServerConfig.max_queue_seconds, abs=0.3)
    run.admission.admit(size(10**6), "somebody", model="another")


def test_a_few_calls_that_wait_for_one_another_say_nothing_about_speed() -> None:
    clock = Clock()
    queue = ModelQueue(clock)
    for _ in range(50):
        queue.change(0, 10)
        clock.now += 0.2
        queue.change(10, 0)
        queue.speed.done(10, queue.work)
    assert queue.speed.tokens_per_s is None
    assert queue.wait_s(10, 5.0) == 0.0


def test_the_speed_forgets_and_pauses_do_not_count() -> None:
    clock = Clock()
    speed = Speed(clock)
    assert speed.seconds_for(10**9) == 1.0, "nothing is known yet"

    def work(tokens_per_s: float, seconds: float) -> None:
        for _ in range(round(seconds * 10)):
            clock.now += 0.1
            speed.done(round(tokens_per_s / 10), 10**6)

    work(500, 10)
    assert speed.tokens_per_s == pytest.approx(500, rel=0.02)
    clock.now += 3600  # a quiet hour says nothing about speed
    speed.start()
    work(500, 1)
    assert speed.tokens_per_s == pytest.approx(500, rel=0.02)
    work(5000, 15)
    assert speed.tokens_per_s == pytest.approx(4400, rel=0.1)
