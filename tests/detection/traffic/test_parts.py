"""The same seed has the same traffic, and a part of it is the same as in the whole."""

from dataclasses import fields, replace

import numpy as np
import pytest
from tests.detection.traffic.generator import Requests, parts, requests
from tests.detection.traffic.route import DAY, HOUR, Change, Effect, Route, Why

SLOW = Route(rate=0.05, sigma_quarter=0.5, sigma_hours=0.5, sigma_own=0.5, errors=0.1, nodes=3)
FAST = replace(SLOW, rate=5.0, changes=(Change(at=3 * HOUR, effect=Effect.HUNG, cause=Why.NODE),))


def assert_equal(first: Requests, second: Requests) -> None:
    for field in fields(Requests):
        np.testing.assert_array_equal(getattr(first, field.name), getattr(second, field.name), err_msg=field.name)


@pytest.mark.parametrize("route", [SLOW, FAST])
def test_a_part_equals_the_same_part_of_the_whole(route: Route) -> None:
    whole = requests(route, 0, 6 * route.slice_s)
    for begin, end in ((1.0, 2.0), (1.995, 2.01), (2.5, 4.25), (0.0, 0.001)):
        low, high = begin * route.slice_s, end * route.slice_s
        assert_equal(requests(route, low, high), whole[(whole.time >= low) & (whole.time < high)])


def test_parts_together_are_the_whole_with_retries_over_their_edges() -> None:
    whole = requests(FAST, 0.3 * HOUR, 4.7 * HOUR)
    several = list(parts(FAST, 0.3 * HOUR, 4.7 * HOUR))
    assert len(several) == 5
    assert sum(map(len, several)) == len(whole)
    joined = {field.name: np.concatenate([getattr(part, field.name) for part in several]) for field in fields(Requests)}
    assert_equal(Requests(**joined), whole)
    assert any(np.any(part.attempt[part.time < part.time[0] + 1] > 0) for part in several[1:])


def test_the_same_seed_has_the_same_traffic_and_another_has_not() -> None:
    first = requests(SLOW, 0, DAY)
    assert_equal(first, requests(replace(SLOW), 0, DAY))
    for other in (replace(SLOW, seed=1), replace(SLOW, tenant=1)):
        assert not np.array_equal(requests(other, 0, DAY).time, first.time)


@pytest.mark.parametrize("effect", list(Effect))
def test_a_change_changes_nothing_before_it(effect: Effect) -> None:
    plain = replace(FAST, changes=())
    at = 2.5 * HOUR
    usual = requests(plain, 0, at)
    changed = requests(replace(plain, changes=(Change(at=at, effect=effect),)), 0, at)
    ended = usual.time + usual.duration <= at
    assert_equal(changed[ended], usual[ended])
    if effect is not Effect.HUNG:
        assert_equal(changed, usual)


def test_requests_are_in_order_and_nobody_writes_into_them() -> None:
    part = requests(FAST, HOUR, 2 * HOUR)
    assert np.all(np.diff(part.time) >= 0)
    with pytest.raises(ValueError, match="read-only"):
        part.bad[0] = True
    with pytest.raises(ValueError, match="begins at 0"):
        requests(FAST, -1, 5)


def test_a_very_slow_route_has_days_without_requests() -> None:
    counts = [len(requests(Route(rate=2e-6), day * DAY, (day + 1) * DAY)) for day in range(40)]
    assert 0 in counts
    assert 0 < sum(counts) < 30
