"""The cost model from isolated calls, then the same calls through real replicas and through the simulator."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.scale_sim.cost_model import CostModel, fit, worst_error
from benchmarks.scale_sim.real import (
    CONSTANT_PREFIX,
    STORE_TOKENS,
    TOKEN_BUDGET,
    isolated,
    make_model,
    open_loop,
    replicas,
)
from benchmarks.scale_sim.replica import ReplicaSettings
from benchmarks.scale_sim.simulate import Cluster, quantile, simulate
from benchmarks.scale_sim.traffic import Shape, poisson

ROUNDS = 5
SHAPE = Shape(query_tokens=200, document_tokens=40, documents=10, num_queries=60)
LOADS = (0.5, 0.8)


def validate(seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_validate(make_model(Path(folder) / "model"), seconds))


async def _validate(model: Path, seconds: float) -> dict[str, Any]:
    runs = []
    async with replicas(model, 1) as client:
        rough = fit(await isolated(client, ROUNDS))
    for num_replicas in (1, 2):
        for load in LOADS:
            runs.append(await _compare(model, rough, num_replicas, load, seconds))
    return {"shape": asdict(SHAPE), "runs": runs}


async def _compare(model: Path, rough: CostModel, num_replicas: int, load: float, seconds: float) -> dict[str, Any]:
    """``load``: of the devices, if no query were ever kept. The cost model is measured before and after the run, as a
    machine that others use is not equally fast all the time."""
    service = rough.step.seconds(int(SHAPE.mean_tokens), int(SHAPE.mean_tokens * (CONSTANT_PREFIX + 150)))
    rate = load * num_replicas / service
    calls = poisson(SHAPE, rate, int(rate * seconds), seed=int(100 * load) + num_replicas)
    async with replicas(model, num_replicas) as client:
        samples = await isolated(client, ROUNDS)
        hits = client.stats.prefix_hits
        real = await open_loop(client, calls)
        samples += await isolated(client, ROUNDS)
    cost_model = fit(samples)
    settings = ReplicaSettings(
        cost_model=cost_model, token_budget=TOKEN_BUDGET, constant_prefix=CONSTANT_PREFIX, store_tokens=STORE_TOKENS
    )
    simulated = simulate(Cluster(replica=settings, num_replicas=num_replicas), calls)
    busy = statistics.fmean(simulated.busy) * simulated.makespan_s * num_replicas
    return {
        "replicas": num_replicas,
        "load": load,
        "calls": len(calls),
        "calls_per_s": rate,
        "hits_before": hits,
        "cost_model": {
            **asdict(cost_model.step),
            "overhead_s": cost_model.overhead_s,
            "worst_error": worst_error(cost_model, samples),
        },
        "real": {
            **_summary(real.latencies_s, real.computed_tokens, real.hits, real.makespan_s),
            "device_s": real.device_s,
            "num_steps": real.num_steps,
        },
        "simulated": {
            **_summary(simulated.latencies_s, simulated.computed_tokens, simulated.hits, simulated.makespan_s),
            "device_s": busy,
            "num_steps": simulated.num_steps,
        },
    }


def _summary(latencies: Sequence[float], computed: int, hits: int, makespan: float) -> dict[str, float]:
    return {
        "mean_s": statistics.fmean(latencies),
        "p50_s": quantile(latencies, 0.5),
        "p90_s": quantile(latencies, 0.9),
        "p99_s": quantile(latencies, 0.99),
        "computed_tokens": computed,
        "hits": hits,
        "makespan_s": makespan,
    }
