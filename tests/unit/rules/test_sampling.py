"""Which answers are checked, and which requests the release beneath is asked again."""

from __future__ import annotations

import math
from functools import partial

import pytest

from loradeck.rules.clocks import HOUR_MS
from loradeck.rules.quality.sampling import (
    CHECKED_WHOLLY_S,
    MODELS_SHARE,
    MOST_UNDER_WAY,
    OPENING,
    TWICE,
    Arm,
    Consent,
    ModelTime,
    asked_again_share,
    checked_share,
    keeps_sample,
    may_ask_again,
    sample_stays,
    shadowed,
    waits_for_oldest,
)
from loradeck.schemas.trace import LONGEST_SAMPLE_HOURS, SAMPLES

NOW_MS = 500 * HOUR_MS


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


def test_later_a_tenth_of_the_requests_is_asked_again_and_one_a_second_where_there_are_few() -> None:
    shares = [asked_again_share(rate, OPENING) for rate in (0, 0.5, 1, 2, 10, 40, 1000)]
    assert shares == [1, 1, 1, 0.5, 0.1, 0.1, 0.1]


def test_the_first_requests_after_a_move_are_all_asked_again_whatever_their_rate() -> None:
    assert [asked_again_share(1000, drawn) for drawn in (0, OPENING - 1, OPENING)] == [1, 1, 0.1]


@pytest.mark.parametrize("late", range(6))
def test_the_oldest_pair_is_waited_for_until_seventeen_of_twenty_are_over(late: int) -> None:
    over = [False] * late + [True] * (20 - late)
    assert waits_for_oldest(0, over) == (late > 3)
    assert waits_for_oldest(OPENING - 1, [*over, *[False] * 50]) == (late > 3)
    assert waits_for_oldest(OPENING, over), "later each is waited for"
    assert waits_for_oldest(0, over[:19]), "of fewer nobody knows which are long"


def test_callers_come_first() -> None:
    assert may_ask_again(0, 0, 0)
    assert not may_ask_again(0, 0, 1)  # somebody waits
    assert not may_ask_again(0, 0, None)  # nobody knows whether somebody does
    assert not may_ask_again(MOST_UNDER_WAY, 0, 0)
    assert may_ask_again(20, 3, 0)
    assert not may_ask_again(20, 4, 0)
    assert may_ask_again(160, 15, 0)
    assert not may_ask_again(160, 16, 0)


def test_in_the_opening_as_many_as_callers_have_may_be_asked_again_and_none_where_somebody_waits() -> None:
    assert may_ask_again(160, 159, 0, share=1.0)
    assert not may_ask_again(160, 160, 0, share=1.0)
    assert not may_ask_again(160, 0, 1, share=1.0)
    assert not may_ask_again(MOST_UNDER_WAY, 0, 0, share=1.0)


def test_a_share_that_a_person_has_set_bounds_a_shadow() -> None:
    assert may_ask_again(160, 79, 0, share=0.5)
    assert not may_ask_again(160, 80, 0, share=0.5)
    assert may_ask_again(160, 15, 0, share=0.01)


def test_a_fifth_of_a_shadows_share_is_asked_of_the_live_release() -> None:
    draws = [(n + 0.5) / 10_000 for n in range(10_000)]
    asked = [shadowed(100, draw) for draw in draws]
    assert (asked.count(Arm.LIVE), asked.count(Arm.CANDIDATE)) == (1000 * TWICE, 1000 * (1 - TWICE))
    assert {shadowed(0, draw) for draw in draws} == {None}
    assert None not in {shadowed(1000, draw) for draw in draws}


def test_the_first_bad_answers_of_a_release_are_kept_and_then_one_a_minute() -> None:
    assert keeps_sample(0, math.inf)
    assert (keeps_sample(SAMPLES - 1, 1.0), keeps_sample(SAMPLES - 1, 0.9)) == (True, False)
    assert (keeps_sample(SAMPLES, 59.9), keeps_sample(SAMPLES, 60.0)) == (False, True)


@pytest.mark.parametrize(
    ("at_ms", "hours", "stays"),
    [
        (NOW_MS, 1, True),
        (NOW_MS, 0, False),
        (NOW_MS - HOUR_MS + 1, 1, True),
        (NOW_MS - HOUR_MS, 1, False),
        (NOW_MS - HOUR_MS, 2, True),
        (NOW_MS + 60_000, 1, True),
        (NOW_MS + 60_001, 1, False),
        (-1, LONGEST_SAMPLE_HOURS, False),
    ],
)
def test_a_sample_stays_for_its_hours_and_none_from_a_time_to_come(at_ms: int, hours: int, stays: bool) -> None:
    assert sample_stays(at_ms, Consent(hours), NOW_MS) is stays
    assert not sample_stays(at_ms, Consent(hours, from_ms=NOW_MS + 60_002), NOW_MS)


def test_a_sample_from_before_an_erasure_does_not_stay_and_one_of_that_moment_does() -> None:
    assert not sample_stays(NOW_MS - 1, Consent(1, from_ms=NOW_MS), NOW_MS)
    assert sample_stays(NOW_MS, Consent(1, from_ms=NOW_MS), NOW_MS)


def test_models_take_a_twentieth_of_a_core_whatever_each_costs_and_however_late_that_is_known() -> None:
    for cost, rate in ((0.2, 40), (0.002, 40), (1.5, 2)):
        time, spent, under_way = ModelTime(0.0), 0.0, list[float]()
        for tick in range(rate * 600):
            now = tick / rate
            while under_way and under_way[0] <= now - 4:  # an answer takes four seconds
                under_way.pop(0)
                time.over()
                time.charge(cost, of_plugin=True)
                spent += cost
            if time.take(now):
                under_way.append(now)
        assert 0.9 * min(600 * MODELS_SHARE, 600 * rate * cost) <= spent <= 600 * MODELS_SHARE + 3 + cost, cost


def test_texts_that_a_judge_is_shown_do_not_make_plugins_look_cheap() -> None:
    time = ModelTime(0.0)
    for _ in range(50):
        time.charge(0.0002, of_plugin=False)
    assert sum(time.take(0.0) for _ in range(200)) == 30
    time.charge(3.0, of_plugin=False)
    assert not time.has_room(0.0)  # they take of the same processor time still


def test_what_was_let_in_and_not_done_costs_nothing_and_a_debt_is_paid_back_before_the_next() -> None:
    time = ModelTime(0.0)
    let_in = list(iter(partial(time.take, 0.0), False))
    assert len(let_in) == 30
    for _ in let_in:
        time.over()
    assert time.take(0.5)
    time.over()
    time.charge(4.0, of_plugin=True)
    assert not time.has_room(20.0)
    assert time.has_room(21.0)
