"""Detection of releases that have turned bad: how soon, and what must not look like it."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loradeck.rules.quality.detection import (
    ALERT_ONLY_PART,
    FALSE_FLAGS_A_WEEK,
    HORIZON_S,
    KEPT_S,
    ROLLBACK_LEVEL,
    SPARE,
    Detector,
    alert_level,
    flag_level,
    flag_limit,
    late,
    rollback_limit,
    usual_share,
)
from loradeck.schemas.route import LARGEST_SHARE

FLEET = flag_level(10_000)


@pytest.mark.parametrize("figures", [1, 3, 10])
def test_what_only_alerts_has_a_tenth_of_the_fleets_false_flags_however_many_figures_a_route_has(figures: int) -> None:
    looks = 10_000 * 7 * 86_400
    breaches, alerts = 3 * looks * math.exp(-FLEET), figures * looks * math.exp(-alert_level(10_000, figures))
    assert (breaches, alerts) == (pytest.approx(0.9), pytest.approx(ALERT_ONLY_PART))
    assert breaches + alerts == pytest.approx(FALSE_FLAGS_A_WEEK)


def test_an_answer_in_the_bucket_of_the_promise_counts_as_in_time() -> None:
    assert late((1, 2, 3, 4), (10, 20, 50), 20) == (10, 7)
    assert late((1, 2, 3, 4), (10, 20, 50), 21) == (10, 4)
    assert late((1, 2, 3, 4), (10, 20, 50), 51) == (10, 0)


def live() -> Detector:
    return Detector(flag_limit(0.02), restarting=True)


def since_a_move() -> Detector:
    return Detector(rollback_limit(0.02), restarting=False)


def seconds_to(detector: Detector, level: float, *, share: float, seed: int, start: int = 0) -> int:
    """Seconds until the evidence reaches a level at forty requests a second, whose outcomes are known at once."""
    draw = random.Random(seed)
    for second in range(start + 1, start + 3600):
        detector.add(second, 40, sum(draw.random() < share for _ in range(40)))
        if detector.evidence(second) >= level:
            return second - start
    raise AssertionError("never")


@pytest.mark.parametrize("seed", range(5))
def test_thirty_per_cent_bad_at_forty_requests_a_second_is_flagged_within_five_seconds(seed: int) -> None:
    assert seconds_to(live(), FLEET, share=0.3, seed=seed) <= 5


@pytest.mark.parametrize("seed", range(5))
def test_a_long_good_past_does_not_hide_what_is_bad_now(seed: int) -> None:
    detector, draw = live(), random.Random(seed)
    for second in range(2500):
        detector.add(second, 40, sum(draw.random() < 0.01 for _ in range(40)))
        assert detector.evidence(second) < FLEET
    assert seconds_to(detector, FLEET, share=0.3, seed=seed, start=2500) <= 5


@pytest.mark.parametrize("seed", range(5))
def test_a_bad_release_is_rolled_back_within_six_seconds_of_its_flip(seed: int) -> None:
    assert seconds_to(since_a_move(), ROLLBACK_LEVEL, share=0.3, seed=seed) <= 6


def _evidence_after_a_flip(booked: Callable[[int, int], int]) -> float:
    """The most evidence in a minute after a flip. Of 200 requests a second 3 % fail at once, and the others take 4 s.

    `booked(admitted, ended)`: the second that a request is counted in.
    """
    detector, draw, ends, most = since_a_move(), random.Random(1), dict[int, list[tuple[int, bool]]](), 0.0
    for second in range(60):
        for _ in range(200):
            bad = draw.random() < 0.03
            ends.setdefault(second + 4 * (not bad), []).append((second, bad))
        for admitted, bad in ends.pop(second, []):
            detector.add(booked(admitted, second), 1, bad)
        most = max(most, detector.evidence(second))
    return most


def test_answers_that_fail_sooner_than_others_take_look_like_a_bad_release_only_in_the_order_of_their_ends() -> None:
    assert _evidence_after_a_flip(lambda admitted, ended: ended) > ROLLBACK_LEVEL
    detector, draw = since_a_move(), random.Random(1)
    for second in range(60):  # as routers report: requests count when they are admitted, and as good until they end
        detector.add(second, 200, sum(draw.random() < 0.03 for _ in range(200)))
        assert detector.evidence(second) < 2


def test_a_good_release_just_at_its_limit_is_not_flagged_in_hours() -> None:
    detector, draw = live(), random.Random(7)
    for second in range(10_000):
        detector.add(second, 5, sum(draw.random() < detector.limit for _ in range(5)))
        assert detector.evidence(second) < FLEET


def test_an_outcome_counts_in_the_second_of_its_admission_whatever_is_still_to_come() -> None:
    detector = live()
    detector.add(0, 50, 0)
    detector.add(1, 10_000, 0)
    assert detector.evidence(2) < 0
    detector.add(0, 0, 50)
    assert detector.evidence(30) > FLEET


def test_a_second_that_is_over_stays_as_it_was() -> None:
    detector = live()
    detector.add(0, 50, 50)
    assert detector.evidence(1) == pytest.approx(detector.evidence(2 * HORIZON_S))


def test_a_share_of_none_or_of_all_is_no_limit() -> None:
    for limit in (0.0, 1.0):
        with pytest.raises(ValueError, match="between 0 and 1"):
            Detector(limit, restarting=True)


_SECONDS = st.lists(st.tuples(st.integers(0, 20), st.floats(0, 1), st.integers(0, 8)), min_size=1, max_size=30)


@given(_SECONDS, st.booleans())
def test_what_is_pending_never_makes_the_evidence_larger_than_it_would_be_with_all_known(
    seconds: list[tuple[int, float, int]], restarting: bool
) -> None:
    known, seen = Detector(0.05, restarting=restarting), Detector(0.05, restarting=restarting)
    due = dict[int, list[tuple[int, int]]]()
    most = 0.0
    for now, (units, share, delay) in enumerate(seconds):
        bad = round(units * share)
        known.add(now, units, bad)
        seen.add(now, units, 0)
        due.setdefault(now + delay, []).append((now, bad))
        for second, came_late in due.pop(now, []):
            seen.add(second, 0, came_late)
        most = max(most, known.evidence(now))
        assert seen.evidence(now) <= most + 1e-9 or seen.evidence(now) < 1


def test_what_is_usual_is_the_ninety_fifth_percentile_of_the_hours_that_had_traffic() -> None:
    hours = [(1, 100)] * 90 + [(5, 100)] * 10
    assert usual_share(hours) == 0.05
    assert usual_share([(1, 100)] * 96 + [(90, 100)] * 4) == 0.01
    assert usual_share([(0, 10)] * 300) is None, "too little traffic in each"
    assert usual_share([(1, 100)] * 23) is None, "less than a day"
    assert usual_share([(1, 3000)] * 30) == 0.001, "rounded up"
    assert usual_share([(99, 100)] * 30) == LARGEST_SHARE


def test_limits_lie_well_above_what_is_usual() -> None:
    assert [flag_limit(share) for share in (0.0, 0.01, 0.05)] == [0.01, 0.02, 0.1]
    assert [rollback_limit(share) for share in (0.0, 0.01, 0.05)] == [0.05, 0.05, pytest.approx(0.09)]


@pytest.mark.parametrize("restarting", [False, True])
def test_a_detector_that_nobody_asks_keeps_little_more_than_a_minute_and_knows_what_one_does_that_is_asked(
    restarting: bool,
) -> None:
    asked, unasked = Detector(0.02, restarting=restarting), Detector(0.02, restarting=restarting)
    for second in range(5000):
        for one in (asked, unasked):
            one.add(second, 20, second % 2)
            one.add(second - 30, 0, second % 3 == 0)  # an outcome that comes later
        asked.evidence(second)
    assert len(unasked._seconds) <= KEPT_S + 2
    assert unasked.evidence(5000) == pytest.approx(asked.evidence(5000))


@pytest.mark.parametrize("share", [0.005, 0.01])
@pytest.mark.parametrize("rate", [1, 10, 40])
def test_after_an_outage_of_ten_minutes_its_evidence_is_gone_sooner_than_it_took(share: float, rate: int) -> None:
    detector, draw = Detector(flag_limit(0.02), restarting=True, ceiling=FLEET + SPARE), random.Random(1)
    for second in range(600):
        detector.add(second, rate, rate)
    assert detector.evidence(600) >= FLEET
    over = 600
    while detector.evidence(over) >= FLEET:
        over += 1
        detector.add(over, rate, sum(draw.random() < share for _ in range(rate)))
    assert (over - 600) * rate <= max(600 * rate, 1500), f"{over - 600} s"


def test_a_ceiling_takes_nothing_from_evidence_below_it() -> None:
    capped, draw = Detector(flag_limit(0.02), restarting=True, ceiling=FLEET + SPARE), random.Random(2)
    free = live()
    for second in range(400):
        bad = sum(draw.random() < 0.025 for _ in range(20))
        capped.add(second, 20, bad)
        free.add(second, 20, bad)
        assert capped.evidence(second) == free.evidence(second)


@pytest.mark.parametrize("changed", [70, 500, 5000])
def test_the_change_point_is_when_a_release_has_turned_bad_and_not_when_it_went_live(changed: int) -> None:
    draw, detector = random.Random(changed), live()
    for second in range(changed):
        detector.add(second, 40, sum(draw.random() < 0.01 for _ in range(40)))
    for second in range(changed, changed + 300):
        detector.add(second, 40, sum(draw.random() < 0.3 for _ in range(40)))
        if detector.reaches(FLEET, second):
            point = detector.change_point(second)
            assert point is not None
            assert abs(point - changed) <= 3


def test_a_release_that_nothing_speaks_against_has_no_change_point() -> None:
    detector = live()
    assert detector.change_point(0) is None
    for second in range(200):
        detector.add(second, 40, 0)
    assert detector.change_point(200) is None
