"""A promise that is broken a little for days is said, and one that was broken for an hour long ago is not."""

from __future__ import annotations

import pytest

from loradeck.rules.quality.promises import burning, overspent
from loradeck.schemas.counts import Counts
from loradeck.schemas.route import Objectives

NOW = 1000
PROMISED = Objectives(bad=0.01, errors=0.02)


def hour(bad: int = 0, failed: int = 0) -> Counts:
    return Counts.over(finished=1000 - failed, failed=failed, checked=1000 - failed, bad=bad)


def days(*shares: tuple[int, int], **counts: int) -> dict[int, Counts]:
    """Hours that are good, but for those from so many ago until so many ago."""
    found = {NOW - ago: hour() for ago in range(100)}
    for begun, ended in shares:
        found |= {NOW - ago: hour(**counts) for ago in range(ended, begun)}
    return found


@pytest.mark.parametrize(
    ("hours", "said"),
    [
        (days((100, 0), bad=14), ("bad 1.4% of 72,000 in three days, 1.0% promised",)),
        (days((100, 0), bad=10), ()),  # just what is promised
        (days((100, 0), failed=30), ("errors 3.0% of 72,000 in three days, 2.0% promised",)),
        (days((72, 10), bad=14), ()),  # it is over
        (days((6, 0), bad=14), ()),  # three days can bear it
        (days((6, 0), bad=300), ("bad 2.5% of 72,000 in three days, 1.0% promised",)),
        (days((100, 72), bad=500), ()),  # longer ago
        ({NOW: Counts.over(finished=49, checked=49, bad=49)}, ()),  # too few to say
        ({}, ()),
    ],
)
def test_a_promise_is_overspent_over_three_days_and_still(hours: dict[int, Counts], said: tuple[str, ...]) -> None:
    assert overspent(hours, NOW, PROMISED) == said
    assert overspent(hours, NOW, Objectives()) == ()


def test_a_share_of_refusals_is_promised_as_the_others_are() -> None:
    refused = {NOW - ago: Counts.over(refused=3, finished=97) for ago in range(80)}
    assert overspent(refused, NOW, Objectives(refusals=0.02)) == (
        "refusals 3.0% of 7,200 in three days, 2.0% promised",
    )
    assert overspent(refused, NOW, Objectives(bad=0.02, errors=0.02)) == ()


def minutes(*parts: tuple[int, int, int]) -> dict[int, Counts]:
    """Minutes of a hundred requests each, of which so many fail from so many ago until so many ago."""
    found = {NOW - ago: Counts.over(finished=100) for ago in range(400)}
    for begun, ended, failed in parts:
        found |= {NOW - ago: Counts.over(failed=failed, finished=100 - failed) for ago in range(ended, begun)}
    return found


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        (minutes((60, 0, 15)), ("errors 15.0% of 6,000 in an hour, 1.0% promised",)),
        (minutes((60, 0, 14)), ()),  # 14.4 times the promise would be gone in two days
        (minutes((10, 0, 100)), ("errors 16.7% of 6,000 in an hour, 1.0% promised",)),
        (minutes((60, 5, 30)), ()),  # it is over
        (minutes((360, 0, 7)), ("errors 7.0% of 36,000 in six hours, 1.0% promised",)),
        (minutes((360, 30, 7)), ()),
        (minutes((360, 60, 9), (60, 0, 15)), ("errors 15.0% of 6,000 in an hour, 1.0% promised",)),  # the nearer one
        ({NOW: Counts.over(failed=49)}, ()),  # too few to say
    ],
)
def test_a_budget_burns_by_the_windows_of_an_hour_or_of_six(counts: dict[int, Counts], said: tuple[str, ...]) -> None:
    assert burning(counts, NOW, Objectives(errors=0.01)) == said
    assert burning(counts, NOW, Objectives()) == ()
