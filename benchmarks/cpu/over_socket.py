"""The same calls offline and over HTTP from eight callers, turn by turn: what the way through the server costs."""

from __future__ import annotations

import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.cpu.workloads import W2_LENGTHS, Writer
from engine.entrypoints.offline.llm import LLM
from tests.e2e.server import ServerProcess

CALLERS = 8
CALLS = 8


def over_socket(model: Path, num_threads: int, rounds: int) -> dict[str, Any]:
    writer = Writer(model)
    calls = [(writer.write(32), [writer.write(length) for length in W2_LENGTHS]) for _ in range(CALLS)]
    pairs = [(query, document) for query, documents in calls for document in documents]
    walls: dict[str, list[float]] = {"offline": [], "socket": []}
    busy: dict[str, list[float]] = {"offline": [], "socket": []}
    arguments = (model, "--cpu-threads", str(num_threads))
    with LLM(str(model), cpu_threads=num_threads) as llm, ServerProcess(*arguments) as server:

        def ask(call: tuple[str, list[str]]) -> list[float]:
            answer = server.post("/v1/score", {"text_1": call[0], "text_2": call[1]})
            answer.raise_for_status()
            return [entry["score"] for entry in answer.json()["data"]]

        for _ in range(rounds):
            started, busy_before = time.perf_counter(), time.process_time()
            outputs = llm.score([query for query, _ in pairs], [document for _, document in pairs], use_tqdm=False)
            walls["offline"].append(time.perf_counter() - started)
            busy["offline"].append(time.process_time() - busy_before)
            started, busy_before = time.perf_counter(), time.process_time() + cpu_seconds(server.family())
            with ThreadPoolExecutor(CALLERS) as callers:
                answers = list(callers.map(ask, calls))
            walls["socket"].append(time.perf_counter() - started)
            busy["socket"].append(time.process_time() + cpu_seconds(server.family()) - busy_before)
    served = [score for answer in answers for score in answer]
    tokens = sum(len(output.token_ids) for output in outputs)
    ratios, busy_ratios = ([a / b for a, b in zip(t["offline"], t["socket"], strict=True)] for t in (walls, busy))
    return {
        "callers": CALLERS,
        "calls": CALLS,
        "tokens": tokens,
        "walls_s": walls,
        "cpu_s": busy,
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "cpu_ratio": statistics.median(busy_ratios),
        "largest_score_difference": max(abs(a - b.outputs.score) for a, b in zip(served, outputs, strict=True)),
    }


def cpu_seconds(pids: list[int]) -> float:
    """Of the client too, this is what the calls cost, however many others wanted the cores meanwhile."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(f[11]) + int(f[12]) for f in fields) / os.sysconf("SC_CLK_TCK")


def render(result: dict[str, Any]) -> str:
    offline, socket = (statistics.median(result["walls_s"][name]) for name in ("offline", "socket"))
    low, high = min(result["ratios"]), max(result["ratios"])
    return (
        f"{result['calls']} calls of {len(W2_LENGTHS)} documents: offline {result['tokens'] / offline:.0f} tok/s, over "
        f"the socket from {result['callers']} callers {result['tokens'] / socket:.0f} tok/s: {result['ratio']:.1%} "
        f"({low:.1%}-{high:.1%}), by CPU time {result['cpu_ratio']:.1%}; "
        f"scores differ by at most {result['largest_score_difference']:.0e}"
    )
