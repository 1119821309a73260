"""How answers turn out where nothing has changed: a wandering share of bad ones, broken integrations, incidents."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.polynomial.hermite_e import hermegauss
from numpy.typing import NDArray

from . import callers
from .arrivals import per_minute
from .route import DAY, HOUR, Route
from .streams import MINUTES_A_DAY, Stream, autoregression, stream

QUARTER_MINUTES, HOURS_MINUTES = 15.0, 120.0
"""Time constants of the wandering share."""

WANDERING_CALLERS = 20
"""The largest callers have a drift of their own (`Route.sigma_own`); the others have the route's alone."""

INTEGRATION_S = HOUR
INTEGRATION_SHARE = 0.9
INCIDENT_MEDIAN_S, INCIDENT_SIGMA, INCIDENT_LIMIT_S = 90.0, 1.0, 1800.0
INCIDENT_SHARE = 0.8
MONTH_DAYS = 30.0
NODES = 21
"""Points at which the wandering log-odds are averaged."""


@dataclass(frozen=True)
class Event:
    """A part of time in which one caller's, or one node's, answers are bad or fail. Seconds of the route's time."""

    begin: float
    end: float
    target: int


def logistic(odds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probability of these log-odds."""
    return 1 / (1 + np.exp(-odds))


def spread(route: Route) -> NDArray[np.float64]:
    """Standard deviation of each caller's log-odds over time."""
    common = route.sigma_quarter**2 + route.sigma_hours**2
    own = np.where(np.arange(route.callers) < WANDERING_CALLERS, route.sigma_own**2, 0.0)
    return np.sqrt(common + own)


@lru_cache(maxsize=16)
def means(route: Route) -> NDArray[np.float64]:
    """Each caller's share of bad answers, averaged over all time. Weighted by requests they make the route's."""
    return _averages(route, base(route))


def _averages(route: Route, odds: float) -> NDArray[np.float64]:
    """Mean shares of bad answers of the callers if the log-odds without offset are `odds`."""
    points, mass = hermegauss(NODES)
    log_odds = odds + callers.offsets(route)[:, None] + spread(route)[:, None] * points
    return logistic(log_odds) @ (mass / mass.sum())


@lru_cache(maxsize=16)
def base(route: Route) -> float:
    """Log-odds with which callers and drift make the route's share on the average."""
    low, high = -30.0, 30.0
    for _ in range(45):
        middle = (low + high) / 2
        if callers.weights(route) @ _averages(route, middle) < route.share:
            low = middle
        else:
            high = middle
    return (low + high) / 2


@lru_cache(maxsize=16)
def drift(route: Route, day: int) -> NDArray[np.float64]:
    """How far the log-odds of all callers are from their mean, in each minute of a day."""
    constants = np.array([QUARTER_MINUTES, HOURS_MINUTES])
    noise = autoregression(route.seed, route.tenant, Stream.DRIFT, day, constants)
    return noise @ np.array([route.sigma_quarter, route.sigma_hours])


@lru_cache(maxsize=16)
def own_drift(route: Route, day: int) -> NDArray[np.float64]:
    """How far the log-odds of each of the largest callers are from the others', a row a minute of a day."""
    constants = np.full(min(WANDERING_CALLERS, route.callers), HOURS_MINUTES)
    return route.sigma_own * autoregression(route.seed, route.tenant, Stream.CALLER_DRIFT, day, constants)


def shares(route: Route, times: NDArray[np.float64], asker: NDArray[np.int64]) -> NDArray[np.float64]:
    """Probability that the answer to each request is bad, for callers by number, without broken integrations."""
    odds = base(route) + callers.offsets(route)[asker] + per_minute(times, lambda day: drift(route, day))
    if route.sigma_own:
        days = (times // DAY).astype(np.int64)
        for day in np.unique(days):
            wanders = (days == day) & (asker < WANDERING_CALLERS)
            minutes = ((times[wanders] - day * DAY) // 60).astype(np.int64)
            odds[wanders] += own_drift(route, int(day))[np.minimum(minutes, MINUTES_A_DAY - 1), asker[wanders]]
    return logistic(odds)


def integrations(route: Route, day: int) -> list[Event]:
    """Integrations that break on this day: a caller's answers are bad for an hour. Busy callers break more often."""
    if day < 0:
        return []
    generator = stream(route.seed, route.tenant, Stream.INTEGRATIONS, day)
    count = generator.poisson(route.integrations_a_month / MONTH_DAYS)
    begins = (day + generator.random(count)) * DAY
    targets = generator.choice(route.callers, size=count, p=callers.weights(route))
    return [Event(begin, begin + INTEGRATION_S, int(target)) for begin, target in zip(begins, targets, strict=True)]


def incidents(route: Route, day: int) -> list[Event]:
    """Incidents that begin on this day: a node on which most requests fail for a while."""
    if day < 0:
        return []
    generator = stream(route.seed, route.tenant, Stream.INCIDENTS, day)
    count = generator.poisson(route.incidents_a_month / MONTH_DAYS)
    begins = (day + generator.random(count)) * DAY
    lengths = np.exp(INCIDENT_SIGMA * generator.standard_normal(count)) * INCIDENT_MEDIAN_S
    targets = generator.integers(0, route.nodes, count)
    ends = begins + np.minimum(lengths, INCIDENT_LIMIT_S)
    return [Event(begin, end, int(target)) for begin, end, target in zip(begins, ends, targets, strict=True)]


def concerns(events: list[Event], times: NDArray[np.float64], subjects: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each request comes within an event of its caller, or of its node."""
    answer = np.zeros(len(times), bool)
    for event in events:
        answer |= (times >= event.begin) & (times < event.end) & (subjects == event.target)
    return answer
