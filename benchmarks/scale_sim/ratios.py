"""Real ratios, runs in turn: two replicas against one, affinity against round-robin, each replica on its own core."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.scale_sim.real import RealOutcome, closed_loop, make_model, replicas
from benchmarks.scale_sim.traffic import Call, Shape, poisson

TURNS = 4
CALLS_PER_S = 10
"""Calls of a run for each second of ``--seconds``; how long it takes is what is measured."""
DISTINCT = Shape(query_tokens=60, document_tokens=80, documents=10, num_queries=10**6, zipf=0.0)
REPEATED = Shape(query_tokens=200, document_tokens=40, documents=8, num_queries=40, zipf=0.5)
"""Its queries fill the stores of two replicas together, and one store half."""


def ratios(seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder) / "model")
        return {
            "two_against_one": _turns(model, DISTINCT, {"one": (1, False), "two": (2, False)}, seconds),
            "affinity_against_round_robin": _turns(
                model, REPEATED, {"round_robin": (2, True), "affinity": (2, False)}, seconds
            ),
        }


def _turns(model: Path, shape: Shape, sides: dict[str, tuple[int, bool]], seconds: float) -> dict[str, Any]:
    """The first side is the baseline; all runs do the same calls."""
    found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    calls = poisson(shape, 1.0, int(CALLS_PER_S * seconds), seed=0)
    for _ in range(TURNS):
        for side, (num_replicas, round_robin) in sides.items():
            outcome = asyncio.run(_run(model, calls, num_replicas, round_robin=round_robin))
            found[side].append(_figures(outcome))
    base, other = found.values()
    pairs = list(zip(base, other, strict=True))
    return {
        "calls": len(calls),
        "runs": found,
        "speed_ratios": [b["makespan_s"] / o["makespan_s"] for b, o in pairs],
        "speed_ratio": statistics.median(b["makespan_s"] / o["makespan_s"] for b, o in pairs),
        "computed_ratio": statistics.median(o["computed_tokens"] / b["computed_tokens"] for b, o in pairs),
    }


async def _run(model: Path, calls: list[Call], num_replicas: int, *, round_robin: bool) -> RealOutcome:
    async with replicas(model, num_replicas, round_robin=round_robin) as client:
        return await closed_loop(client, calls, concurrency=8)


def _figures(outcome: RealOutcome) -> dict[str, float]:
    return {
        "makespan_s": outcome.makespan_s,
        "logical_tokens_per_s": outcome.logical_tokens / outcome.makespan_s,
        "computed_tokens": outcome.computed_tokens,
        "hits": outcome.hits,
        "p50_s": statistics.median(outcome.latencies_s),
    }
