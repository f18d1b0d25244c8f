"""What is decided by measuring once the model is loaded: graphs for the usual small steps, and the token budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from engine.backends.base import OutOfMemory
from engine.backends.npu.faults import first_line, lost_code
from engine.backends.npu.graphs import STEPS_BEFORE_CAPTURE, StepGraphs

TimeStep = Callable[[Sequence[int]], float]
PREFIX, DOCUMENT = 72, 36
"""Tokens of a usual short pair: template and query, shared by the call, and the document with the suffix."""
SMALL_CALLS = (1, 10)
"""Documents of the calls whose graphs are made at start; other shapes are captured when they come again."""
SIZES = (1024, 2048, 4096, 8192, 16_384)
GOOD_ENOUGH = 0.97
"""Of the best rate: the smallest budget that reaches it is taken, since smaller steps answer sooner."""


def tune(time_step: TimeStep, largest: int, graphs: StepGraphs | None) -> tuple[int, tuple[str, ...]]:
    """See ``Backend.tune``. A step that fails ends the measuring, not the start: the budget is one that was run."""
    notes = []
    if graphs is not None:
        for num_documents in SMALL_CALLS:
            lengths = [PREFIX, *[DOCUMENT] * num_documents]
            for _ in range(STEPS_BEFORE_CAPTURE if sum(lengths) <= largest else 0):
                time_step(lengths)
        notes.append(graphs.note())
    budget, note = _choose_budget(time_step, largest)
    return budget, (*notes, note) if note else tuple(notes)


def _choose_budget(time_step: TimeStep, largest: int) -> tuple[int, str | None]:
    sizes = [size for size in SIZES if size <= largest]
    if len(sizes) < 2:
        return largest, None
    rates: dict[int, float] = {}
    for size in sizes:
        lengths = [PREFIX, *[DOCUMENT] * ((size - PREFIX) // DOCUMENT)]
        try:
            time_step(lengths)
            rates[size] = sum(lengths) / min(time_step(lengths), time_step(lengths))
        except (RuntimeError, MemoryError, OutOfMemory) as error:
            if not rates or lost_code(error) is not None:
                raise
            return max(rates), f"token budget {max(rates)}: a step of {size} tokens failed ({first_line(error)})"
    best = max(rates.values())
    budget = next(size for size in sizes if rates[size] >= GOOD_ENOUGH * best)
    return budget, None if budget == largest else (
        f"token budget {budget}: {GOOD_ENOUGH:.0%} of the best measured rate or more"
    )
