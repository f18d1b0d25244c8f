"""A test of a device's ops before the first step: each op's forms, best first, against plain torch on the device.

What a form is, and which shapes are tried, is the backend's to say (``Backend.self_test``). Here is how one is judged:
by the largest difference from what plain torch computes in fp32 of the same inputs, relative to the largest value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from engine.backends.crash_records import CrashRecords
from engine.errors import DeviceError
from engine.kernels.ops import AttentionMeta, LayerShape

PREFIX, DOCUMENTS, KEPT = 130, (37, 1, 24), 50
"""Tokens of the segments of the attention trial: a prefix of more than one block, and documents that see it or what was
kept."""


@dataclass(frozen=True)
class Trial:
    """One op at one shape."""

    op: str
    shape: str
    """In words, for people."""
    forms: Mapping[str, Callable[[], torch.Tensor]]
    """What each form computes, best first. A form may raise."""
    expected: Callable[[], torch.Tensor]
    limit: float
    """Of the difference, relative to the largest expected value."""


@dataclass(frozen=True)
class Outcome:
    """The result of a trial."""

    op: str
    shape: str
    form: str | None
    """The first form that is right; None: there is none."""
    difference: float
    limit: float
    problems: tuple[str, ...]
    """Why the forms before it are not used."""


def try_forms(trial: Trial, is_lost: Callable[[BaseException], bool], crash_records: CrashRecords) -> Outcome:
    """The first form of ``trial`` that is right. Raises only what ``is_lost`` says of the device."""
    problems, expected, difference = [], trial.expected().float(), float("nan")
    for form, compute in trial.forms.items():
        what = f"{trial.op} {form}"
        if reason := crash_records.why_not(what):
            problems.append(f"{form}: {reason}")
            continue
        try:
            with crash_records.trying(what, is_lost):
                difference = relative_difference(compute().float(), expected)
        except Exception as error:
            # A form that the device refuses is one that is not there; the next one is tried.
            if is_lost(error):
                raise
            lines = str(error).strip().splitlines() or [""]
            problems.append(f"{form}: {type(error).__name__}: {lines[0][:160]}")
            continue
        if difference <= trial.limit:
            return Outcome(trial.op, trial.shape, form, difference, trial.limit, tuple(problems))
        problems.append(f"{form}: {difference:.2g} away from plain torch, at most {trial.limit:g} is rounding")
    return Outcome(trial.op, trial.shape, None, difference, trial.limit, tuple(problems))


def relative_difference(got: torch.Tensor, expected: torch.Tensor) -> float:
    """NaN if either has a value that is no number, infinity if the shapes differ."""
    if got.shape != expected.shape:
        return float("inf")
    largest = expected.abs().amax().clamp_min(torch.finfo(torch.float32).tiny)
    return float(((got - expected).abs().amax() / largest).item())


def require_all(outcomes: Sequence[Outcome], device: str) -> None:
    """Raises ``DeviceError`` with op, shape and difference if some op has no form that is right."""
    wrong = [outcome for outcome in outcomes if outcome.form is None]
    if wrong:
        raise DeviceError(
            f"{device} fails its self-test: "
            + "; ".join(f"{outcome.op} at {outcome.shape} ({', '.join(outcome.problems)})" for outcome in wrong)
            + ". --skip-self-test serves anyhow, with scores that are likely wrong"
        )


def as_table(title: str, outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    """Lines for the log: what was chosen for each op, how far it is from plain torch, and what was passed over."""
    widths = [max(len(row[column]) for row in map(_row, outcomes)) for column in range(3)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(_row(o), widths, strict=True)) for o in outcomes]
    passed_over = [("; not " + ", not ".join(outcome.problems)) if outcome.problems else "" for outcome in outcomes]
    return (title, *(f"  {line.rstrip()}{reason}" for line, reason in zip(lines, passed_over, strict=True)))


def _row(outcome: Outcome) -> tuple[str, str, str]:
    return outcome.op, outcome.form or "NONE", f"{outcome.difference:.1e} of {outcome.limit:g}"


def sample_meta(shape: LayerShape, device: torch.device) -> AttentionMeta:
    """All that attention has to do: a parent, documents behind it, a kept prefix; whole pairs for encoders."""
    own = np.array([PREFIX, *DOCUMENTS, 20])
    starts = np.cumsum(own) - own
    seen = [-1, *[0] * len(DOCUMENTS), 1] if shape.causal else [-1] * len(own)
    return AttentionMeta(
        q_starts=starts,
        q_lens=own,
        own_starts=starts,
        own_lens=own,
        context_ids=np.array(seen),
        context_indptr=np.array([0, 1, 2]),
        context_ranges=np.array([[KEPT, PREFIX], [0, KEPT]], np.int32),
        kv_capacity=KEPT,
        scale=shape.scale,
        causal=shape.causal,
        device=device,
    )
