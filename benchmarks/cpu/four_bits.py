"""What weights of 4 bits cost in time: products with them against the same arithmetic on its own weights.

``python -m benchmarks.cpu.four_bits [--rounds N] [--out FILE]``: one thread, the projections of one layer of
Qwen3-Reranker-8B, every arithmetic and several numbers of rows. Both sides run in turn, and the figure is the ratio of
the medians of their CPU times, so that a busy machine costs both alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from engine.kernels.cpu import _C
from engine.kernels.cpu.ops import CpuLinear, CpuOps
from engine.kernels.groups import INT4, UINT4, GroupedRows, GroupLayout

SHAPES = {"qkv": (6144, 4096), "up": (24576, 4096), "down": (4096, 12288)}
"""Outputs and inputs."""
ROWS = (64, 128, 256, 512, 1024)
LAYOUTS = {
    "groups of 128": GroupLayout(128, INT4, has_offsets=False),
    "groups of 32 with offsets": GroupLayout(32, UINT4, has_offsets=True),
}


def four_bits(ops: CpuOps, outputs: int, inputs: int, layout: GroupLayout) -> CpuLinear:
    weight = ops.new_grouped_linear(outputs, inputs, layout)
    assert weight is not None
    groups = layout.num_groups(inputs)
    for start in range(0, outputs, 1024):
        n = min(1024, outputs - start)
        codes = torch.randint(0, 16, (n, inputs), dtype=torch.uint8)
        scales = torch.rand(n, groups) / inputs
        weight.load_groups(start, GroupedRows(codes, scales, -7.5 * scales if layout.has_offsets else None))
    return weight


def plain(ops: CpuOps, outputs: int, inputs: int) -> CpuLinear:
    weight = ops.new_linear(outputs, inputs)
    for start in range(0, outputs, 1024):
        weight.load_rows(start, torch.randn(min(1024, outputs - start), inputs).bfloat16())
    return weight


def cpu_seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--isa", choices=_C.available_isas(), default=None)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["qkv"])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = []
    for quantization in (None, "int16", "int8"):
        ops = CpuOps(1, quantization, isa=options.isa)
        for shape in options.shapes:
            own = plain(ops, *SHAPES[shape])
            for name, layout in LAYOUTS.items():
                narrow = four_bits(ops, *SHAPES[shape], layout)
                for rows in ROWS:
                    found.append(compare(ops, own, narrow, rows, options.rounds))
                    found[-1] |= {"arithmetic": quantization or "fp32", "shape": shape, "layout": name, "isa": ops.isa}
                    print(json.dumps(found[-1]), flush=True)
    if options.out:
        options.out.write_text("\n".join(json.dumps(line) for line in found) + "\n")


def compare(ops: CpuOps, own: CpuLinear, narrow: CpuLinear, rows: int, rounds: int) -> dict[str, object]:
    x = torch.randn(rows, own.in_features)
    times: dict[str, list[float]] = {"own": [], "four_bits": []}
    for _ in range(rounds):
        times["own"].append(cpu_seconds(lambda: ops.linear(x, own)))
        times["four_bits"].append(cpu_seconds(lambda: ops.linear(x, narrow)))
    medians = {side: statistics.median(values) for side, values in times.items()}
    return {
        "rows": rows,
        "speed": round(medians["own"] / medians["four_bits"], 3),
        "own_ms": round(1e3 * medians["own"], 2),
        "four_bits_ms": round(1e3 * medians["four_bits"], 2),
        "bytes_a_weight": round(narrow.num_bytes / own.in_features / own.out_features, 3),
        "own_bytes_a_weight": round(own.num_bytes / own.in_features / own.out_features, 3),
    }


if __name__ == "__main__":
    main()
