"""Which share of what the instructions allow the whole engine reaches on W2, by its own ``--profile``.

A round is one call for each arithmetic, and the ceiling is measured before and after each call, because a shared
machine is not equally fast for long. The share counts the operations of the products of computed tokens alone, once
over the time of the products and once over that of the whole steps. The best round stands beside the median, because
the ceiling is the best moment of its twenty tries, and a neighbour on the same core costs the products more.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.cpu.workloads import build_workloads
from engine.backends.measure.profiler import LINEAR
from engine.entrypoints.offline.llm import LLM

CALLS = 2


def shares(model: Path, num_threads: int, rounds: int) -> dict[str, Any]:
    workload = next(workload for workload in build_workloads(model) if workload.name == "W2")
    samples: dict[str, list[dict[str, float]]] = {"fp32": [], "int16": [], "int8": []}
    for _ in range(rounds):
        for name, results in samples.items():
            with tempfile.TemporaryDirectory() as folder:
                quantization = None if name == "fp32" else name
                with LLM(str(model), quantization=quantization, cpu_threads=num_threads, profile=folder) as llm:
                    for _ in range(CALLS):
                        llm.score(workload.queries, workload.documents, use_tqdm=False)
                results.append(_sample(json.loads((Path(folder) / "ops-0.json").read_text())))
    return {
        name: {
            **{key: statistics.median(sample[key] for sample in results) for key in results[0]},
            "best": max(results, key=lambda sample: sample["products"]),
            "samples": results,
        }
        for name, results in samples.items()
    }


def _sample(report: dict[str, Any]) -> dict[str, float]:
    products = [total for name, total in report["ops"].items() if name in LINEAR]
    gflop, seconds = sum(total["gflop"] for total in products), sum(total["seconds"] for total in products)
    ceiling = report["ceilings"]["linear"]
    return {
        "ceiling": ceiling,
        "products": gflop / seconds,
        "steps": gflop / report["seconds"],
        "share_of_products": gflop / seconds / ceiling,
        "share_of_steps": gflop / report["seconds"] / ceiling,
    }


def render(result: dict[str, Any]) -> str:
    title = "W2, products' G(FL)OP/s over the products' time and over whole steps"
    lines = [f"{title}; shares of the ceiling; medians (best round)"]
    for name, row in result.items():
        shares_of, best = (f"{r['share_of_products']:.0%}, {r['share_of_steps']:.0%}" for r in (row, row["best"]))
        rates = f"{row['products']:7.1f} {row['steps']:7.1f} of {row['ceiling']:7.1f}"
        lines.append(f"{name:6s} {rates}: {shares_of} ({best})")
    return "\n".join(lines)
