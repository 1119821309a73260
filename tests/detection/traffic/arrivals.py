"""When requests come: a stationary Gamma renewal process in a time that runs as fast as the load."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from .route import DAY, Route
from .streams import MINUTES_A_DAY, Stream, autoregression

HOURS = (
    *(0.84, 0.71, 0.72, 0.68, 0.70, 0.65, 0.69, 0.85, 1.01, 1.06, 1.12, 1.09),
    *(1.06, 1.06, 1.06, 1.04, 1.09, 1.07, 1.02, 1.23, 1.46, 1.43, 1.29, 1.08),
)
"""Requests of each hour of a day beside the day's mean: mean of 14 days of ServeGen's model m-small, midnight first."""

DAYS = (1.0, 1.0, 1.0, 1.0, 1.0, 0.62, 0.62)
"""Load of Monday to Sunday beside each other. That the slow days are the weekend is assumed; m-large's have 0.62."""

LOAD_MINUTES = 60.0
"""Time constant of the load's slow bursts."""


@lru_cache(maxsize=16)
def loads(route: Route, day: int) -> NDArray[np.float64]:
    """Load of each minute of a day, as a multiple of the route's mean rate. Day 0 is a Monday."""
    minutes = np.arange(MINUTES_A_DAY)
    rhythm = np.ones(MINUTES_A_DAY)
    if route.has_rhythm:
        hours = np.interp(minutes / 60 - 0.5, np.arange(-1, 25), (HOURS[-1], *HOURS, HOURS[0]))
        rhythm = hours / hours.mean() * DAYS[day % 7] / np.mean(DAYS)
    noise = autoregression(route.seed, route.tenant, Stream.LOAD, day, np.array([LOAD_MINUTES]))[:, 0]
    bursts = np.exp(route.sigma_load * noise - route.sigma_load**2 / 2)
    return rhythm * bursts


def arrivals(route: Route, begin: float, generator: Generator) -> NDArray[np.float64]:
    """Seconds in which first tries come within the slice that starts at `begin`, in order.

    The gaps are Gamma distributed with the coefficient of variation `route.burst`, in units of expected requests. The
    first one is drawn from the time that is left of a gap which has begun before, so that no slice has more than its
    mean.
    """
    day, minute = divmod(round(begin / 60), MINUTES_A_DAY)
    load = loads(route, day)[minute : minute + round(route.slice_s / 60)]
    expected = np.concatenate([[0.0], np.cumsum(load * route.rate * 60)])
    shape = 1 / route.burst**2
    position = generator.random() * generator.gamma(shape + 1) / shape
    positions = []
    while position < expected[-1]:
        size = int(1.1 * (expected[-1] - position)) + 64
        steps = position + np.concatenate([[0.0], np.cumsum(generator.gamma(shape, 1 / shape, size))])
        positions.append(steps[:-1])
        position = steps[-1]
    units = np.concatenate(positions) if positions else np.empty(0)
    units = units[units < expected[-1]]
    return begin + np.interp(units, expected, np.arange(len(expected)) * 60.0)


def load_at(route: Route, times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Load in the minutes of these seconds, as a multiple of the mean rate."""
    return per_minute(times, lambda day: loads(route, day))


def per_minute(times: NDArray[np.float64], values: Callable[[int], NDArray[np.float64]]) -> NDArray[np.float64]:
    """The values of the minutes in which `times` lie. `values` gives those of a day by its number."""
    days = np.floor_divide(times, DAY).astype(np.int64)
    answer = np.empty(len(times))
    for day in np.unique(days):
        is_of_day = days == day
        minutes = ((times[is_of_day] - day * DAY) // 60).astype(np.int64)
        answer[is_of_day] = values(int(day))[np.minimum(minutes, MINUTES_A_DAY - 1)]
    return answer
