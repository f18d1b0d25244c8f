"""Samples to numbers, on samples whose numbers are known."""

from __future__ import annotations

import numpy as np
import pytest

from engine.entrypoints.bench.arrivals import arrival_times
from engine.entrypoints.bench.dialects import DIALECTS, BadAnswerError, first_model
from engine.entrypoints.bench.options import ServeOptions
from engine.entrypoints.bench.report import summary_lines
from engine.entrypoints.bench.samples import Run, Sample
from engine.entrypoints.bench.sender import error_text
from engine.entrypoints.bench.summary import goodput_limits, ratio, summarise


def sample(index: int, planned_s: float, sent_s: float, done_s: float, **more: object) -> Sample:
    return Sample(
        index=index, planned_s=planned_s, sent_s=sent_s, done_s=done_s, num_documents=2, num_tokens=100, **more
    )  # type: ignore[arg-type]


def four_calls() -> Run:
    samples = [sample(i, 0.0, i * 0.1, i * 0.1 + 0.1, first_score_s=i * 0.1 + 0.05) for i in range(4)]
    return Run(samples=[*samples, sample(4, 0.0, 0.0, 1.0, error="HTTP 500: x")], duration_s=1.0)


def test_rates_and_latencies() -> None:
    summary = summarise(four_calls(), (50.0, 100.0), [])
    assert (summary.completed, summary.failed, summary.num_documents, summary.total_tokens) == (4, 1, 8, 400)
    assert (summary.requests_per_s, summary.documents_per_s, summary.tokens_per_s) == (4.0, 8.0, 400.0)
    assert summary.latency.median_ms == pytest.approx(100)
    assert summary.latency.std_ms == pytest.approx(0, abs=1e-9)
    assert summary.queue.percentiles_ms[100.0] == pytest.approx(300)
    assert summary.inclusive.percentiles_ms[100.0] == pytest.approx(400)
    assert summary.first_score is not None
    assert summary.first_score.mean_ms == pytest.approx(50)


@pytest.mark.parametrize(
    ("limits", "good"),
    [(("e2el:250",), 2), (("e2el:1000",), 4), (("ttfs:60",), 1), (("e2el:250", "ttfs:60"), 1), (("e2el:1",), 0)],
)
def test_goodput_counts_from_the_planned_time(limits: tuple[str, ...], good: int) -> None:
    summary = summarise(four_calls(), (99.0,), goodput_limits(limits))
    assert summary.good_per_s == good
    assert summary.good_share == good / 5  # the failed call is one of five


def test_nothing_finished_is_printed_as_zeros() -> None:
    run = Run(samples=[sample(0, 0, 0, 1, error="no")], duration_s=1.0)
    lines = list(summary_lines(run, summarise(run, (99.0,), []), ServeOptions()))
    assert "Successful requests:                     0" in lines
    assert "P99 E2EL (ms):                           0.00" in lines


def test_ratio_of_paired_blocks() -> None:
    drift = np.array([1.0, 2.0, 3.0, 4.0])  # the machine slows down; the ratio does not notice
    value, low, high = ratio(list(2 * drift), list(drift))
    assert value == pytest.approx(2)
    assert low == pytest.approx(2)
    assert high == pytest.approx(2)
    noisy = ratio([1.0, 2.0, 1.5, 2.2], [1.1, 1.4, 1.6, 1.9])
    assert noisy.low < noisy.value < noisy.high


def test_arrivals() -> None:
    assert not arrival_times(ServeOptions(), 5).any()
    poisson = np.diff(arrival_times(ServeOptions(request_rate=10.0), 20_000))
    assert poisson.mean() == pytest.approx(0.1, rel=0.05)
    assert poisson.std() == pytest.approx(0.1, rel=0.05)  # an exponential's deviation is its mean
    regular = np.diff(arrival_times(ServeOptions(request_rate=10.0, burstiness=100.0), 5000))
    assert regular.std() == pytest.approx(0.01, rel=0.1)
    ramp = ServeOptions(ramp_up_strategy="exponential", ramp_up_start_rps=1.0, ramp_up_end_rps=100.0, burstiness=1000.0)
    gaps = np.diff(arrival_times(ramp, 101))
    assert gaps[0] == pytest.approx(1.0, rel=0.2)
    assert gaps[50] == pytest.approx(0.1, rel=0.2)


@pytest.mark.parametrize(
    ("results", "problem"),
    [
        ("no", "no list of results"),
        ([{"index": 0, "relevance_score": 1.0}], "1 scores for 2 documents"),
        ([{"index": 0, "relevance_score": 1.0}] * 2, "has the index 0"),
        ([{"index": 5, "relevance_score": 1.0}], "has the index 5"),
        ([{"index": 0, "relevance_score": None}], "has the score None"),
        ([{"index": 0, "relevance_score": float("nan")}], "has the score nan"),
    ],
)
def test_incomplete_answers_are_refused(results: object, problem: str) -> None:
    with pytest.raises(BadAnswerError, match=problem):
        DIALECTS["rerank"].read({"results": results}, {}, 2)


def test_tokens_of_both_generations() -> None:
    results = [{"index": 0, "relevance_score": 0.5}]
    for usage, tokens in (({"total_tokens": 7}, 7), ({"prompt_tokens": 5, "total_tokens": 7}, 5), ({}, None)):
        assert DIALECTS["vllm-rerank"].read({"results": results, "usage": usage}, {}, 1).num_tokens == tokens


def test_first_model_of_any_listing() -> None:
    assert first_model(b'{"data": [{"id": "a", "root": "folder"}, {"id": "b"}]}') == ("a", "folder")
    assert first_model(b'{"model_id": "m"}') == ("m", "m")
    for nothing in (b"{}", b'{"data": []}', b"<html>", b"[1]"):
        assert first_model(nothing) is None


def test_error_text_of_any_shape() -> None:
    assert error_text(b'{"error": {"message": "a"}}') == "a"
    assert error_text(b'{"error": "b", "error_type": "Overloaded"}') == "b"
    assert error_text(b'{"object": "error", "message": "c"}') == "c"
    assert error_text(b'{"detail": "d"}') == "d"
    assert error_text(b"<html>") == "<html>"
    assert error_text(b"") == "no body"
