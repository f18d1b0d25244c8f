"""``engine bench serve``: measure a running server, or two in turn."""

from __future__ import annotations

import asyncio
import signal
import uuid
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.entrypoints.bench.arrivals import arrival_times, check_load_options
from engine.entrypoints.bench.call import BenchCall
from engine.entrypoints.bench.compare import check_compare_options, run_in_turn, second_target
from engine.entrypoints.bench.dataset import check_data_options, load_calls
from engine.entrypoints.bench.flags import say_what_is_ignored
from engine.entrypoints.bench.load import run_load
from engine.entrypoints.bench.options import ServeOptions
from engine.entrypoints.bench.pytorch_format import write_records
from engine.entrypoints.bench.report import comparison_lines, summary_lines, target_line, traffic_lines
from engine.entrypoints.bench.results import append_result, result_of, result_path, write_result
from engine.entrypoints.bench.samples import Run
from engine.entrypoints.bench.sender import Sender, first_call
from engine.entrypoints.bench.server_metrics import growth, scrape
from engine.entrypoints.bench.summary import METRICS, Ratio, Summary, goodput_limits, summarise
from engine.entrypoints.bench.target import Target, await_model, new_session, target_of
from engine.entrypoints.progress import Progress
from engine.errors import ConfigError

if TYPE_CHECKING:
    import aiohttp

INTERRUPTED = 130


@dataclass(frozen=True)
class Side:
    """One server, connected."""

    target: Target
    session: aiohttp.ClientSession
    sender: Sender
    model: str
    model_root: str | None


@dataclass(frozen=True)
class Measured:
    """One server's run, ready to be printed and saved."""

    target: Target
    model: str
    run: Run
    summary: Summary

    def result(self, options: ServeOptions) -> dict[str, Any]:
        return result_of(self.run, self.summary, replace(options, backend=self.target.dialect.name), self.model)


def run(options: ServeOptions) -> int:
    """Exit status 0; 1 when every call failed; 130 after Ctrl-C."""
    say_what_is_ignored(options)
    measured = asyncio.run(measure(options))
    if any(m.run.interrupted for m in measured):
        return INTERRUPTED
    return 0 if all(m.summary.completed for m in measured) else 1


def check_options(options: ServeOptions) -> None:
    """Raises ``ConfigError`` for options that are wrong before the server is asked."""
    check_load_options(options)
    check_data_options(options, options.num_prompts)
    check_compare_options(options)
    goodput_limits(options.goodput)
    percentiles(options)
    unknown = {name.strip() for name in options.percentile_metrics.split(",")} - set(METRICS)
    if unknown:
        raise ConfigError(f"--percentile-metrics {', '.join(sorted(unknown))}: there are {', '.join(METRICS)}.")


def percentiles(options: ServeOptions) -> tuple[float, ...]:
    """The percentiles of ``--metric-percentiles``. Raises ``ConfigError`` for what is no number from 0 to 100."""
    try:
        values = tuple(float(word) for word in options.metric_percentiles.split(","))
    except ValueError:
        values = (-1.0,)
    if not all(0 <= value <= 100 for value in values):
        raise ConfigError(f"--metric-percentiles {options.metric_percentiles!r}: numbers from 0 to 100 are expected.")
    return values


async def measure(options: ServeOptions) -> list[Measured]:
    """Run, print, save and draw; one result, or two with ``--compare``."""
    check_options(options)
    targets = [target_of(options), *([second_target(options)] if options.compare else [])]
    async with AsyncExitStack() as stack:
        sides = [await _connect(stack, target, options) for target in targets]
        wants_file = options.save_result or options.append_result or options.plot
        path = result_path(options, sides[0].model) if wants_file else None
        calls = load_calls(options, options.num_prompts, sides[0].model_root)
        await _prepare(sides, calls, options)
        runs, ratios = await _run(sides, calls, options)
    limits = goodput_limits(options.goodput)
    measured = [
        Measured(side.target, side.model, run, summarise(run, percentiles(options), limits))
        for side, run in zip(sides, runs, strict=True)
    ]
    _show(measured, ratios, options)
    if path is not None:
        _save(path, measured, ratios, options)
    return measured


async def _connect(stack: AsyncExitStack, target: Target, options: ServeOptions) -> Side:
    session = await stack.enter_async_context(new_session(target))
    model, root = await await_model(session, target, options.ready_check_timeout_sec)
    prefix = options.request_id_prefix or f"bench-{uuid.uuid4().hex[:8]}-"
    return Side(target, session, Sender(session, target, model, prefix), model, root)


async def _prepare(sides: list[Side], calls: list[BenchCall], options: ServeOptions) -> None:
    """One call to see that everything fits together, and the warm-up."""
    for side in sides:
        print(target_line(side.target, side.model, calls))
    print("Starting initial single prompt test run...")
    for side in sides:
        await first_call(side.sender, side.target, calls[0], options.ready_check_timeout_sec)
    print("Initial test run completed.")
    if options.num_warmups:
        print(f"Warming up with {options.num_warmups} requests...")
        warm = [calls[index % len(calls)] for index in range(options.num_warmups)]
        at_once, never = np.zeros(len(warm)), asyncio.Event()
        for side in sides:
            await run_load(side.sender, warm, at_once, max_concurrency=options.max_concurrency, stop=never)
        print("Warmup run completed.")


async def _run(sides: list[Side], calls: list[BenchCall], options: ServeOptions) -> tuple[list[Run], dict[str, Ratio]]:
    """The measurement itself. Ctrl-C ends it, not the program: what was measured is printed and saved."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop_once() -> None:
        stop.set()
        loop.remove_signal_handler(signal.SIGINT)  # a second Ctrl-C ends the program

    loop.add_signal_handler(signal.SIGINT, stop_once)
    try:
        before = [await scrape(side.session, side.target.base_url) for side in sides]
        if len(sides) == 1:
            runs, ratios = [await _single(sides[0].sender, calls, options, stop)], dict[str, Ratio]()
        else:
            print(f"Starting {options.compare_rounds} blocks, A and B in turn...")
            with _progress(2 * len(calls), options) as progress:
                senders = [side.sender for side in sides]
                runs, ratios = await run_in_turn(senders, calls, options, stop, lambda sample: progress.tick())
        for side, earlier, run in zip(sides, before, runs, strict=True):
            growth(earlier, await scrape(side.session, side.target.base_url), run)
    finally:
        loop.remove_signal_handler(signal.SIGINT)
    return runs, ratios


async def _single(sender: Sender, calls: list[BenchCall], options: ServeOptions, stop: asyncio.Event) -> Run:
    print("Starting main benchmark run...")
    print("\n".join(traffic_lines(options)))
    probe = BenchCall(calls[0].query, calls[0].documents[:1], 0) if options.probe_request_rate > 0 else None
    with _progress(len(calls), options) as progress:
        return await run_load(
            sender,
            calls,
            arrival_times(options, len(calls)),
            max_concurrency=options.max_concurrency,
            stop=stop,
            on_sample=lambda sample: progress.tick(),
            probe=probe,
            probe_rate=options.probe_request_rate,
        )


def _progress(total: int, options: ServeOptions) -> Progress:
    return Progress(total, "call", quiet=options.disable_tqdm)


def _show(measured: list[Measured], ratios: dict[str, Ratio], options: ServeOptions) -> None:
    for name, m in zip("AB", measured, strict=False):
        if len(measured) > 1:
            print(f"{name}: {m.target.url} ({m.target.dialect.name}, {m.model})")
        print("\n".join(summary_lines(m.run, m.summary, options)))
    if ratios:
        names = (measured[0].target.url, measured[1].target.url)
        print("\n".join(comparison_lines(names, ratios, options.compare_rounds)))
    elif len(measured) > 1:
        print("No ratio: fewer than two blocks were answered by both servers.")


def _save(path: Path, measured: list[Measured], ratios: dict[str, Ratio], options: ServeOptions) -> None:
    results = [m.result(options) for m in measured]
    if len(results) > 1:
        results[0]["compared_with"] = {"url": measured[1].target.url, **results[1]}
        results[0]["ratios"] = {label.rstrip(":"): list(value) for label, value in ratios.items()}
    if options.append_result:
        append_result(path, results[0])
    elif options.save_result:
        write_result(path, results[0])
    if options.append_result or options.save_result:
        print(f"Result: {path}")
        if (beside := write_records(path, results[0], options, measured[0].model)) is not None:
            print(f"Result: {beside}")
    if options.plot:
        from engine.entrypoints.bench.plots import write_plots

        for written in write_plots(results, path.with_suffix("")):
            print(f"Plot: {written}")
