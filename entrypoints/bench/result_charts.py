"""Saved results -> charts: one run in itself, runs against load, and runs over the months."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import numpy as np

from engine.entrypoints.bench.charts import Chart, Series

Result = dict[str, Any]


def result_name(result: Result) -> str:
    return str(result.get("label") or result.get("backend") or "run")


def setting_name(result: Result) -> str:
    """The settings that two comparable results have in common: the run's name, the load, the texts, the machine."""
    options = result.get("options", {})
    texts = f"{options.get('random_batch_size', '?')} x {options.get('random_input_len', '?')} tokens"
    if options.get("dataset_name", "random-rerank") != "random-rerank":
        texts = f"{options['dataset_name']}, {options.get('random_batch_size', '?')} a call"
    concurrency = "" if result.get("max_concurrency") is None else f", concurrency {result['max_concurrency']}"
    machine = result.get("environment", {}).get("processor", "unknown machine")
    return f"{result_name(result)}, rate {result['request_rate']}{concurrency}, {texts}, {machine}"


def run_charts(results: list[Result]) -> list[Chart]:
    """The charts of one or a few runs."""
    named = [(result_name(result), result) for result in results]
    charts = [
        Chart(
            "Latency by percentile",
            "percentile of calls",
            "E2EL, ms",
            [Series(name, percentile_curve(result["latencies"])) for name, result in named],
        ),
        Chart(
            "Latency over the run",
            "sent at, s",
            "E2EL, ms",
            [
                Series(name, [(s, ms * 1000) for s, ms in zip(r["start_times"], r["latencies"], strict=True)])
                for name, r in named
            ],
            kind="scatter",
        ),
        Chart("Calls finished", "time, s", "calls/s", [Series(name, finished_per_second(r)) for name, r in named]),
    ]
    steps = [(name, result["step_tokens"]) for name, result in named if result.get("step_tokens")]
    for name, buckets in steps:
        charts.append(
            Chart(f"Step sizes ({name})", "tokens in a step", "steps", [Series(name, _bounded(buckets))], kind="bars")
        )
    return charts


def percentile_curve(latencies: list[float]) -> list[tuple[float, float]]:
    if not latencies:
        return []
    values = np.asarray(latencies) * 1000.0
    return [(p, float(np.percentile(values, p))) for p in (0, 1, 5, *range(10, 100, 10), 95, 99, 100)]


def finished_per_second(result: Result) -> list[tuple[float, float]]:
    """Calls finished in each of at most 60 equal slices of the run."""
    done = [start + latency for start, latency in zip(result["start_times"], result["latencies"], strict=True)]
    if not done:
        return []
    duration = max(done)
    slices = max(1, min(60, len(done) // 4))
    counts, edges = np.histogram(done, bins=slices, range=(0.0, duration))
    return [
        (float((low + high) / 2), float(count / (high - low)))
        for count, low, high in zip(counts, edges, edges[1:], strict=False)
    ]


def _bounded(buckets: list[list[float | None]]) -> list[tuple[float, float]]:
    """The open last bucket is drawn a tenth wider than the one before it."""
    finite = [float(bound) for bound, _ in buckets if bound is not None]
    last = (finite[-1] if finite else 1.0) * 1.1
    return [(last if bound is None else float(bound), float(count or 0)) for bound, count in buckets]


def load_charts(results: list[Result], varied: str) -> list[Chart]:
    """Latency and goodput against the load (or whatever was varied), one series a label."""
    groups: dict[str, list[tuple[float, Result]]] = defaultdict(list)
    for result in results:
        value = load_value(result, varied)
        if value is not None:
            groups[result_name(result)].append((value, result))
    for points in groups.values():
        points.sort(key=lambda item: item[0])

    def series(key: str, suffix: str = "") -> list[Series]:
        return [
            Series(name + suffix, [(value, r[key]) for value, r in points if isinstance(r.get(key), int | float)])
            for name, points in groups.items()
        ]

    axis = varied.replace("_", " ")
    charts = [
        Chart(f"Median latency against {axis}", axis, "median E2EL, ms", series("median_e2el_ms")),
        Chart(f"P99 latency against {axis}", axis, "P99 E2EL, ms", series("p99_e2el_ms")),
        Chart(f"Throughput against {axis}", axis, "documents/s", series("document_throughput")),
    ]
    if any(r.get("request_goodput") is not None for r in results):
        charts.append(Chart(f"Goodput against {axis}", axis, "good calls/s", series("request_goodput")))
    return charts


def load_value(result: Result, varied: str) -> float | None:
    """The varied setting as a number; ``inf`` has no place on an axis and is shown by the throughput it reached."""
    value = result.get(varied, result.get("options", {}).get(varied))
    if value == "inf" and varied == "request_rate":
        value = result.get("request_throughput")
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def regression_charts(results: list[Result]) -> list[Chart]:
    """Throughput and latency over time: results of one setting on one machine are one series."""
    ordered = sorted(results, key=lambda r: str(r.get("date", "")))
    dates = sorted({str(r.get("date", "")) for r in ordered})
    groups: dict[str, list[Result]] = defaultdict(list)
    for result in ordered:
        groups[setting_name(result)].append(result)

    def chart(title: str, unit: str, key: str) -> Chart:
        series = [
            Series(name, [(float(dates.index(str(r["date"]))), r[key]) for r in group if key in r])
            for name, group in groups.items()
        ]
        return Chart(title, "date of the run", unit, series, x_names=[date[:8] for date in dates])

    return [
        chart("Throughput over time", "documents/s", "document_throughput"),
        chart("Median latency over time", "ms", "median_e2el_ms"),
        chart("P99 latency over time", "ms", "p99_e2el_ms"),
    ]
