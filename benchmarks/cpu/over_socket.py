"""The same calls offline and over HTTP from eight callers, turn by turn: what the way through the server costs."""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.cpu.workloads import W2_LENGTHS, Writer
from engine.entrypoints.llm import LLM
from tests.e2e.server import ServerProcess

CALLERS = 8
CALLS = 16


def over_socket(model: Path, num_threads: int, rounds: int) -> dict[str, Any]:
    writer = Writer(model)
    calls = [(writer.write(32), [writer.write(length) for length in W2_LENGTHS]) for _ in range(CALLS)]
    pairs = [(query, document) for query, documents in calls for document in documents]
    walls: dict[str, list[float]] = {"offline": [], "socket": []}
    arguments = (model, "--cpu-threads", str(num_threads))
    with LLM(str(model), cpu_threads=num_threads) as llm, ServerProcess(*arguments) as server:

        def ask(call: tuple[str, list[str]]) -> list[float]:
            answer = server.post("/v1/score", {"text_1": call[0], "text_2": call[1]})
            answer.raise_for_status()
            return [entry["score"] for entry in answer.json()["data"]]

        for _ in range(rounds):
            started = time.perf_counter()
            outputs = llm.score([query for query, _ in pairs], [document for _, document in pairs], use_tqdm=False)
            walls["offline"].append(time.perf_counter() - started)
            started = time.perf_counter()
            with ThreadPoolExecutor(CALLERS) as callers:
                answers = list(callers.map(ask, calls))
            walls["socket"].append(time.perf_counter() - started)
    served = [score for answer in answers for score in answer]
    tokens = sum(len(output.token_ids) for output in outputs)
    ratios = [a / b for a, b in zip(walls["offline"], walls["socket"], strict=True)]
    return {
        "callers": CALLERS,
        "calls": CALLS,
        "tokens": tokens,
        "walls_s": walls,
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "largest_score_difference": max(abs(a - b.outputs.score) for a, b in zip(served, outputs, strict=True)),
    }


def render(result: dict[str, Any]) -> str:
    offline, socket = (statistics.median(result["walls_s"][name]) for name in ("offline", "socket"))
    low, high = min(result["ratios"]), max(result["ratios"])
    return (
        f"{result['calls']} calls of {len(W2_LENGTHS)} documents: offline {result['tokens'] / offline:.0f} tok/s, over "
        f"the socket from {result['callers']} callers {result['tokens'] / socket:.0f} tok/s: {result['ratio']:.1%} "
        f"({low:.1%}-{high:.1%}); scores differ by at most {result['largest_score_difference']:.0e}"
    )
