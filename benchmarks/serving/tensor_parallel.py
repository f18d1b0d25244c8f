"""Steps of one model on two cores: by two workers of one thread that share it, by one of one thread, by one of two.

``python -m benchmarks.serving.tensor_parallel --folder FOLDER`` makes a checkpoint with the layers of the 0.6B model
(eight of its 28, bf16) if the folder does not hold one yet, loads it three ways at once, and runs steps of several
sizes in turn (A B C A B C ...), so that a noisy machine troubles all alike. The other two wait for messages meanwhile.
A ratio is the median over the rounds of one way's time by another's in the same round, with its quartiles.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cpu.machine import machine
from engine.checkpoint.resolve import resolve_model
from engine.config import DeviceConfig, EngineConfig, ModelConfig, SchedulerConfig
from engine.executor.multiproc import MultiprocExecutor
from engine.step import SchedulerOutput
from tests.support.checkpoints import dims_0_6b

PREFIX, DOCUMENT = 64, 120
SIZES = {"one pair": 1, "8 documents": 8, "32 documents": 32}
WAYS = {"2 workers x 1 thread": (2, 1), "1 worker x 1 thread": (1, 1), "1 worker x 2 threads": (1, 2)}


def executor(folder: Path, size: int, threads: int) -> MultiprocExecutor:
    model = ModelConfig(model=str(folder), max_model_len=512)
    device = DeviceConfig(device="cpu", tensor_parallel_size=size, cpu_threads=threads)
    config = EngineConfig(model=model, scheduler=SchedulerConfig(max_num_batched_tokens=8192), device=device)
    return MultiprocExecutor(config, resolve_model(model))


def step(num_documents: int, kv_capacity: int) -> SchedulerOutput:
    """A query and its documents, which share it."""
    lengths = [PREFIX] + [DOCUMENT] * num_documents
    return SchedulerOutput(
        step_id=0,
        token_ids=np.random.default_rng(0).integers(0, 1500, sum(lengths)).astype(np.int32),
        segment_lens=np.array(lengths, np.int32),
        context_ids=np.array([-1] + [0] * num_documents, np.int32),
        context_indptr=np.array([0, 1], np.int32),
        context_ranges=np.array([[kv_capacity, PREFIX]], np.int32),
        keep_ranges=np.zeros((0, 3), np.int32),
        read_segments=np.arange(1, num_documents + 1, dtype=np.int32),
    )


def seconds(runs: MultiprocExecutor, plan: SchedulerOutput) -> float:
    started = time.perf_counter()
    runs.submit(plan).result()
    return time.perf_counter() - started


def quartiles(values: list[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(values, n=4)
    return {"median": median, "quartile_1": low, "quartile_3": high}


def measure(folder: Path, rounds: int) -> dict[str, Any]:
    ways = {name: executor(folder, *way) for name, way in WAYS.items()}
    try:
        result: dict[str, Any] = {
            "weight_mb": {name: way.info.weight_bytes / 2**20 / WAYS[name][0] for name, way in ways.items()}
        }
        for size, num_documents in SIZES.items():
            plans = {name: step(num_documents, way.info.kv_capacity) for name, way in ways.items()}
            for name, way in ways.items():
                seconds(way, plans[name])
            times: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(rounds):
                for name, way in ways.items():
                    times[name].append(seconds(way, plans[name]))
            shared, one, two = (times[name] for name in WAYS)
            result[size] = {
                "tokens": PREFIX + num_documents * DOCUMENT,
                "seconds": times,
                "faster_than_one_thread": quartiles([b / a for a, b in zip(shared, one, strict=True)]),
                "against_two_threads": quartiles([c / a for a, c in zip(shared, two, strict=True)]),
            }
        return result
    finally:
        for way in ways.values():
            way.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    if not (args.folder / "config.json").exists():
        dims_0_6b(args.folder, layers=args.layers)
    result = {"machine": machine(), "load_average": os.getloadavg(), **measure(args.folder, args.rounds)}
    print(json.dumps(result, indent=2))
    if args.output:
        args.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
