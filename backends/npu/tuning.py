"""What is decided by measuring once the model is loaded: graphs for the usual small steps, and the token budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from engine.backends.npu.graphs import MEETINGS_BEFORE_CAPTURE, StepGraphs

TimeStep = Callable[[Sequence[int]], float]
PREFIX, DOCUMENT = 72, 36
"""Tokens of a usual short pair: template and query, shared by the call, and the document with the suffix."""
SMALL_CALLS = (1, 10)
"""Documents of the calls whose graphs are made at start; other shapes are captured when they come again."""
SIZES = (1024, 2048, 4096, 8192, 16_384)
GOOD_ENOUGH = 0.97
"""Of the best rate: the smallest budget that reaches it is taken, since smaller steps answer sooner."""


def tune(time_step: TimeStep, largest: int, graphs: StepGraphs | None) -> tuple[int, tuple[str, ...]]:
    notes = []
    if graphs is not None:
        for num_documents in SMALL_CALLS:
            lengths = [PREFIX, *[DOCUMENT] * num_documents]
            for _ in range(MEETINGS_BEFORE_CAPTURE if sum(lengths) <= largest else 0):
                time_step(lengths)
        notes.append(graphs.note())
    budget = _choose_budget(time_step, largest)
    if budget != largest:
        notes.append(f"token budget {budget}: {GOOD_ENOUGH:.0%} of the best measured rate or more")
    return budget, tuple(notes)


def _choose_budget(time_step: TimeStep, largest: int) -> int:
    sizes = [size for size in SIZES if size <= largest]
    if len(sizes) < 2:
        return largest
    rates = {}
    for size in sizes:
        lengths = [PREFIX, *[DOCUMENT] * ((size - PREFIX) // DOCUMENT)]
        time_step(lengths)
        rates[size] = sum(lengths) / min(time_step(lengths), time_step(lengths))
    best = max(rates.values())
    return next(size for size in sizes if rates[size] >= GOOD_ENOUGH * best)
