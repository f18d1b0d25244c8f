"""Time per document as documents multiply, and time per token as one document grows: both should stay flat, but for
what attention itself costs."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.cpu.workloads import growth_workloads
from engine.entrypoints.offline.llm import LLM

DOCUMENTS = (10, 30, 100, 300, 1000)
LENGTHS = (100, 300, 1000, 3000, 8000)


def growth(model: Path, num_threads: int, rounds: int) -> dict[str, Any]:
    llm = LLM(str(model), cpu_threads=num_threads, max_model_len=8400)
    workloads = growth_workloads(model, DOCUMENTS, LENGTHS)
    walls: dict[str, list[float]] = {workload.name: [] for workload in workloads}
    busy: dict[str, list[float]] = {workload.name: [] for workload in workloads}
    tokens: dict[str, int] = {}
    for _ in range(rounds):
        for workload in workloads:
            started, cpu_started = time.perf_counter(), time.process_time()
            outputs = llm.score(workload.queries, workload.documents, use_tqdm=False)
            walls[workload.name].append(time.perf_counter() - started)
            busy[workload.name].append(time.process_time() - cpu_started)
            tokens[workload.name] = sum(len(output.token_ids) for output in outputs)
    llm.close()
    return {
        workload.name: {
            "documents": len(workload.documents),
            "tokens": tokens[workload.name],
            "wall_s": statistics.median(walls[workload.name]),
            "cpu_s": statistics.median(busy[workload.name]),
        }
        for workload in workloads
    }


def render(result: dict[str, Any]) -> str:
    lines = ["growth: median ms a document, us a token; CPU us a token"]
    for name, row in result.items():
        per_document, per_token = 1e3 * row["wall_s"] / row["documents"], 1e6 * row["wall_s"] / row["tokens"]
        busy_per_token = 1e6 * row["cpu_s"] / row["tokens"]
        lines.append(f"{name:16s} {per_document:9.2f} ms  {per_token:8.1f} us  {busy_per_token:8.1f} us")
    return "\n".join(lines)
