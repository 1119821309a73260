"""Which answers are checked, and which requests the release beneath is asked again."""

from __future__ import annotations

import pytest

from loradeck.rules.quality.sampling import (
    CHECKED_WHOLLY_S,
    MOST_UNDER_WAY,
    asked_again_share,
    checked_share,
    may_ask_again,
)


@pytest.mark.parametrize(
    ("sample", "since_move_s", "rate", "candidate", "share"),
    [
        (0.1, 0, 500, False, 1.0),
        (0.1, CHECKED_WHOLLY_S - 1, 500, False, 1.0),
        (0.1, CHECKED_WHOLLY_S, 500, False, 0.1),
        (0.1, CHECKED_WHOLLY_S, 500, True, 1.0),
        (0.01, CHECKED_WHOLLY_S, 500, False, 0.1),  # 50 a second at least
        (0.01, CHECKED_WHOLLY_S, 40, False, 1.0),
        (0.01, CHECKED_WHOLLY_S, 0, False, 1.0),
        (1.0, CHECKED_WHOLLY_S, 5000, False, 1.0),
        (0.0, 0, 1, True, 0.0),  # who checks nothing has chosen so
    ],
)
def test_all_answers_are_checked_after_a_move_and_fifty_a_second_later(
    sample: float, since_move_s: float, rate: float, candidate: bool, share: float
) -> None:
    assert checked_share(sample, since_move_s, rate, candidate=candidate) == share


def test_a_tenth_of_the_requests_is_asked_again_and_one_a_second_where_there_are_few() -> None:
    assert [asked_again_share(rate) for rate in (0, 0.5, 1, 2, 10, 40, 1000)] == [1, 1, 1, 0.5, 0.1, 0.1, 0.1]


def test_callers_come_first() -> None:
    assert may_ask_again(0, 0, 0)
    assert not may_ask_again(0, 0, 1)  # somebody waits
    assert not may_ask_again(0, 0, None)  # nobody knows whether somebody does
    assert not may_ask_again(MOST_UNDER_WAY, 0, 0)
    assert may_ask_again(20, 3, 0)
    assert not may_ask_again(20, 4, 0)
    assert may_ask_again(160, 15, 0)
    assert not may_ask_again(160, 16, 0)
