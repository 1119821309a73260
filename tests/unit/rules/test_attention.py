"""Which pointers need a person, and which of them first."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fakes import console_fleet

from loradeck.rules.quality.attention import harm, urgency
from loradeck.schemas.counts import Counts
from loradeck.schemas.state import TenantRow


@pytest.mark.parametrize(
    ("flags", "rank"),
    [
        (("HELD", "BAD"), 0),
        (("UNPRVN", "NOPRIOR"), 1),
        (("FAILED",), 2),
        (("SLOW",), 3),
        (("GLASS",), 4),
        (("NOPRIOR",), 5),
        ((), 5),
    ],
)
def test_bad_comes_before_unproven_and_no_way_back_needs_nobody(flags: tuple[str, ...], rank: int) -> None:
    assert urgency(flags) == rank


def row(**fields: Any) -> TenantRow:
    return console_fleet.hub_state().tenants[0].model_copy(update={"flags": ("BAD",), "minute": Counts()} | fields)


def test_a_third_of_much_traffic_is_worse_than_all_of_little() -> None:
    much = harm(row(requests_per_s=41.0, bad_now=0.31, error_share=0.0))
    little = harm(row(requests_per_s=0.1, bad_now=1.0, error_share=None))
    assert much > little > harm(row(requests_per_s=41.0, bad_now=0.0, error_share=0.0)) == 0


def test_refused_and_failed_requests_do_harm_though_no_answer_was_checked() -> None:
    failing = row(requests_per_s=1.0, bad_now=None, error_share=0.5, minute=Counts.over(refused=10))
    assert harm(failing) == harm(row(requests_per_s=1.0, bad_now=40 / 60, error_share=None)) > 0


def test_a_figure_that_ticks_changes_no_order_and_on_a_row_that_needs_nobody_none_does() -> None:
    figures = {"requests_per_s": 41.0, "error_share": 0.0}
    assert harm(row(bad_now=0.31, **figures)) == harm(row(bad_now=0.309, **figures))
    assert harm(row(flags=("HELD", "NOPRIOR"), bad_now=0.31, **figures)) == 0
