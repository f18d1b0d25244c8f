"""``--compare``: two servers measured in turn, so that what drifts on the machine cancels in their ratio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from engine.entrypoints.bench.call import BenchCall
from engine.entrypoints.bench.load import run_load
from engine.entrypoints.bench.options import ServeOptions
from engine.entrypoints.bench.samples import Run, Sample
from engine.entrypoints.bench.sender import Sender
from engine.entrypoints.bench.summary import Ratio, ratio
from engine.entrypoints.bench.target import Target, target_of
from engine.errors import ConfigError


def check_compare_options(options: ServeOptions) -> None:
    """Raises ``ConfigError`` for flags with which two servers cannot be compared."""
    if options.compare is None:
        return
    if options.compare_rounds < 2:
        raise ConfigError("--compare-rounds must be at least 2 for an interval.")
    if options.request_rate != float("inf") or options.ramp_up_strategy is not None:
        raise ConfigError("--compare measures at --request-rate inf, with or without --max-concurrency.")


def second_target(options: ServeOptions) -> Target:
    """B: its own dialect, route and model where they are given, else those of A."""
    same_dialect = options.compare_backend in (None, options.backend)
    return target_of(
        replace(
            options,
            base_url=options.compare,
            backend=options.compare_backend or options.backend,
            endpoint=options.compare_endpoint or (options.endpoint if same_dialect else None),
            model=options.compare_model,
            served_model_name=None,
            extra_body=options.extra_body if same_dialect else None,
        )
    )


async def run_in_turn(
    senders: Sequence[Sender],
    calls: Sequence[BenchCall],
    options: ServeOptions,
    stop: asyncio.Event,
    on_sample: Callable[[Sample], None],
) -> tuple[list[Run], dict[str, Ratio]]:
    """The calls in blocks; each block goes to A and to B, and who of them is first changes with every block."""
    blocks = [calls[start :: options.compare_rounds] for start in range(options.compare_rounds)]
    totals = [Run(), Run()]
    pairs: list[tuple[Run, Run]] = []
    for number, block in enumerate(block for block in blocks if block):
        parts: dict[int, Run] = {}
        for side in (0, 1) if number % 2 == 0 else (1, 0):
            parts[side] = await run_load(
                senders[side],
                block,
                np.zeros(len(block)),
                max_concurrency=options.max_concurrency,
                stop=stop,
                on_sample=on_sample,
            )
            _add(totals[side], parts[side])
        if stop.is_set():
            break
        pairs.append((parts[0], parts[1]))
    return totals, ratios(pairs)


def _add(total: Run, part: Run) -> None:
    """The part follows what is there already."""
    shift = total.duration_s
    total.samples += [_shifted(sample, shift) for sample in part.samples]
    total.duration_s += part.duration_s
    total.interrupted |= part.interrupted
    total.num_unfinished += part.num_unfinished


def _shifted(sample: Sample, by_s: float) -> Sample:
    first = None if sample.first_score_s is None else sample.first_score_s + by_s
    return replace(
        sample,
        planned_s=sample.planned_s + by_s,
        sent_s=sample.sent_s + by_s,
        done_s=sample.done_s + by_s,
        first_score_s=first,
    )


def ratios(pairs: list[tuple[Run, Run]]) -> dict[str, Ratio]:
    """A/B for throughput and latency; empty when fewer than two blocks were answered by both."""
    answered = [(a, b) for a, b in pairs if a.completed and b.completed]
    if len(answered) < 2:
        return {}
    measures = {"Document throughput:": _documents_per_s, "Median E2EL:": _median_latency_s}
    return {
        label: ratio([measure(a) for a, _ in answered], [measure(b) for _, b in answered])
        for label, measure in measures.items()
    }


def _documents_per_s(run: Run) -> float:
    return sum(sample.num_documents for sample in run.completed) / run.duration_s


def _median_latency_s(run: Run) -> float:
    return float(np.median([sample.latency_s for sample in run.completed]))
