"""Products with tasks of several sizes, in turn: whether a search finds more than the cache's size says."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from engine.backends.cpu.task_limits import Limits, candidates
from engine.kernels.cpu.linear import CpuLinear
from engine.kernels.cpu.ops import CpuOps

SHAPES = {"up": (6144, 1024), "down": (1024, 3072)}
"""Rows and columns of two weights of the 0.6B model."""
ARITHMETICS = (None, "int16", "int8")


def limits(num_threads: int, num_rows: list[int], rounds: int, isa: str | None) -> list[dict[str, Any]]:
    return [
        _compare(CpuOps(num_threads, arithmetic, isa=isa), rows, rounds)
        for arithmetic in ARITHMETICS
        for rows in num_rows
    ]


def _compare(ops: CpuOps, num_rows: int, rounds: int) -> dict[str, Any]:
    weights = {name: _weight(ops, *shape) for name, shape in SHAPES.items()}
    inputs = {name: torch.randn(num_rows, shape[1]) for name, shape in SHAPES.items()}
    sizes = candidates(ops.runtime.task_limits)
    times: dict[tuple[Limits, str], list[float]] = {(size, name): [] for size in sizes for name in SHAPES}
    for _ in range(rounds):
        for size in sizes:
            ops.runtime.task_limits = size
            for name, weight in weights.items():
                started = time.perf_counter()
                ops.linear(inputs[name], weight)
                times[size, name].append(time.perf_counter() - started)
    medians = {key: statistics.median(taken) for key, taken in times.items()}
    speeds = {
        f"{size[0] >> 10} KiB, {size[1]} columns": {
            name: medians[sizes[0], name] / medians[size, name] for name in SHAPES
        }
        for size in sizes
    }
    return {"ops": ops.description, "rows": num_rows, "speed_by_first": speeds}


def _weight(ops: CpuOps, out_features: int, in_features: int) -> CpuLinear:
    weight = ops.new_linear(out_features, in_features)
    weight.load_rows(0, torch.randn(out_features, in_features).to(torch.bfloat16))
    return weight


def render(results: list[dict[str, Any]]) -> str:
    lines = []
    for result in results:
        for name in SHAPES:
            speeds = [each[name] for each in result["speed_by_first"].values()]
            line = f"{result['ops']}, {result['rows']} rows, {name}: {min(speeds):.2f} to {max(speeds):.2f} times"
            lines.append(line + " the speed of the size by the cache")
    return "\n".join(lines)
