"""Answers to pairs: made of values or errors, and entered into their call, so that each pair gets exactly one."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from engine.errors import EngineError
from engine.messages import EngineCoreOutput, SchedulerStats, WireError
from engine.scheduling.call import Call
from engine.scheduling.failure_attribution import SuspectedPairs
from engine.scheduling.step_values import without_non_finite

NO_PAIRS = np.zeros(0, np.int32)
NO_VALUES = np.zeros((0, 1), np.float32)


class Answers:
    """Makes the messages that answer pairs. ``clock`` (seconds) dates the end of each call."""

    def __init__(self, totals: SchedulerStats, suspects: SuspectedPairs, clock: Callable[[], float]) -> None:
        """``totals`` count what is answered; whoever is answered is no longer among the ``suspects``."""
        self._totals = totals
        self._suspects = suspects
        self._clock = clock

    def scored(
        self, call: Call, parts: list[tuple[np.ndarray, np.ndarray]], all_finite: bool
    ) -> EngineCoreOutput | None:
        """Answers with values of a step; None where they complete no prompt. ``parts``: pairs and their values, or
        reads and theirs."""
        pairs, values = parts[0] if len(parts) == 1 else map(np.concatenate, zip(*parts, strict=True))
        num_rows: np.ndarray | None = None
        if call.read_rows is not None:
            pairs = call.read_rows.add(pairs, values)
            if not len(pairs):
                return None
            values, num_rows = call.read_rows.take(pairs)
            all_finite = bool(np.isfinite(values).all())
        errors: dict[int, WireError] = {}
        if not all_finite:
            pairs, values, num_rows, errors = without_non_finite(pairs, values, num_rows)
        return self._enter(call, pairs, values, errors, num_rows)

    def failed(self, call: Call, pairs: Iterable[int], error: EngineError) -> EngineCoreOutput:
        """Answers each of these pairs with the same error."""
        return self._enter(call, NO_PAIRS, NO_VALUES, dict.fromkeys(pairs, WireError.of(error)), None)

    def _enter(
        self,
        call: Call,
        pairs: np.ndarray,
        values: np.ndarray,
        errors: dict[int, WireError],
        num_rows: np.ndarray | None,
    ) -> EngineCoreOutput:
        call.answered[pairs] = True
        if errors:
            call.answered[list(errors)] = True
        num_answers = len(pairs) + len(errors)
        call.num_answered += num_answers
        finished = call.finished
        self._totals.finished_pairs += num_answers
        self._totals.logical_tokens += call.num_tokens(pairs) + call.num_tokens(list(errors))
        self._totals.finished_calls += finished
        if self._suspects:
            self._suspects.clear(call.call_id, [*pairs.tolist(), *errors])
        stats = call.stats(self._clock()) if finished else None
        indices = pairs if pairs.dtype == np.int32 else pairs.astype(np.int32)
        num_rows = None if num_rows is None else num_rows.astype(np.int32)
        return EngineCoreOutput(call.call_id, indices, values, errors, stats, num_rows)
