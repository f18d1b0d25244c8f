"""The simulator against queueing theory and against itself, on toy sizes."""

from __future__ import annotations

import random
import statistics
from dataclasses import replace

import pytest

from benchmarks.scale_sim import simulate as simulator
from benchmarks.scale_sim.cost_model import CostModel, IsolatedCall, fit, worst_error
from benchmarks.scale_sim.replica import ReplicaSettings
from benchmarks.scale_sim.simulate import Cluster, Outcome, quantile, simulate
from benchmarks.scale_sim.traffic import Call, Shape, poisson
from engine.backends.cuda.planner import StepTime

LAW = CostModel(StepTime(0.001, 1e-5, 0.0))
SETTINGS = ReplicaSettings(cost_model=LAW, token_budget=1000, constant_prefix=10, store_tokens=2000)
SHAPE = Shape(query_tokens=100, document_tokens=50, documents=8, num_queries=40)


def run(cluster: Cluster, calls: list[Call]) -> Outcome:
    outcome = simulate(cluster, calls)
    assert len(outcome.latencies_s) == len(calls)
    assert min(outcome.latencies_s) > 0, "every call is answered"
    assert max(outcome.busy) <= 1 + 1e-9
    return outcome


def test_one_server_waits_as_queueing_theory_says() -> None:
    """M/D/1: calls that fill a step, one planned at a time; the mean wait is rho / (2 - 2 rho) services."""
    settings = replace(SETTINGS, token_budget=500, keeps_queries=False, pipeline_depth=1)
    shape = replace(SHAPE, spread=0.0)
    service = LAW.step.seconds(500, 0)
    for rho in (0.3, 0.6, 0.8):
        calls = poisson(shape, rho / service, 40_000, seed=1)
        outcome = run(Cluster(replica=settings, num_replicas=1), calls)
        wait = statistics.fmean(outcome.latencies_s) - service
        assert wait == pytest.approx(rho / (2 - 2 * rho) * service, rel=0.08)
        assert outcome.busy[0] == pytest.approx(rho, rel=0.02)


def test_tokens_are_counted_once() -> None:
    calls = poisson(SHAPE, 50.0, 500, seed=2)
    never = run(Cluster(replica=replace(SETTINGS, keeps_queries=False), num_replicas=3), calls)
    assert never.computed_tokens == sum(call.query_tokens + call.documents * call.document_tokens for call in calls)
    kept = run(Cluster(replica=SETTINGS, num_replicas=3), calls)
    assert kept.hits > 0
    assert never.computed_tokens - kept.computed_tokens == kept.hits * SHAPE.query_tokens


def test_the_routers_own_code_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[list[int], int | None]] = []
    real = simulator.choose_replica

    def watched(loads: list[int], usable: list[bool], affinity: int | None, slack_tokens: int, turn: int) -> int:
        seen.append((loads[:], affinity))
        assert slack_tokens == simulator.affinity_slack(SHAPE.query_tokens, SETTINGS.token_budget)
        return real(loads, usable, affinity, slack_tokens, turn)

    monkeypatch.setattr(simulator, "choose_replica", watched)
    calls = poisson(SHAPE, 100.0, 200, seed=3)
    run(Cluster(replica=SETTINGS, num_replicas=4), calls)
    assert len(seen) == 200
    assert all(affinity is not None for _, affinity in seen)
    assert any(sum(load > 0 for load in loads) > 1 for loads, _ in seen), "load is spread, and given back"


def test_affinity_computes_less_and_round_robin_more() -> None:
    calls = poisson(SHAPE, 300.0, 3000, seed=4)
    settings = replace(SETTINGS, store_tokens=1000)
    outcomes = {
        policy: run(Cluster(replica=settings, num_replicas=4, policy=policy), calls)
        for policy in ("affinity", "round_robin")
    }
    assert outcomes["affinity"].computed_tokens < 0.97 * outcomes["round_robin"].computed_tokens


def test_a_hot_query_is_spread_when_its_replica_is_behind() -> None:
    """All calls have one query: affinity alone would use one replica of four."""
    calls = poisson(replace(SHAPE, num_queries=1), 600.0, 2000, seed=5)
    outcome = run(Cluster(replica=SETTINGS, num_replicas=4), calls)
    assert min(outcome.busy) > 0.5 * max(outcome.busy)


def test_routers_that_know_a_part_of_the_load_have_longer_tails() -> None:
    shape = replace(SHAPE, num_queries=10_000, zipf=0.0)
    calls = poisson(shape, 16 * 0.8 / LAW.step.seconds(500, 0), 12_000, seed=6)
    cluster = Cluster(replica=SETTINGS, num_replicas=16, policy="least")
    one = run(cluster, calls)
    many = run(replace(cluster, num_routers=16, shared=True), calls)
    assert quantile(many.latencies_s, 0.99) > 1.1 * quantile(one.latencies_s, 0.99)


def test_a_router_that_is_too_slow_is_the_queue() -> None:
    calls = poisson(SHAPE, 200.0, 1000, seed=7)
    slow = run(Cluster(replica=SETTINGS, num_replicas=8, router_s=0.01), calls)
    assert slow.latencies_s[-1] > 100 * 0.01, "100 calls a second leave, 200 come"
    assert max(slow.busy) < 0.5


def test_more_replicas_serve_more() -> None:
    calls = poisson(SHAPE, 10_000.0, 2000, seed=8)
    times = [run(Cluster(replica=SETTINGS, num_replicas=n), calls).makespan_s for n in (1, 2, 4)]
    assert times[0] / times[1] == pytest.approx(2, rel=0.1)
    assert times[0] / times[2] == pytest.approx(4, rel=0.15)


def test_the_law_is_found_again_in_noise() -> None:
    rng = random.Random(0)
    truth = StepTime(0.002, 3e-5, 2e-8)
    samples = [
        IsolatedCall(tokens, tokens * 60, truth.seconds(tokens, tokens * 60) * rng.uniform(0.99, 1.03), 0.0)
        for tokens in (32, 64, 128, 256, 512, 1024)
        for _ in range(15)
    ]
    cost_model = fit([replace(sample, latency_s=sample.device_s + 0.004) for sample in samples])
    assert cost_model.overhead_s == pytest.approx(0.004, rel=1e-6)
    assert worst_error(cost_model, samples) < 0.02
    assert cost_model.step.seconds(700, 42_000) == pytest.approx(truth.seconds(700, 42_000), rel=0.05)
