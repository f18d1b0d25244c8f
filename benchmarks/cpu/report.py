"""Tables of a race: rates, agreement with transformers, and the project's goals as ratios with their spread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.cpu.race import ratios

INT8_PEERS = ("onnxruntime-int8", "llama.cpp-q8_0")
GOALS: tuple[tuple[str, str, bool, dict[str, float]], ...] = (
    ("fp32 against the best fp32 peer", "engine-fp32", False, {"W1": 2.4, "W2": 1.9, "W3": 1.4, "W4": 1.5}),
    ("int16 against the best fp32 peer", "engine-int16", False, {"W1": 3.5, "W2": 2.8, "W3": 2.0, "W4": 2.2}),
    ("int16 against the best int8 peer", "engine-int16", True, {"W1": 2.1, "W2": 1.75, "W3": 1.3, "W4": 1.6}),
    ("int8 against the best int8 peer", "engine-int8", True, {}),
)


def align(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def rate_table(table: Mapping[str, Any], workloads: list[str]) -> str:
    rows = [("logical tok/s, median (range), per busy second", *workloads)]
    for name, by_workload in table.items():
        cells = []
        for workload in workloads:
            row = by_workload[workload]
            low, high = row["tokens_per_s_range"]
            cells.append(f"{row['tokens_per_s']:.0f} ({low:.0f}-{high:.0f}), {row['tokens_per_busy_s']:.0f}")
        rows.append((name, *cells))
    return align(rows)


def agreement_table(table: Mapping[str, Any], workloads: list[str]) -> str:
    rows = [("largest logit difference from transformers", *workloads)]
    for name, by_workload in table.items():
        if all("max_logit_difference" in by_workload[workload] for workload in workloads):
            rows.append((name, *(f"{by_workload[w]['max_logit_difference']:.1e}" for w in workloads)))
    return align(rows)


def best_peer(table: Mapping[str, Any], workload: str, int8: bool, clock: str) -> str | None:
    peers = [n for n in table if not n.startswith("engine") and (n in INT8_PEERS) == int8]
    key = "tokens_per_s" if clock == "wall_s" else "tokens_per_busy_s"
    return max(peers, key=lambda name: table[name][workload][key], default=None)


def goal_table(result: Mapping[str, Any], table: Mapping[str, Any], workloads: list[str], clock: str) -> str:
    title = "ratios by wall time" if clock == "wall_s" else "ratios by CPU time"
    rows = [(f"{title}, median (range)", *workloads)]
    for goal, ours, int8, wanted in GOALS:
        cells = []
        for workload in workloads:
            peer = best_peer(table, workload, int8, clock) if ours in table else None
            if peer is None:
                cells.append("-")
                continue
            middle, low, high = ratios(result, ours, peer, workload, clock)
            goal_text = f" of {wanted[workload]:g}" if workload in wanted else ""
            cells.append(f"{middle:.2f}{goal_text} ({low:.2f}-{high:.2f}) {peer}")
        rows.append((goal, *cells))
    return align(rows)


def render(result: Mapping[str, Any], table: Mapping[str, Any]) -> str:
    workloads = list(next(iter(table.values())))
    parts = [
        rate_table(table, workloads),
        agreement_table(table, workloads),
        goal_table(result, table, workloads, "wall_s"),
        goal_table(result, table, workloads, "cpu_s"),
    ]
    return "\n\n".join(parts)
