"""The self-test finds weights that give NaN, scores that depend on the batch, and a head the wrong way round."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import cast

import numpy as np
import pytest

from engine.entrypoints.inspection.self_test import SelfTest
from engine.errors import ModelLoadError
from engine.inputs.processor import InputProcessor
from engine.messages import CallStats, EngineCoreOutput, WireError
from engine.model_spec import HeadSpec, ModelSpec
from engine.request import EncodedPair, PairOptions

SPEC = ModelSpec(
    name="model",
    path="",
    tokenizer_path="",
    model_type="qwen3",
    head=HeadSpec(kind="from_2_way_softmax", token_ids=(2, 9), tokens=("no", "yes")),
    causal=True,
    max_model_len=100,
    vocab_size=100,
)
DONE = CallStats(0, 0, 0.0, 0.0, 1)


class Inputs:
    reads_lists = False

    def encode(self, queries: list[str], documents: list[str], options: PairOptions) -> list[EncodedPair]:
        return [EncodedPair(np.arange(3, dtype=np.int32)) for _ in documents]


def run(alone: float, together: tuple[float, float], *, trained: bool = True, spec: ModelSpec = SPEC) -> None:
    test = SelfTest(cast(InputProcessor, Inputs()), spec, "float32", trained=trained)
    answers = {"self-test-alone": (alone,), "self-test-both": together}
    for call in test.calls:
        values = np.array(answers[call.call_id], np.float32).reshape(-1, 1)
        test.take([EngineCoreOutput(call.call_id, np.arange(len(values)), values, stats=DONE)])
    assert test.finished
    test.judge()


def test_a_good_model_passes_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    run(-3.0, (2.0, -3.0))
    assert not caplog.records


def test_the_wrong_order_is_a_loud_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        run(2.0, (-3.0, 2.0))
    assert "classifier_from_token" in caplog.text


HEADS = {
    "one token": (HeadSpec(kind="no_post_processing", token_ids=(0,), tokens=("!",)), "the logit of '!'"),
    "two labels": (HeadSpec(kind="classifier", label_rows=(0, 1), stored_labels=2), "as id2label says"),
    "a classifier": (HeadSpec(kind="classifier", pooling="cls"), "trained to rank passages for a question"),
    "vectors": (HeadSpec(kind="embedding", pooling="mean"), "pooled as in training (here: mean)"),
}


@pytest.mark.parametrize("kind", HEADS)
def test_the_words_fit_the_head(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    head, words = HEADS[kind]
    run(2.0, (-3.0, 2.0), spec=replace(SPEC, head=head, causal=head.kind == "no_post_processing"))
    assert words in caplog.text
    assert "classifier_from_token" not in caplog.text


def test_random_weights_have_no_wrong_order(caplog: pytest.LogCaptureFixture) -> None:
    run(2.0, (-3.0, 2.0), trained=False)
    assert not caplog.records


def test_a_score_that_depends_on_its_batch_stops_the_start() -> None:
    with pytest.raises(ModelLoadError, match="in a batch"):
        run(-3.0, (2.0, -2.9))


@pytest.mark.parametrize("error", [WireError("non_finite_score", "the score of document 0 is not finite")])
def test_a_score_that_is_not_finite_stops_the_start(error: WireError) -> None:
    test = SelfTest(cast(InputProcessor, Inputs()), SPEC, "float32", trained=True)
    with pytest.raises(ModelLoadError, match="damaged"):
        test.take(
            [EngineCoreOutput("self-test-both", np.zeros(0, np.int32), np.zeros((0, 1), np.float32), {0: error}, DONE)]
        )
