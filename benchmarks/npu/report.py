"""Tables from the pieces of a run: what was measured, as shares of the ceilings measured beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.gpu.report import align

Pieces = Mapping[str, dict[str, Any]]


def _results(pieces: Pieces, kind: str) -> dict[str, dict[str, Any]]:
    return {name: piece["result"] for name, piece in pieces.items() if name.startswith(kind) and piece.get("ok")}


def engine_table(pieces: Pieces) -> list[str]:
    ceilings = _results(pieces, "ceilings").get("ceilings", {})
    head = ("engine", "workload", "pairs/s", "logical tok/s", "computed tok/s", "MFU", "p50 ms", "p99 ms", "busy")
    rows: list[tuple[str, ...]] = [head]
    for name, result in _results(pieces, "engine").items():
        top = ceilings.get("int8_tflops" if result["quantization"] else "tflops")
        for workload, row in result["workloads"].items():
            latency = row["call_latency_ms"]
            rows.append(
                (
                    name.removeprefix("engine-"),
                    workload,
                    f"{row['pairs_per_s']:.1f}",
                    f"{row['logical_tokens_per_s']:.0f}",
                    f"{row['computed_tokens_per_s']:.0f}",
                    "-" if top is None else f"{row['linear_tflops'] / top:.1%}",
                    f"{latency['p50']:.2f}",
                    f"{latency['p99']:.2f}",
                    f"{row['device_busy']:.0%}",
                )
            )
    return align(rows) if len(rows) > 1 else []


def piece_lines(pieces: Pieces) -> list[str]:
    lines = [
        f"ceilings: bf16 {result['tflops']:.1f} TFLOP/s, int8 {result['int8_tflops']:.1f}, copy "
        f"{result['copy_gb_per_s']:.0f} GB/s read and written"
        for result in _results(pieces, "ceilings").values()
    ]
    for name, result in _results(pieces, "ops").items():
        rates = ", ".join(f"{op} {rate:.0f}" for op, rate in result["gb_per_s"].items())
        lines.append(f"{name}: GB/s {rates}")
        for step, row in result["attention"].items():
            lines.append(
                f"{name}: attention, {step}: {row['us']:.0f} us, {row['gather_us']:.0f} of them gathering keys, "
                f"{row['tflops']:.1f} TFLOP/s"
            )
    return lines + [f"{name} FAILED: {piece['error']}" for name, piece in pieces.items() if not piece.get("ok")]


def render(pieces: Pieces) -> str:
    return "\n\n".join("\n".join(part) for part in (piece_lines(pieces), engine_table(pieces)) if part)
