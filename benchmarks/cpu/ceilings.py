"""What the instructions allow, and which share of it the products of the model reach.

A ceiling is a loop of multiply-adds whose operands never leave the registers, on all threads at once. Products are the
four of a Qwen3-0.6B layer with their epilogues, beside torch's own. Every number is the median of rounds that take
turns, so that a busy machine slows all of them alike.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from engine.kernels.cpu.ops import CpuOps

KINDS = ("fp32", "int16", "int8")
SHAPES = {"qkv": (4096, 1024), "o": (1024, 2048), "gate_up": (6144, 1024), "down": (1024, 3072)}
"""Outputs and inputs."""


def products(num_threads: int, rows: list[int], rounds: int, isa: str | None = None) -> dict[str, Any]:
    runs: dict[str, tuple[float, Callable[[], Any]]] = {}
    ceilings: dict[str, list[float]] = {}
    all_ops = {name: CpuOps(num_threads, None if name == "fp32" else name, isa=isa) for name in KINDS}
    torch.set_num_threads(num_threads)
    for count in rows:
        for shape, (outputs, inputs) in SHAPES.items():
            gflop = 2e-9 * count * outputs * inputs
            x, weight = torch.randn(count, inputs), torch.randn(outputs, inputs) / inputs**0.5
            for name, ops in all_ops.items():
                runs[f"{name} {shape} {count}"] = gflop, _product(ops, shape, x, weight)
            runs[f"torch {shape} {count}"] = gflop, partial(F.linear, x, weight)
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for kind, ops in all_ops.items():
            ceilings.setdefault(kind, []).append(ops.ceiling())
        for name, (gflop, run) in runs.items():
            started = time.perf_counter()
            run()
            rates[name].append(gflop / (time.perf_counter() - started))
    return {
        "isa": all_ops["fp32"].isa,
        "threads": num_threads,
        "ceilings": {kind: _spread(values) for kind, values in ceilings.items()},
        "products": {name: _spread(values) for name, values in rates.items()},
    }


def _product(ops: CpuOps, shape: str, x: torch.Tensor, weight: torch.Tensor) -> Callable[[], Any]:
    packed = ops.new_linear(*weight.shape)
    packed.load_rows(0, weight)
    activation = ops._activation(x)
    if shape == "gate_up":
        return lambda: ops.linear_swiglu(activation, packed)
    if shape == "qkv":
        return lambda: ops.linear(activation, packed)
    residual = torch.zeros(len(x), len(weight))
    return lambda: ops.linear_residual(activation, packed, residual)


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "best": max(values), "worst": min(values)}


def render(result: dict[str, Any]) -> str:
    lines = [f"{result['isa']}, {result['threads']} threads; G(FL)OP/s, median (best)"]
    tops = {kind: spread["best"] for kind, spread in result["ceilings"].items()}
    for kind, spread in result["ceilings"].items():
        lines.append(f"ceiling {kind:6s} {spread['median']:8.1f} ({spread['best']:.1f})")
    for name, spread in result["products"].items():
        kind = name.split()[0]
        top = tops.get(kind, tops["fp32"])
        shares = f"{spread['median'] / top:4.0%} ({spread['best'] / top:.0%}) of the ceiling"
        lines.append(f"{name:22s} {spread['median']:8.1f} ({spread['best']:.1f})  {shares}")
    return "\n".join(lines)
