"""``python -m benchmarks.cpu.eight_bits``: the speed of int8 products beside int16's, and what int8 does to logits.

Products: one thread, the projections of a layer of Qwen3-Reranker-0.6B, quantisation of the activations included; the
arithmetics take turns, medians of the rounds. With ``--model FOLDER``: the largest difference of a logit from fp32 on
the workloads of the race, for int16 and int8 and for int8 with other numbers of layers left in int16.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.cpu.machine import machine
from benchmarks.cpu.workloads import Workload, build_workloads
from engine.entrypoints.offline.llm import LLM
from engine.kernels.cpu import ops as cpu_ops
from engine.kernels.cpu.ops import CpuLinear, CpuOps

SHAPES = {"qkv": (4096, 1024), "o": (1024, 2048), "gate_up": (6144, 1024), "down": (1024, 3072)}
"""Outputs and inputs."""
ROWS = (128, 256, 730, 1024)


def products(isa: str | None, rounds: int) -> list[dict[str, Any]]:
    both = {name: CpuOps(1, name, isa=isa) for name in ("int16", "int8")}
    found = []
    for shape, (outputs, inputs) in SHAPES.items():
        weights: dict[str, CpuLinear] = {name: ops.new_linear(outputs, inputs) for name, ops in both.items()}
        for weight in weights.values():
            weight.load_rows(0, torch.randn(outputs, inputs))
        for rows in ROWS:
            x = torch.randn(rows, inputs)
            times: dict[str, list[float]] = {name: [] for name in both}
            for _ in range(rounds):
                for name, ops in both.items():
                    started = time.perf_counter()
                    ops.linear(x, weights[name])
                    times[name].append(time.perf_counter() - started)
            medians = {name: statistics.median(values) for name, values in times.items()}
            rates = {name: round(2e-9 * rows * outputs * inputs / seconds, 1) for name, seconds in medians.items()}
            ratio = round(medians["int16"] / medians["int8"], 3)
            found.append({"isa": both["int8"].isa, "shape": shape, "rows": rows, "gops": rates, "int8_to_int16": ratio})
            print(json.dumps(found[-1]), flush=True)
    return found


def logits(model: str, workloads: list[Workload], quantization: str | None) -> list[float]:
    with LLM(model, quantization=quantization) as llm:
        runs = [llm.score(workload.queries, workload.documents, use_tqdm=False) for workload in workloads]
        return [output.outputs.logit for run in runs for output in run]


def errors(model: str, workloads: list[Workload], int16_layers: list[int]) -> list[dict[str, Any]]:
    exact = torch.tensor(logits(model, workloads, None))
    kept = cpu_ops.INT16_LAYERS
    settings: list[tuple[str, int]] = [
        ("int16", kept),
        *(("int8", layers) for layers in int16_layers),
    ]
    found = []
    for quantization, layers in settings:
        cpu_ops.INT16_LAYERS = layers
        difference = torch.tensor(logits(model, workloads, quantization)) - exact
        found.append(
            {
                "quantization": quantization,
                "int16_layers": layers if quantization == "int8" else None,
                "max_logit_difference": float(difference.abs().max()),
                "rms": float(difference.square().mean().sqrt()),
                "logit_std": float(exact.std()),
                "pairs": len(exact),
            }
        )
        print(json.dumps(found[-1]), flush=True)
    cpu_ops.INT16_LAYERS = kept
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--isa")
    parser.add_argument("--model", type=Path, help="errors of this model's logits instead of products")
    parser.add_argument("--int16-layers", type=int, nargs="+", default=[0, 1, 2, 3], help="of int8, beside --model")
    parser.add_argument("--workloads", default="W1,W2,W3,W4")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    report: dict[str, Any] = {"started": datetime.now(UTC).isoformat(), "machine": machine()}
    if options.model:
        chosen = [work for work in build_workloads(options.model) if work.name in options.workloads.split(",")]
        report["errors"] = errors(str(options.model), chosen, options.int16_layers)
    else:
        report["products"] = products(options.isa, options.rounds)
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
