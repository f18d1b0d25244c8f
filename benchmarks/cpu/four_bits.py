"""What weights of 4 bits cost in time: products with them against the same arithmetic on its own weights.

``python -m benchmarks.cpu.four_bits [--rounds N] [--out FILE]``: one thread, projections of Qwen3-Reranker-0.6B, 4B and
8B, every arithmetic and several numbers of rows. Both sides run in turn, and the figure is the median of the
ratios of their CPU times, pair by pair, so that a busy machine costs both alike. ``--out`` is added to.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from engine.kernels.cpu import _C
from engine.kernels.cpu.linear import CpuLinear
from engine.kernels.cpu.ops import CpuOps
from engine.kernels.weight_groups import INT4, UINT4, GroupedRows, GroupLayout

SHAPES = {
    "0.6B qkv": (4096, 1024), "0.6B up": (6144, 1024), "0.6B down": (1024, 3072),
    "4B qkv": (6144, 2560), "4B up": (19456, 2560), "4B down": (2560, 9728),
    "8B qkv": (6144, 4096), "8B up": (24576, 4096), "8B down": (4096, 12288),
}  # fmt: skip
"""Outputs and inputs."""
ARITHMETICS = ("fp32", "int16", "int8")
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
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["0.6B qkv", "4B qkv", "8B qkv"])
    parser.add_argument("--arithmetics", nargs="+", choices=ARITHMETICS, default=ARITHMETICS)
    parser.add_argument("--rows", nargs="+", type=int, default=ROWS)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = []
    for arithmetic in options.arithmetics:
        ops = CpuOps(1, None if arithmetic == "fp32" else arithmetic, isa=options.isa)
        for shape in options.shapes:
            own = plain(ops, *SHAPES[shape])
            for name, layout in LAYOUTS.items():
                narrow = four_bits(ops, *SHAPES[shape], layout)
                for rows in options.rows:
                    found.append(compare(ops, own, narrow, rows, options.rounds))
                    found[-1] |= {"arithmetic": arithmetic, "shape": shape, "layout": name, "isa": ops.isa}
                    print(json.dumps(found[-1]), flush=True)
    if options.out:
        with options.out.open("a") as out:
            out.writelines(json.dumps(line) + "\n" for line in found)


def compare(ops: CpuOps, own: CpuLinear, narrow: CpuLinear, rows: int, rounds: int) -> dict[str, object]:
    x = torch.randn(rows, own.in_features)
    sides = {"own": own, "four_bits": narrow}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name in sorted(sides, reverse=turn % 2 == 0):
            seconds = cpu_seconds(partial(ops.linear, x, sides[name]))
            if turn > 0:  # the first one warms up
                times[name].append(seconds)
    ratios = sorted(a / b for a, b in zip(times["own"], times["four_bits"], strict=True))
    return {
        "rows": rows,
        "speed": round(statistics.median(ratios), 3),
        "quartiles": [round(ratios[len(ratios) // 4], 3), round(ratios[-1 - len(ratios) // 4], 3)],
        "own_ms": round(1e3 * statistics.median(times["own"]), 2),
        "four_bits_ms": round(1e3 * statistics.median(times["four_bits"]), 2),
        "rounds": rounds,
        "bytes_a_weight": round(narrow.num_bytes / own.in_features / own.out_features, 3),
        "own_bytes_a_weight": round(own.num_bytes / own.in_features / own.out_features, 3),
    }


if __name__ == "__main__":
    main()
