"""When requests come, and who asks."""

from itertools import pairwise

import numpy as np
import pytest
from tests.detection.traffic import arrivals, callers
from tests.detection.traffic.generator import requests
from tests.detection.traffic.route import DAY, HOUR, WEEK, Route
from tests.detection.traffic.streams import Stream, autocorrelation, autoregression, stream


@pytest.mark.parametrize("rate", [1.0, 0.05])
def test_a_week_has_the_mean_rate(rate: float) -> None:
    weeks = [requests(Route(rate=rate, tenant=tenant, errors=0, incidents_a_month=0), 0, WEEK) for tenant in range(2)]
    rates = [len(week) / WEEK for week in weeks]
    # Bursts of load have a standard deviation of 0.28 * sqrt(2 h / week) = 3 % over a week, and gaps add little.
    assert np.mean(rates) == pytest.approx(rate, rel=4 * 0.035 / np.sqrt(2))


def test_an_hour_at_forty_a_second_has_what_its_load_says() -> None:
    route = Route(rate=40, errors=0, incidents_a_month=0)
    count = len(requests(route, 10 * HOUR, 11 * HOUR))
    expected = 40 * 60 * arrivals.loads(route, 0)[600:660].sum()
    assert abs(count - expected) < 4 * route.burst * np.sqrt(expected)


def test_evenings_are_busier_than_nights_and_workdays_than_weekends() -> None:
    route = Route(rate=1, sigma_load=0)
    monday, sunday = arrivals.loads(route, 0), arrivals.loads(route, 6)
    assert monday[20 * 60 + 30] / monday[5 * 60 + 30] == pytest.approx(1.46 / 0.65, rel=0.01)
    assert sunday.mean() / monday.mean() == pytest.approx(0.62)
    assert np.mean([arrivals.loads(route, day).mean() for day in range(7)]) == pytest.approx(1)


def test_gaps_vary_as_much_as_the_route_says() -> None:
    for burst in (1.0, 2.0, 6.0):
        route = Route(rate=40, burst=burst, has_rhythm=False, sigma_load=0)
        gaps = np.diff(arrivals.arrivals(route, 0.0, stream(0, 0, Stream.ARRIVALS, 0)))
        assert gaps.std() / gaps.mean() == pytest.approx(burst, rel=0.05)


def test_slices_of_bursty_traffic_have_no_more_than_their_mean() -> None:
    route = Route(rate=0.02, burst=6, has_rhythm=False, sigma_load=0)
    counts = [len(arrivals.arrivals(route, 0.0, stream(0, 0, Stream.ARRIVALS, i))) for i in range(1500)]
    deviation = np.std(counts) / np.sqrt(len(counts))
    assert abs(np.mean(counts) - 0.02 * DAY) < 4 * deviation


def test_noise_forgets_by_its_time_constant() -> None:
    constants = np.array([15.0, 120.0])
    noise = np.concatenate([autoregression(0, 0, Stream.DRIFT, day, constants) for day in range(200)])
    assert noise.std(axis=0) == pytest.approx([1, 1], rel=0.05)
    for column, constant in enumerate(constants):
        for lag in (15, 120):
            correlation = np.corrcoef(noise[lag:, column], noise[:-lag, column])[0, 1]
            assert correlation == pytest.approx(autocorrelation(lag, constant), abs=0.04)


def test_noise_goes_on_over_midnight() -> None:
    days = [autoregression(0, 0, Stream.DRIFT, day, np.array([120.0])) for day in range(60)]
    steps = np.array([after[0, 0] - before[-1, 0] for before, after in pairwise(days)])
    assert steps.std() < 2 * np.sqrt(2 * (1 - autocorrelation(1, 120)))


def test_a_time_constant_that_a_day_does_not_forget_is_refused() -> None:
    with pytest.raises(ValueError, match="between"):
        autoregression(0, 0, Stream.DRIFT, 0, np.array([1000.0]))


@pytest.mark.parametrize("count", [20, 200, 5000])
def test_the_largest_caller_has_its_share_and_nobody_more(count: int) -> None:
    route = Route(rate=20, callers=count, largest=0.6)
    seen = np.bincount(requests(route, 0, 2 * HOUR).caller, minlength=count)
    shares = seen / seen.sum()
    assert shares[0] == pytest.approx(0.6, abs=4 * np.sqrt(0.24 * route.run * 3 / seen.sum()))
    assert callers.weights(route).sum() == pytest.approx(1)
    assert shares.argmax() == 0


def test_a_small_share_of_the_largest_is_nobodys_excess() -> None:
    shares = callers.weights(Route(rate=1, callers=20, largest=0.08))
    assert shares.max() == pytest.approx(0.08)
    assert shares.sum() == pytest.approx(1)
    assert np.all(np.diff(shares) <= 1e-12)


def test_callers_follow_zipfs_law() -> None:
    seen = np.bincount(requests(Route(rate=40, callers=200), 0, 2 * HOUR).caller, minlength=200)
    ranks = np.arange(1, 51)
    slope = np.polyfit(np.log(ranks), np.log(seen[:50]), 1)[0]
    assert slope == pytest.approx(-1.2, abs=0.05)


def test_callers_come_in_runs_of_their_length() -> None:
    route = Route(rate=20, callers=5000, zipf=0.0, run=4.0, errors=0, incidents_a_month=0)
    caller = requests(route, 0, 2 * HOUR).caller
    assert 1 / np.mean(np.diff(caller) != 0) == pytest.approx(4, rel=0.05)


def test_one_key_hides_its_callers() -> None:
    part = requests(Route(rate=5, is_one_key=True), 0, HOUR)
    assert set(part.caller) == {0}
    with pytest.raises(ValueError, match="at least an equal share"):
        Route(rate=5, callers=10, largest=0.05)
