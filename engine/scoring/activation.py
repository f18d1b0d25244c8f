"""From a pair's raw values to its logit and its score: the one place where the activation of the head is applied.

Everything here is plain NumPy, so that the API process needs no torch. Results are ordered by the logit, never by the
score: a sigmoid in low precision makes ties where the model made none.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from engine.errors import InvalidRequestError
from engine.model_spec import SIMILARITIES, HeadSpec

PROBABILITIES = ("sigmoid", "softmax")
"""Activations whose scores are probabilities: nothing but them lies in 0..1 whatever the model."""


def expectation(values: np.ndarray) -> np.ndarray:
    """(P, O) logits of the answers 1 to O -> (P, 1): the answer as the softmax over them expects it."""
    wide = values.astype(np.float64)
    weights = np.exp(wide - wide.max(axis=1, keepdims=True))
    answers = np.arange(1, values.shape[1] + 1)
    expected: np.ndarray = (weights @ answers) / weights.sum(axis=1)
    return expected[:, None].astype(np.float32)


def logits_of(values: np.ndarray, head: HeadSpec) -> np.ndarray:
    """(P, O) values of the head -> (P,) fp32 logits, calibrated where the model says so.

    Raises ``InvalidRequestError`` for a model with several labels.
    """
    if head.kind == "expectation":
        values = expectation(values)
    if values.shape[1] != 1:
        raise InvalidRequestError(
            f"Scoring is only possible with one label per pair, and this model has {values.shape[1]}. "
            "Use /classify for its labels, or convert the checkpoint to one label."
        )
    logits = values[:, 0].astype(np.float32, copy=False)
    if head.logit_mean != 0.0 or head.logit_sigma != 1.0:
        logits = (logits - np.float32(head.logit_mean)) / np.float32(head.logit_sigma)
    return logits


def probabilities(logits: np.ndarray, head: HeadSpec) -> np.ndarray:
    """(P,) logits -> (P,) scores in 0..1 in float64 whatever the model's own range; similarities stay as they are.

    An answer of 1 to O is its place between the two.
    """
    if head.kind == "expectation":
        return np.clip((logits.astype(np.float64) - 1) / max(1, len(head.token_ids) - 1), 0, 1)
    is_similarity = head.activation in SIMILARITIES
    return activate(logits, head if is_similarity else replace(head, activation="sigmoid"))


def activate(logits: np.ndarray, head: HeadSpec) -> np.ndarray:
    """(P,) logits -> (P,) scores in float64: beyond a logit of 17 an fp32 sigmoid would already be exactly 1."""
    wide = logits.astype(np.float64)
    if head.activation == "tanh":
        return np.tanh(wide)
    if head.activation not in PROBABILITIES:
        return wide
    # One label: the softmax of a 2-way head was folded into its weights and is this sigmoid too.
    # exp of a negative number only: no overflow at either end.
    decay = np.exp(-np.abs(wide))
    return np.where(wide >= 0, 1.0, decay) / (1.0 + decay)


def ranking(logits: np.ndarray) -> np.ndarray:
    """(P,) logits -> positions from the best pair to the worst; ties keep their input order."""
    return np.argsort(-logits, kind="stable")
