"""The paired bootstrap: right means, honest widths, and a difference that is surer than its sides."""

from __future__ import annotations

import numpy as np
import pytest

from engine.entrypoints.evaluation.bootstrap import Interval, intervals


def test_width_is_that_of_the_normal_law() -> None:
    values = np.random.default_rng(0).normal(0.5, 0.2, (400, 1))
    (found,) = intervals(values)
    assert found.mean == pytest.approx(values.mean())
    expected = 1.96 * values.std() / 20
    assert found.mean - found.low == pytest.approx(expected, rel=0.15)
    assert found.high - found.mean == pytest.approx(expected, rel=0.15)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    samples = rng.beta(2, 3, (200, 300))
    covered = [(i := intervals(row[:, None], rounds=300)[0]).low <= 0.4 <= i.high for row in samples]
    assert 0.88 <= np.mean(covered) <= 0.99


def test_pairing_makes_a_small_constant_gain_sure() -> None:
    rng = np.random.default_rng(2)
    base = rng.random(200)
    better = base + 0.01 + rng.normal(0, 0.005, 200)
    first, second, difference = intervals(np.stack([base, better, better - base], axis=1))
    assert first.high > second.low  # side by side they overlap
    assert difference.verdict == "better"
    assert difference.mean == pytest.approx(second.mean - first.mean)


def test_the_same_every_time_and_the_same_draw_for_all_columns() -> None:
    values = np.random.default_rng(3).random((50, 1))
    twice = intervals(np.concatenate([values, values, -values], axis=1), rounds=250)
    assert twice == intervals(np.concatenate([values, values, -values], axis=1), rounds=250)
    assert twice[0] == twice[1]
    assert twice[2].low == pytest.approx(-twice[0].high)


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        (Interval(0.1, 0.01, 0.2), "better"),
        (Interval(-0.1, -0.2, -0.01), "worse"),
        (Interval(0.1, -0.01, 0.2), "no clear difference"),
        (Interval(0.0, 0.0, 0.0), "no clear difference"),
    ],
)
def test_verdicts(interval: Interval, verdict: str) -> None:
    assert interval.verdict == verdict


def test_one_query_has_no_width() -> None:
    assert intervals(np.array([[0.5]])) == [Interval(0.5, 0.5, 0.5)]
