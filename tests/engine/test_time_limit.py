"""A call with a time limit: its result, its own error, or ``TimeoutError``."""

from __future__ import annotations

import threading

import pytest

from engine.time_limit import within


def test_nothing_waits_for_ever() -> None:
    with pytest.raises(TimeoutError):
        within(0.05, threading.Event().wait)


def test_the_result_or_the_error_of_the_action_comes_back() -> None:
    assert within(5.0, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        within(5.0, lambda: 1 // 0)
