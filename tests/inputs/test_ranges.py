"""Probabilities for callers that expect them, whatever the model's own range."""

from __future__ import annotations

import numpy as np

from engine.model_spec import ActivationFn, HeadSpec
from engine.scoring.activation import activate, logits_of, probabilities

LOGITS = np.array([-3.0, 0.0, 2.0], np.float32)


def head(activation: ActivationFn) -> HeadSpec:
    return HeadSpec(kind="classifier", activation=activation)


def test_probabilities_of_any_range() -> None:
    expected = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
    for activation in ("identity", "sigmoid", "tanh", "softmax"):
        np.testing.assert_allclose(probabilities(LOGITS, head(activation)), expected)
    assert probabilities(LOGITS, head("cosine")).tolist() == LOGITS.tolist()
    assert activate(LOGITS, head("identity")).tolist() == LOGITS.tolist()
    np.testing.assert_allclose(activate(LOGITS, head("tanh")), np.tanh(LOGITS), rtol=1e-6)


def test_the_expected_answer() -> None:
    answers = HeadSpec(kind="expectation", activation="identity", token_ids=tuple(range(7)))
    np.testing.assert_allclose(probabilities(np.array([1.0, 4.0, 7.0], np.float32), answers), [0.0, 0.5, 1.0])
    values = np.log(np.array([[0.1, 0.2, 0.7], [0.5, 0.5, 0.0]]) + 1e-30).astype(np.float32)
    found = logits_of(values, HeadSpec(kind="expectation", activation="identity"))
    np.testing.assert_allclose(found, [2.6, 1.5], rtol=1e-5)
