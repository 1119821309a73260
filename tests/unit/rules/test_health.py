"""Soak, intervals of shares, and what bad neighbours share."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loradeck.rules.quality.health import newly_soaked, shared_cause, soaked
from loradeck.rules.quality.statistics import wilson
from loradeck.schemas.counts import Counts
from loradeck.schemas.route import Soak


def answers(bad: int, checked: int) -> Counts:
    return Counts.over(finished=checked, checked=checked, bad=bad)


def errors(count: int, requests: int) -> Counts:
    return Counts.over(failed=count, finished=requests - count)


@pytest.mark.parametrize(
    ("seconds", "requests", "done"), [(600, 200, True), (599.9, 200, False), (600, 199, False), (6000, 0, False)]
)
def test_soaking_takes_time_and_requests(seconds: float, requests: int, done: bool) -> None:
    assert soaked(seconds, requests, Soak()) is done


def test_an_interval_is_the_one_of_the_textbook() -> None:
    low, high = wilson(10, 50)
    assert (round(low, 4), round(high, 4)) == (0.1124, 0.3304)
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 20)[0] == 0.0
    assert wilson(20, 20)[1] == 1.0
    with pytest.raises(ValueError, match="not a share"):
        wilson(3, 2)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_interval_holds_its_share(share: tuple[int, int]) -> None:
    k, n = share
    low, high = wilson(k, n)
    assert 0.0 <= low <= k / n <= high <= 1.0


BAD = answers(310, 1000)
ALIKE = {"gpu-01": answers(155, 500), "gpu-02": answers(155, 500)}
ONE_SIDED = {"gpu-01": answers(300, 500), "gpu-02": answers(10, 500)}


@pytest.mark.parametrize(
    ("by_replica", "figure", "said"),
    [
        (ALIKE, "bad", "their base"),
        (ONE_SIDED, "bad", "the replica gpu-01"),
        ({"gpu-01": BAD}, "bad", "their node or their base"),
        ({"gpu-01": BAD, "gpu-02": answers(1, 4)}, "bad", "their node or their base"),  # too few to say
        ({"gpu-01": errors(1, 200), "gpu-02": errors(90, 200)}, "errors", "the replica gpu-02"),
    ],
)
def test_what_bad_neighbours_share_is_the_replica_that_stands_out_or_their_base(
    by_replica: dict[str, Counts], figure: str, said: str
) -> None:
    assert shared_cause(by_replica, figure) == said


def test_only_releases_that_have_served_enough_and_were_not_known_to_have_soaked_are_new() -> None:
    served = {"old": (900.0, 900), "known": (900.0, 900), "short": (599.0, 900), "few": (900.0, 199)}
    assert newly_soaked(served, {"known"}, Soak(), served.__getitem__) == ("old",)
    assert newly_soaked(served, {"known"}, Soak(seconds=0, requests=0), served.__getitem__) == ("old", "short", "few")
