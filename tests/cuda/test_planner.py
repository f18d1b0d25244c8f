"""The law of step times is found again from samples of it, and the budget follows from the law."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.backends.cuda.planner import StepSample, StepTime, choose_token_budget, fit_step_time

SIZES = (512, 1024, 2048, 4096, 8192, 16_384)
seconds = st.floats(1e-9, 1.0)


def samples_of(law: StepTime) -> list[StepSample]:
    points = [(size, size * length // 2) for size in SIZES for length in (128, 2048) if length <= size]
    return [StepSample(tokens, squares, law.seconds(tokens, squares)) for tokens, squares in points]


@given(st.floats(1e-5, 1e-1), st.floats(1e-8, 1e-4), st.floats(0, 1e-8))
def test_an_exact_law_is_found_again(fixed: float, token: float, square: float) -> None:
    law = StepTime(fixed, token, square)
    found = fit_step_time(samples_of(law))
    for sample in samples_of(law):
        assert found.seconds(sample.num_tokens, sample.sum_squares) == pytest.approx(sample.seconds, rel=1e-3)


@given(st.lists(st.tuples(st.integers(1, 10_000), st.integers(0, 10**8), seconds), min_size=1, max_size=8))
def test_no_term_is_ever_negative(rows: list[tuple[int, int, float]]) -> None:
    law = fit_step_time([StepSample(*row) for row in rows])
    assert min(law.fixed_s, law.token_s, law.square_s) >= 0.0


def test_the_budget_is_the_smallest_size_that_is_nearly_best() -> None:
    no_overhead = StepTime(0.0, 1e-6, 0.0)
    assert choose_token_budget(no_overhead, SIZES, 128) == 512
    launch_bound = StepTime(1.0, 1e-9, 0.0)
    assert choose_token_budget(launch_bound, SIZES, 128) == 16_384
    # 1 ms of overhead: 8192 tokens waste 10.9 % of their time, 16384 5.8 %: 4.9 % apart, so not within 3 %.
    between = StepTime(1e-3, 1e-6, 0.0)
    assert choose_token_budget(between, SIZES, 128) == 16_384
    assert choose_token_budget(between, SIZES, 128, tolerance=0.06) == 8192


def test_the_law_reads_well() -> None:
    assert str(StepTime(2e-3, 1.5e-6, 2e-12)) == "2.00 ms + 1.500 us a token + 0.0020 ns a squared length"
