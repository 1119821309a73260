"""A judge that likes longer answers passes no candidate that is worse for being longer-winded."""

from __future__ import annotations

import pytest
from tests.gates.judged import draw_pairs

from loradeck.rules.quality.length_control import JudgedPair, controlled
from loradeck.rules.quality.statistics import drop_bound

LIMIT, DRAWS = 0.1, 300


def shares_passed(pairs: int, *, drop: float, longer: float, liking: float, grows: bool = False) -> tuple[float, float]:
    """How often a candidate passes by its pairs as they are, and adjusted for length."""
    outcomes, words = draw_pairs(pairs, DRAWS, drop=drop, longer=longer, liking=liking, grows=grows, seed=1)
    raw = adjusted = 0
    for row, apart in zip(outcomes.tolist(), words.tolist(), strict=True):
        raw += drop_bound(row.count(1), row.count(-1), pairs) < LIMIT
        adjusted += drop_bound(*controlled([JudgedPair(*one) for one in zip(row, apart, strict=True)])) < LIMIT
    return raw / DRAWS, adjusted / DRAWS


@pytest.mark.parametrize("grows", [False, True])
@pytest.mark.parametrize(("pairs", "longer"), [(200, 0.8), (200, 0.9), (200, 1.0), (400, 0.8), (400, 0.9), (400, 1.0)])
def test_a_longer_winded_candidate_that_is_fifteen_points_worse_does_not_pass_a_limit_of_ten(
    pairs: int, longer: float, *, grows: bool
) -> None:
    """The judge names the longer answer in a fifth of the pairs. As they are, 59 to 100 % of such candidates passed."""
    raw, adjusted = shares_passed(pairs, drop=0.15, longer=longer, liking=0.2, grows=grows)
    assert raw > 0.5
    assert adjusted <= 0.05


def test_a_judge_that_does_not_mind_length_errs_no_more_often_than_is_promised_and_still_passes_what_is_as_good() -> (
    None
):
    for longer in (0.2, 0.5, 0.8):
        assert shares_passed(400, drop=LIMIT, longer=longer, liking=0.0)[1] <= 0.06
        assert shares_passed(400, drop=0.0, longer=longer, liking=0.0)[1] >= 0.6


def test_a_terse_candidate_that_is_better_passes_though_the_judge_likes_longer_answers() -> None:
    raw, adjusted = shares_passed(400, drop=-0.1, longer=0.2, liking=0.2)
    assert (raw < 0.55, adjusted > 0.9) == (True, True)


def test_answers_of_equal_length_count_as_they_are() -> None:
    pairs = [JudgedPair(outcome, 0) for outcome in [1] * 7 + [-1] * 3 + [0] * 10]
    assert controlled(pairs) == (pytest.approx(7), pytest.approx(3), 20)
    assert controlled([]) == (0, 0, 0)


def test_a_candidate_that_is_longer_throughout_is_worth_no_pair() -> None:
    assert controlled([JudgedPair(-1, words) for words in range(1, 200)]) == (0, 0, 0)
