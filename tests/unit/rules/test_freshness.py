"""Freshness meters and what follows from them."""

from __future__ import annotations

import random
from math import comb

import pytest
from scipy import stats

from loradeck.rules.quality.freshness import (
    ALPHA,
    RECENT_DAYS,
    REFERENCE_DAYS,
    Day,
    Histogram,
    against_the_first,
    compared,
    distance,
    figure,
    items_to_see,
    largest_rise,
    of_share,
    rank_sum,
    recommend,
)
from loradeck.rules.quality.reference_days import Window
from loradeck.rules.quality.statistics import paired_items
from loradeck.schemas.freshness import Figure, Meter, MeterKind, Remedy, Sizing

FIRST = [0.02, 0.021, 0.019, 0.022, 0.018, 0.02, 0.021, 0.019, 0.0205, 0.0195, 0.02, 0.021, 0.019, 0.02]


def days(values: list[float], n: int = 400) -> list[Day]:
    return [Day(at, value, n) for at, value in enumerate(values)]


def meter(of: list[Day], what: str, live: range | None = None) -> Meter:
    return compared(MeterKind.BAD, of, what, live=live or range(of[-1].day + 1))


def test_the_rank_sum_is_scipys_exact_one() -> None:
    draw = random.Random(5)
    for _ in range(20):
        first, last = ([draw.gauss(mean, 1) for _ in range(n)] for mean, n in ((0, REFERENCE_DAYS), (1, RECENT_DAYS)))
        exact = stats.mannwhitneyu(last, first, alternative="greater", method="exact").pvalue
        assert rank_sum(first, last) == pytest.approx(exact, rel=1e-12)
    assert rank_sum([0.0] * 14, [1.0] * 7) == pytest.approx(1 / comb(21, 7))
    assert rank_sum([1.0] * 14, [1.0] * 7) == 1.0


@pytest.mark.parametrize("n", [3, 7, 14, 40])
def test_the_interval_of_a_mean_is_students(n: int) -> None:
    draw = random.Random(n)
    values = [draw.gauss(3, 2) for _ in range(n)]
    found = figure(values)
    low, high = stats.t.interval(0.95, n - 1, loc=sum(values) / n, scale=stats.sem(values))
    assert found is not None
    assert (found.low, found.high) == (pytest.approx(low, rel=0.03, abs=0.02), pytest.approx(high, rel=0.03, abs=0.02))
    assert figure(values[:2]) is None


def test_seven_days_that_are_all_higher_are_a_signal_and_six_are_none() -> None:
    assert not meter(days(FIRST + [0.05] * 6), "").signal
    found = meter(days(FIRST + [0.05] * 7), "bad")
    assert found.signal
    assert found.p is not None
    assert found.p <= ALPHA
    assert found.before is not None
    assert (found.before.n, found.before.of) == (14, 5600)
    latest, first = "5.0% (5.0% to 5.0%, n = 7)", "2.0% (1.9% to 2.1%, n = 14)"
    assert found.says == f"bad: {latest} in the latest days, {first} in the first, from 1970-01-01 on"


def test_one_day_however_bad_is_no_signal() -> None:
    assert not meter(days(FIRST + [0.02] * 6 + [0.9]), "").signal


def test_a_change_under_a_point_is_no_signal() -> None:
    found = meter(days(FIRST + [0.028] * 7), "")
    assert found.p is not None
    assert found.p <= ALPHA
    assert not found.signal


def test_days_with_too_few_requests_are_passed_over_and_said() -> None:
    quiet = [Day(99, 0.9, 3)] * 7
    assert "0 of 7 later days" in meter(days(FIRST) + quiet, "bad").says
    assert "3 of 14 first days have 50 and more" in meter(days(FIRST[:3]), "bad").says


def test_a_release_whose_first_days_are_kept_no_more_has_nothing_to_compare_with() -> None:
    found = meter(days(FIRST + [0.05] * 7), "bad", range(-REFERENCE_DAYS, 21))
    assert (found.signal, found.before, found.says) == (False, None, "bad: no first days left")
    assert meter(days(FIRST + [0.05] * 7), "bad", range(1 - REFERENCE_DAYS, 21)).signal


def test_what_was_long_ago_is_no_signal_any_more() -> None:
    assert meter(days(FIRST + [0.05] * 7), "bad", range(28)).signal
    found = meter(days(FIRST + [0.05] * 7), "bad", range(29))
    assert not found.signal
    assert "6 of 7 later days" in found.says


def test_days_alike_are_at_no_distance_on_average_however_few_requests_they_have() -> None:
    draw, found = random.Random(1), list[float]()
    for _ in range(200):
        many, few = ([sum(draw.random() < 0.3 for _ in range(n)) for _ in range(8)] for n in (500, 50))
        found.append(distance(few, 50, many, 500))
    assert abs(sum(found) / 200) < 0.003
    assert distance([500] * 8, 500, [0] * 8, 500) == pytest.approx(8.0)


def test_a_day_of_the_reference_is_held_against_the_others_of_it() -> None:
    alike = [Histogram(day, [40, 10, 50], 100) for day in range(REFERENCE_DAYS)]
    odd = Histogram(99, [10, 80, 10], 100)
    found = against_the_first([*alike, odd], distance)
    assert max(day.value for day in found[:-1]) < 0 < found[-1].value
    assert against_the_first(alike[:1], distance) == []


def test_a_word_that_is_new_raises_one_bucket() -> None:
    assert largest_rise([0, 30, 50], 100, [0, 20, 500], 1000) > 5
    assert largest_rise([0, 2, 50], 100, [0, 20, 500], 1000) == 0.0


def seen(*kinds: MeterKind) -> list[Meter]:
    return [Meter(kind=kind, signal=True, says=kind.value) for kind in kinds]


def sized(gain: float | None = None, prompt: float | None = None, of: int = 4) -> Sizing:
    figures = [
        None if mean is None else Figure(mean=mean, low=mean - 0.01, high=mean + 0.01, n=of) for mean in (gain, prompt)
    ]
    return Sizing(items=248, gain=figures[0], prompt=figures[1])


@pytest.mark.parametrize(
    ("kinds", "sizing", "remedy"),
    [
        ((), None, Remedy.NOTHING),
        ((MeterKind.INPUTS, MeterKind.CLASSES), sized(0.05), Remedy.NOTHING),
        ((MeterKind.BAD, MeterKind.INPUTS), sized(0.05), Remedy.TRAIN),
        ((MeterKind.BAD,), sized(0.005), Remedy.PROMPT),
        ((MeterKind.CORRECTED,), sized(), Remedy.PROMPT),
        ((MeterKind.BAD,), sized(0.05, of=2), Remedy.PROMPT),
        ((MeterKind.BAD,), sized(0.05, of=1), Remedy.TRAIN),
        ((MeterKind.REFUSED,), sized(0.05, 0.08), Remedy.NOTHING),
        ((MeterKind.REFUSED, MeterKind.EXPECTED), sized(), Remedy.RETRIEVAL),
        ((MeterKind.CORRECTED,), sized(0.05, 0.08), Remedy.PROMPT),
        ((MeterKind.CORRECTED, MeterKind.TERMS), sized(0.05), Remedy.RETRIEVAL),
        ((MeterKind.EXPECTED,), sized(), Remedy.RETRIEVAL),
        ((MeterKind.RETENTION,), sized(), Remedy.TRAIN),
        ((MeterKind.BASE, MeterKind.BAD), sized(0.05, 0.08), Remedy.TRAIN),
    ],
)
def test_what_is_recommended_follows_from_what_was_measured(
    kinds: tuple[MeterKind, ...], sizing: Sizing | None, remedy: Remedy
) -> None:
    said = recommend(seen(*kinds), sizing)
    assert said.remedy is remedy
    assert said.reasons


def test_a_route_that_refuses_is_told_that_it_lacks_capacity() -> None:
    assert "capacity" in recommend(seen(MeterKind.REFUSED), sized(0.05)).reasons[0]
    assert "capacity" not in recommend(seen(MeterKind.INPUTS), sized(0.05)).reasons[0]


def test_the_items_are_those_that_show_what_past_refreshes_gained() -> None:
    assert items_to_see(None) == paired_items(0.05)
    assert items_to_see(sized(0.1).gain) == paired_items(0.1)


def share(
    counted: list[Day], *windows: Window, replayed: list[Day] | None = None, kind: MeterKind = MeterKind.CORRECTED
) -> Meter:
    return of_share(kind, counted, "who correct", windows=windows, replayed=replayed or [], least=5)


def test_days_that_were_replayed_count_before_those_that_were_counted_and_are_called_so() -> None:
    replayed = [Day(day, 0.1 + day % 3 / 100, 60) for day in range(14)]
    counted, here = [Day(day, 0.4, 60) for day in range(14, 21)], Window((range(14, 21),))
    meter = share(counted, here, replayed=replayed)
    assert meter.signal
    latest, first = "40.0% (40.0% to 40.0%, n = 7) in the latest days", "10.9% (10.5% to 11.4%, n = 14) in the first"
    assert meter.says == f"who correct: {latest}, {first}, from 1970-01-01 on; 14 days are replayed"
    older = share(counted, here, replayed=[Day(day, 0.1, 60) for day in range(-90, 0)])
    assert older.says.endswith("in the first, from 1969-10-03 on; 14 days are replayed"), "not those between"
    assert "replayed" not in share(counted, here).says


def test_a_day_that_was_counted_on_the_route_is_not_replaced_by_a_replayed_one() -> None:
    replayed = [Day(day, 0.9, 60) for day in range(28)]
    counted = [Day(day, 0.1 + day % 3 / 100, 60) for day in range(14)] + [Day(day, 0.4, 60) for day in range(28, 35)]
    route, own = Window((range(35),)), Window((range(28, 35),))
    assert share(counted, route, replayed=replayed).says.endswith("in the first, from 1970-01-01 on")
    before = share(counted, own, replayed=replayed).before
    assert before is not None
    assert before.mean == pytest.approx(0.9), "of the release itself, elsewhere"


def test_answers_are_held_against_the_routes_first_days_and_the_releases_own() -> None:
    route, own = Window((range(80),)), Window((range(40, 80),))
    better = [Day(day, 0.10 + day % 3 / 100, 400) for day in range(40)]
    better += [Day(day, 0.02 + day % 3 / 100 + (0.05 if day >= 70 else 0), 400) for day in range(40, 80)]
    assert not share(better, route).signal
    found = share(better, route, own)
    assert found.signal
    assert "in the first, from 1970-02-10 on" in found.says
    slow = [Day(day, 0.05 + day / 2000 + day % 3 / 100, 400) for day in range(80)]
    assert [share(slow, *windows).signal for windows in ([own], [route], [route, own])] == [False, True, True]


def test_two_references_share_the_level_of_a_look() -> None:
    close = days([0.02] * 11 + [0.03] * 3 + [0.025] + [0.06] * 6)  # three of 98 pairs of days are against it
    route = Window((range(21),))
    found = share(close, route, route)
    assert found.p is not None
    assert ALPHA / 2 < found.p < ALPHA
    assert found.signal, "one reference, however often it is named"
    assert not share(close, route, Window((range(10, 21),))).signal
