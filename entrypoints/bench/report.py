"""The printed summary, line by line what vLLM's bench prints, and the lines that it lacks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from engine.entrypoints.bench.options import ServeOptions
from engine.entrypoints.bench.samples import Run
from engine.entrypoints.bench.summary import Ratio, Spread, Summary, spread

if TYPE_CHECKING:
    from engine.entrypoints.bench.call import BenchCall
    from engine.entrypoints.bench.target import Target

WIDTH = 50
SHOWN_ERRORS = 5
SECRET_FLAGS = ("header",)


def target_line(target: Target, model: str, calls: Sequence[BenchCall]) -> str:
    """One line on the server and how much it is sent. The settings are in the file of ``--save-result``."""
    num_documents = sum(len(call.documents) for call in calls)
    each = sum(call.num_tokens for call in calls) / num_documents
    sent = f"{len(calls)} calls with {num_documents} documents, about {each:.0f} tokens each with its query"
    return f"Measuring {target.url} ({target.dialect.name}, model {model}): {sent}"


def traffic_lines(options: ServeOptions) -> list[str]:
    if options.ramp_up_strategy is not None:
        rate = f"Traffic ramp-up strategy: {options.ramp_up_strategy}."
    else:
        rate = f"Traffic request rate: {options.request_rate}"
    process = "Poisson process" if options.burstiness == 1.0 else "Gamma distribution"
    return [
        rate,
        f"Burstiness factor: {options.burstiness} ({process})",
        f"Maximum request concurrency: {options.max_concurrency}",
    ]


def line(label: str, value: float | int | str) -> str:
    shown = f"{value:<10.2f}" if isinstance(value, float) else f"{value!s:<10}"
    return f"{label:<40} {shown}".rstrip()


def heading(title: str, rule: str = "-") -> str:
    return f"{{s:{rule}^{WIDTH}}}".format(s=title)


def summary_lines(run: Run, summary: Summary, options: ServeOptions) -> Iterator[str]:
    """The whole result block."""
    yield heading(" Serving Benchmark Result ", "=")
    if run.interrupted:
        yield line("Interrupted, calls not finished:", run.num_unfinished)
    yield line("Successful requests:", summary.completed)
    yield line("Failed requests:", summary.failed)
    if options.max_concurrency is not None:
        yield line("Maximum request concurrency:", options.max_concurrency)
    if math.isfinite(options.request_rate):
        yield line("Request rate configured (RPS):", float(options.request_rate))
    yield line("Benchmark duration (s):", summary.duration_s)
    yield line("Total input tokens:", summary.total_tokens)
    yield line("Request throughput (req/s):", summary.requests_per_s)
    if summary.good_per_s is not None:
        yield line("Request goodput (req/s):", summary.good_per_s)
        yield line("Requests within the limits (%):", 100.0 * (summary.good_share or 0.0))
    yield line("Input throughput (inputs/s):", summary.requests_per_s)
    if summary.num_documents != summary.completed:
        yield line("Document throughput (docs/s):", summary.documents_per_s)
    yield line("Total token throughput (tok/s):", summary.tokens_per_s)
    yield from _server_lines(run)
    yield from _latency_lines(run, summary, options)
    yield "=" * WIDTH
    yield from _notes(run, summary)


def _server_lines(run: Run) -> Iterator[str]:
    logical = run.server_metrics.get("engine_logical_tokens_total")
    computed = run.server_metrics.get("engine_computed_tokens_total")
    if logical and computed is not None:
        yield line("Tokens computed by the server:", int(computed))
        yield line("Shared tokens (%):", 100.0 * (1.0 - computed / logical))


def _latency_lines(run: Run, summary: Summary, options: ServeOptions) -> Iterator[str]:
    chosen = {name.strip() for name in options.percentile_metrics.split(",")}
    waits = options.max_concurrency is not None or math.isfinite(options.request_rate)
    if "e2el" in chosen:
        yield from _spread_lines("End-to-end Latency", "E2EL", summary.latency)
    if "queue" in chosen or options.max_concurrency is not None:
        yield from _spread_lines("Client-side Queueing", "Client Queue Time", summary.queue)
    if "e2el" in chosen and (waits or options.ramp_up_strategy is not None):
        yield from _spread_lines("Queue-inclusive End-to-end Latency", "Queue-inclusive E2EL", summary.inclusive)
    if summary.first_score is not None:
        yield from _spread_lines("Time to First Score", "TTFS", summary.first_score)
    if run.probes:
        yield heading("Probe Requests")
        probes = spread([p.latency_s for p in run.probes if p.ok], (99.0,))
        yield line("Successful probes:", sum(p.ok for p in run.probes))
        yield line("Failed probes:", sum(not p.ok for p in run.probes))
        yield line("Median probe E2EL (ms):", probes.median_ms)
        yield line("P99 probe E2EL (ms):", probes.percentiles_ms[99.0])


def _spread_lines(title: str, name: str, values: Spread) -> Iterator[str]:
    yield heading(title)
    yield line(f"Mean {name} (ms):", values.mean_ms)
    yield line(f"Median {name} (ms):", values.median_ms)
    for percentile, value in values.percentiles_ms.items():
        yield line(f"P{percentile:g} {name} (ms):", value)


def _notes(run: Run, summary: Summary) -> Iterator[str]:
    if summary.tokens_counted_here:
        yield "The server does not count tokens: the totals are this client's count of the texts, without template."
    if summary.failed:
        yield f"{summary.failed} calls failed:"
        for error, count in summary.errors[:SHOWN_ERRORS]:
            yield f"  {count} x {error}"
        if len(summary.errors) > SHOWN_ERRORS:
            yield f"  and {len(summary.errors) - SHOWN_ERRORS} other kinds; --save-detailed keeps them all."
    if run.interrupted:
        yield "Interrupted: these are the calls that were finished."


def comparison_lines(names: tuple[str, str], ratios: dict[str, Ratio], num_rounds: int) -> Iterator[str]:
    yield heading(" A against B ", "=")
    yield f"A: {names[0]}"
    yield f"B: {names[1]}"
    yield f"Blocks in turn:                          {num_rounds}"
    for label, value in ratios.items():
        yield f"{label:<40} {value.value:.3f}  [{value.low:.3f}, {value.high:.3f}]"
    yield "Ratios A/B with 95 % intervals; throughput above 1 and latency below 1 speak for A."
    yield "=" * WIDTH
