"""How many restarts are granted, and when one is granted again."""

from __future__ import annotations

from engine.ipc.restart_budget import RESTART_WINDOW_S, RestartBudget


def test_restarts_are_limited_within_the_window() -> None:
    now = 0.0
    budget = RestartBudget(2, clock=lambda: now)
    assert [budget.spend() for _ in range(3)] == [True, True, False]
    now = RESTART_WINDOW_S + 1
    assert [budget.spend() for _ in range(3)] == [True, True, False]


def test_a_restart_that_is_taken_back_can_be_spent_again() -> None:
    budget = RestartBudget(1)
    budget.refund()
    assert budget.spend()
    budget.refund()
    assert budget.spend()
    assert not budget.spend()


def test_without_a_budget_nothing_is_restarted() -> None:
    assert not RestartBudget(0).spend()
