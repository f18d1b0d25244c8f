"""Tables from the pieces of a run: what was measured, as shares of the ceilings measured beside it, and the goals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Pieces = Mapping[str, dict[str, Any]]
MFU_GOALS = {"8B": 0.75, "4B": 0.72, "0.6B": 0.60}


def _results(pieces: Pieces, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, piece in pieces.items():
        if name.startswith(kind) and piece.get("ok") and not name.endswith("with graphs"):
            yield name, piece["result"]


def ceiling(pieces: Pieces, quantization: str | None) -> float | None:
    """TFLOP/s of the fastest product of that format in this run."""
    for _, result in _results(pieces, "ceilings"):
        value = result["fp8_tflops" if quantization else "tflops"]
        return None if value is None else float(value)
    return None


def mfu(pieces: Pieces, engine: Mapping[str, Any], workload: str) -> float | None:
    """Linear FLOPs of computed tokens a second, as a share of the ceiling. Attention is work on top, not counted."""
    top = ceiling(pieces, engine["quantization"])
    return None if top is None else float(engine["workloads"][workload]["linear_tflops"]) / top


def engine_table(pieces: Pieces) -> list[str]:
    head: tuple[str, ...] = (
        "engine",
        "workload",
        "pairs/s",
        "logical tok/s",
        "computed tok/s",
        "MFU",
        "p50 ms",
        "p99 ms",
        "in flight",
        "GPU busy",
    )
    rows = [head]
    for name, result in _results(pieces, "engine"):
        for workload, row in result["workloads"].items():
            share, latency = mfu(pieces, result, workload), row["call_latency_ms"]
            rows.append(
                (
                    name.removeprefix("engine-"),
                    workload,
                    f"{row['pairs_per_s']:.1f}",
                    f"{row['logical_tokens_per_s']:.0f}",
                    f"{row['computed_tokens_per_s']:.0f}",
                    "-" if share is None else f"{share:.1%}",
                    f"{latency['p50']:.2f}",
                    f"{latency['p99']:.2f}",
                    f"{row['device_busy']:.0%}",
                    _gpu_busy(result, workload),
                )
            )
    for name, result in _results(pieces, "baseline"):
        for workload, row in result["workloads"].items():
            latency = row.get("call_latency_ms")
            p50, p99 = ("-", "-") if latency is None else (f"{latency['p50']:.2f}", f"{latency['p99']:.2f}")
            rate, logical = f"{row['pairs_per_s']:.1f}", f"{row['logical_tokens_per_s']:.0f}"
            rows.append((name, workload, rate, logical, logical, "-", p50, p99, "-", "-"))
    return align(rows)


def _gpu_busy(result: Mapping[str, Any], workload: str) -> str:
    """By the GPU's own clock; the time in flight, from a launch to its values, also counts waiting for the host."""
    profile = result.get("profile", {}).get(workload)
    return "-" if profile is None else f"{profile['gpu_busy']:.0%}"


def kernel_lines(pieces: Pieces) -> list[str]:
    """The largest kernels of each profiled workload."""
    lines = []
    for name, result in _results(pieces, "engine"):
        for workload, profile in result.get("profile", {}).items():
            largest = ", ".join(f"{row['name'][:40]} {row['share']:.0%}" for row in profile["kernels"][:6])
            lines.append(f"{name} {workload}, GPU time by kernel: {largest}")
    return lines


def goal_table(pieces: Pieces) -> list[str]:
    """The project's goals against what this run measured; a line for each that can be judged."""
    engines, baselines = dict(_results(pieces, "engine")), dict(_results(pieces, "baseline"))
    rows: list[tuple[str, ...]] = [("goal", "wanted", "measured", "")]

    def judge(goal: str, wanted: float, measured: float | None, unit: str, at_least: bool = True) -> None:
        if measured is not None:
            reached = measured >= wanted if at_least else measured <= wanted
            rows.append((goal, f"{wanted:g}{unit}", f"{measured:.2f}{unit}", "reached" if reached else "missed"))

    def rate(name: str, workload: str) -> float | None:
        result = engines.get(name) or baselines.get(name)
        return None if result is None else float(result["workloads"][workload]["pairs_per_s"])

    def ratio(above: float | None, below: float | None) -> float | None:
        return None if above is None or below is None else above / below

    for model, wanted in MFU_GOALS.items():
        result = engines.get(f"engine-{model}-bf16-shared")
        share = None if result is None else mfu(pieces, result, "shared")
        judge(f"MFU {model} bf16, shared workload", wanted, share, "")
        shared, apart = (rate(f"engine-{model}-bf16-{kind}", "shared") for kind in ("shared", "apart"))
        judge(f"sharing {model}, 1 x 100 documents", 1.42, ratio(shared, apart), "x")
    for model, wanted in (("8B", 1.5), ("0.6B", 1.2)):
        fp8, bf16 = (rate(f"engine-{model}-{width}-shared", "shared") for width in ("fp8", "bf16"))
        judge(f"fp8 over bf16 {model}", wanted, ratio(fp8, bf16), "x")
    ours, theirs = rate("engine-0.6B-bf16-shared", "seed"), rate("baseline-0.6B", "seed")
    judge("against transformers 0.6B, seed workload", 5.0, ratio(ours, theirs), "x")
    single = engines.get("engine-0.6B-bf16-shared")
    latency = None if single is None else float(single["workloads"]["single"]["call_latency_ms"]["p50"])
    judge("single pair 0.6B, median", 4.0, latency, " ms", at_least=False)
    return align(rows) if len(rows) > 1 else []


def piece_lines(pieces: Pieces) -> list[str]:
    """Ceilings, parity, kernels and failures."""
    lines = []
    for _, result in _results(pieces, "prepare"):
        compiled, tests = result["compiled"], result["tests"]
        failed = f", failed: {', '.join(compiled['failed'])}" if compiled["failed"] else ""
        lines.append(f"prepared: {compiled['groups']} groups of kernels in {compiled['seconds']:.0f} s{failed}")
        lines.append(f"tests on the GPU: {tests['summary']}" + ("" if tests["ok"] else f"\n{tests.get('tail', '')}"))
    for _, result in _results(pieces, "ceilings"):
        fp8 = "" if result["fp8_tflops"] is None else f", fp8 {result['fp8_tflops']:.1f}"
        lines.append(
            f"ceilings: {result['tflops']:.1f} TFLOP/s{fp8}, sustained {result['sustained_tflops']:.1f}, "
            f"copy {result['copy_gb_per_s']:.0f} GB/s read and written"
        )
    for name, result in _results(pieces, "parity"):
        for width, row in result.items():
            if isinstance(row, dict):
                verdict = "passed" if row["passed"] else "FAILED"
                lines.append(
                    f"{name} {width}: probability off by at most {row['max_probability_difference']:.2g} (bound "
                    f"{row['bound']:g}), sharing {row['sharing_on_against_off']:.2g}, alone "
                    f"{row['together_against_alone']:.2g}: {verdict}"
                )
    for name, result in _results(pieces, "kernels"):
        rates = ", ".join(f"{kernel} {rate:.0f}" for kernel, rate in result["gb_per_s"].items())
        lines.append(f"{name}: GB/s {rates}")
    lines += [f"{name} FAILED: {piece['error']}" for name, piece in pieces.items() if not piece.get("ok")]
    lines += [f"{name} ran without CUDA graphs" for name, piece in pieces.items() if piece.get("eager")]
    return lines


def align(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def render(pieces: Pieces) -> str:
    parts = [piece_lines(pieces), kernel_lines(pieces), engine_table(pieces), goal_table(pieces)]
    return "\n\n".join("\n".join(part) for part in parts if part)
