"""The values of a step, divided among its calls. R reads of the step, P pairs, O outputs of the head."""

from __future__ import annotations

import numpy as np

from engine.errors import NonFiniteScoreError
from engine.messages import WireError
from engine.scheduling.call import Call
from engine.scheduling.step_plan import StepPlan
from engine.scheduling.token_tree import LeafRun


def values_of_calls(plan: StepPlan, values: np.ndarray) -> dict[Call, list[tuple[np.ndarray, np.ndarray]]]:
    """(R, O) values in the order of the step -> for each call its pairs (P,) and their values (P, O), part by part.

    Of a call that reads several tokens of a prompt (``Call.read_rows``) the numbers of its reads stand for pairs.
    """
    found: dict[Call, list[tuple[np.ndarray, np.ndarray]]] = {}
    row = 0
    for call, entry in zip(plan.calls, plan.entries, strict=True):
        if call is None:
            continue
        if call.read_rows is not None:
            if entry.reads is not None:
                end = row + len(entry.reads.rows)
                found.setdefault(call, []).append((entry.reads.rows, values[row:end]))
                row = end
        elif isinstance(entry, LeafRun):
            end = row + entry.num_leaves
            found.setdefault(call, []).append((entry.pairs, entry.of_pairs(values[row:end])))
            row = end
        elif entry.pairs:
            repeated = values[row : row + 1].repeat(len(entry.pairs), axis=0)
            found.setdefault(call, []).append((np.array(entry.pairs), repeated))
            row += 1
    return found


def without_non_finite(
    pairs: np.ndarray, values: np.ndarray, num_rows: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, dict[int, WireError]]:
    """The pairs whose values are all finite, with their values; and an error for each of the others.

    ``num_rows`` (P,): how many rows of ``values`` each pair has; None: one.
    """
    finite = np.isfinite(values).all(axis=1)
    if num_rows is None:
        values = values[finite]
    else:
        finite = np.logical_and.reduceat(finite, num_rows.cumsum() - num_rows)
        values, num_rows = values[finite.repeat(num_rows)], num_rows[finite]
    errors = {
        pair: WireError.of(NonFiniteScoreError(f"the model's score for document {pair} is not finite"))
        for pair in pairs[~finite].tolist()
    }
    return pairs[finite], values, num_rows, errors
