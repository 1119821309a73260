"""Second requests are a tenth of the first ones in the long run, and a hundred may come at once."""

from __future__ import annotations

from loradeck.rules.serving.retry_budget import MOST, RetryBudget


def taken(budget: RetryBudget, n: int) -> int:
    return sum(budget.take() for _ in range(n))


def test_what_is_under_way_on_an_engine_that_ends_may_be_asked_again_at_once() -> None:
    assert taken(RetryBudget(), 1000) == MOST


def test_in_the_long_run_one_of_ten_is_asked_again_however_many_fail() -> None:
    budget, second = RetryBudget(), 0
    for _ in range(10_000):
        budget.asked()
        second += budget.take()
    assert second - MOST <= 1000 <= second


def test_what_is_not_used_does_not_add_up() -> None:
    budget = RetryBudget()
    for _ in range(10_000):
        budget.asked()
    assert taken(budget, 10_000) == MOST
