"""The engine beside its peers: each in a process of its own, all on the same tokens, turn by turn.

First every contender is swept over its batch sizes, then rounds follow in which each scores every workload once, in an
order that changes from round to round. Ratios are taken inside a round and their median and range reported, so that
what else the machine does slows both sides. CPU seconds are kept too: on a machine that others use, they say what wall
time cannot (threads that wait actively count as busy).
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cpu.machine import load_average
from benchmarks.cpu.workloads import Workload

Sample = dict[str, Any]


class Process:
    """A contender at the other end of a pipe."""

    def __init__(self, name: str, model: Path, num_threads: int, work: Path, environment: Mapping[str, str]) -> None:
        command = [sys.executable, "-m", "benchmarks.cpu.contenders", name, str(model), str(num_threads), str(work)]
        self.name = name
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
        )
        self.batch_sizes: list[int] = self._read()["batch_sizes"]

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with code {self._process.wait()}; see its messages above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


def start(
    names: Sequence[str], model: Path, num_threads: int, work: Path, isa: str | None = None
) -> tuple[list[Process], dict[str, str]]:
    """Those that start, and why the others did not. ``isa="avx2"``: none of them sees more of the processor."""
    running, failed = [], {}
    environment = {"LD_PRELOAD": str(only_avx2(work))} if isa == "avx2" else {}
    for name in names:
        try:
            running.append(Process(name, model, num_threads, work, environment))
        except RuntimeError as error:
            failed[name] = str(error)
    return running, failed


def only_avx2(work: Path) -> Path:
    """The library that hides what goes beyond AVX2, compiled."""
    work.mkdir(parents=True, exist_ok=True)
    source, library = Path(__file__).with_name("only_avx2.c"), work.resolve() / "only_avx2.so"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    return library


def race(
    contenders: Sequence[Process],
    workloads: Sequence[Workload],
    prompts: Mapping[str, list[list[int]]],
    rounds: int,
    max_seconds: float = 120.0,
) -> dict[str, Any]:
    """Samples of every contender on every workload, at its best batch size."""
    best: dict[str, dict[str, int]] = {}
    sweeps: dict[str, dict[str, dict[int, Sample]]] = {}
    for contender in contenders:
        for workload in workloads:
            contender.ask(prepare=vars(workload), prompts=prompts[workload.name])
            sweep = _sweep(contender, workload, max_seconds)
            sweeps.setdefault(contender.name, {})[workload.name] = sweep
            best.setdefault(contender.name, {})[workload.name] = min(sweep, key=lambda size: sweep[size]["cpu_s"])
        print(f"{contender.name}: batch sizes {best[contender.name]}", flush=True)
    samples: dict[str, dict[str, list[Sample]]] = {c.name: {w.name: [] for w in workloads} for c in contenders}
    order = random.Random(0)
    loads = []
    for turn in range(rounds):
        loads.append(load_average())
        for workload in workloads:
            for contender in order.sample(list(contenders), len(contenders)):
                size = best[contender.name][workload.name]
                sample = contender.ask(run=workload.name, batch_size=size)
                samples[contender.name][workload.name].append(sample)
        print(f"round {turn + 1} of {rounds}, load {loads[-1]}", flush=True)
    return {"batch_sizes": best, "sweeps": sweeps, "samples": samples, "loads": loads}


def _sweep(contender: Process, workload: Workload, max_seconds: float) -> dict[int, Sample]:
    """One run of each size after a first one, in which libraries prepare."""
    results: dict[int, Sample] = {}
    contender.ask(run=workload.name, batch_size=contender.batch_sizes[0])
    spent = 0.0
    for size in contender.batch_sizes:
        if size > len(workload.documents) and results:
            break
        results[size] = contender.ask(run=workload.name, batch_size=size)
        spent += results[size]["wall_s"]
        if spent > max_seconds:
            break
    return results


def summarise(result: Mapping[str, Any], tokens: Mapping[str, int], num_threads: int) -> dict[str, Any]:
    """Rates and the largest difference of a logit from transformers', by contender and workload."""
    table: dict[str, Any] = {}
    oracle = result["samples"].get("transformers", {})
    for name, by_workload in result["samples"].items():
        for workload, samples in by_workload.items():
            walls = [tokens[workload] / sample["wall_s"] for sample in samples]
            busy = [tokens[workload] * num_threads / sample["cpu_s"] for sample in samples]
            row: dict[str, Any] = {
                "tokens_per_s": statistics.median(walls),
                "tokens_per_s_range": [min(walls), max(walls)],
                "tokens_per_busy_s": statistics.median(busy),
            }
            if oracle:
                pairs = zip(samples[-1]["logits"], oracle[workload][-1]["logits"], strict=True)
                row["max_logit_difference"] = max(abs(a - b) for a, b in pairs)
            table.setdefault(name, {})[workload] = row
    return table


def ratios(result: Mapping[str, Any], ours: str, theirs: str, workload: str, clock: str) -> tuple[float, float, float]:
    """Median, least and largest of (their time / our time) in the same round."""
    pairs = zip(result["samples"][ours][workload], result["samples"][theirs][workload], strict=True)
    values = [b[clock] / a[clock] for a, b in pairs]
    return statistics.median(values), min(values), max(values)
