"""False flags of a fleet with traffic of published shapes: arrays say where one could be, and the product decides.

A part is a week of a hundred tenants whose releases are good: callers by Zipf's law, shares that wander, incidents,
broken integrations and retries, on two nodes. Each has a forward move at a time of each day. What is usual there is
learnt from the day before, and how long answers take from all days before, by the product's own rules.

The screen takes every unit with its outcome, in the order in which the hub would count it, and begins the bets again
after each: their wealth is never below the hub's. Where it comes near the level, the product's own counters, votes and
causes replay the time since the bets last had nothing (`tests.detection.replay`), with three neighbours, and say
whether it is a flag and whose.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray
from tests.detection.delays import FLEET
from tests.detection.false_flags import wealths
from tests.detection.generated import ERRORS, NEIGHBOURS
from tests.detection.replay import BEGINNING_S, Durations, Flag, Replay, overdue_at
from tests.detection.traffic.generator import Requests, requests
from tests.detection.traffic.kinds import is_template
from tests.detection.traffic.route import DAY, HOUR, Route

from loradeck.rules.quality.detection import HORIZON_S, ODDS, OVERDUE_LIMIT, Limits, flag_level, flag_limit, usual_share
from loradeck.rules.quality.health import OVERDUE
from loradeck.schemas.flag import FlagCause
from loradeck_agent.router.votes import Repetitions

RATES = ((0.05, 90), (1.0, 10))
"""Requests a second, and how many tenants of a part are asked so often."""

BUSY_RATE, BUSY_EACH = 10.0, 10
"""In each so-manieth part, one of those that are asked once a second is asked so often."""

TENANTS = 100
NODES = 2
NEAR = 1.0
"""Nats below the level from which on the product replays."""

DAYS = 7

BEFORE_S, AFTER_S = 600.0, 900.0
"""What is replayed before the bets begin that come near the level, and after they were near it last."""

BAD_USUAL = 0.02
"""What is usual on a route that has too little history to say."""

KINDS = {
    "flags": "all",
    "release": "about the release",
    "unknown": "of an unknown cause",
    "bad": "for bad answers",
    "errors": "for errors",
    OVERDUE: "for overdue answers",
}
"""What flags are counted by, and what tables call it."""

PARTS_A_WEEK = FLEET // TENANTS


def route(part: int, number: int) -> Route:
    """The route of a tenant of a part."""
    rate = RATES[0][0] if number < RATES[0][1] else RATES[1][0]
    if number == TENANTS - 1 and part % BUSY_EACH == 0:
        rate = BUSY_RATE
    return Route(
        rate=rate, tenant=part * TENANTS + number, nodes=NODES, sigma_quarter=0.5, sigma_hours=0.3, sigma_own=0.4
    )


def is_unit(asked: Requests) -> NDArray[np.bool_]:
    """Which requests are units, by the routers' own rule. Only bodies that may come twice are shown to it."""
    units = np.ones(len(asked), bool)
    shown = np.flatnonzero(is_template(asked.body) | asked.failed | (asked.attempt > 0))
    ends = (asked.time + asked.duration)[shown]
    times = np.concatenate([asked.time[shown], ends]) + BEGINNING_S
    order = np.argsort(times, kind="stable")
    order = order[np.isfinite(times[order])]
    number = [int(shown[place % len(shown)]) for place in order]
    now, routers = [0.0], [Repetitions() for _ in range(NODES)]
    with patch("time.monotonic", lambda: now[0]):
        for place, at, time in zip(order.tolist(), number, times[order].tolist(), strict=True):
            now[0] = time
            router, unit = routers[asked.node[at]], hash((int(asked.caller[at]), int(asked.body[at])))
            if place < len(shown):
                units[at] = router.is_first(unit)
            elif not asked.failed[at] and not asked.bad[at]:
                router.answered_well(unit)
    return units


def usual(units: Requests) -> Limits:
    """What is usual on a route by a day's hours, as the hub has it."""
    hour = (units.time % DAY // HOUR).astype(np.int64)
    n = np.bincount(hour, minlength=24).tolist()
    bad, failed = (np.bincount(hour[of], minlength=24).tolist() for of in (units.bad, units.failed))
    shares = [usual_share(zip(of, n, strict=True)) for of in (bad, failed)]
    return Limits(bad=shares[0] or BAD_USUAL, errors=shares[1] or ERRORS)


class Span(NamedTuple):
    """A time in which the evidence comes near the level: since when its bets have had something, and until when (s)."""

    begin: float
    last: float


class Screened(NamedTuple):
    """What arrays say of a day: the most evidence, in nats, and the spans in which it comes near the level."""

    most: float
    near: tuple[Span, ...]


def screen(units: Requests, overdue: NDArray[np.float64], limits: Limits) -> Screened:
    """The evidence of a day of units, and when it is near the level. Never below the hub's."""
    ends = units.time + units.duration
    admitted, ended = np.floor(units.time), np.floor(np.where(np.isfinite(ends), ends, 0))
    is_late = (units.bad | units.failed) & (ended - admitted > HORIZON_S)
    known = np.ceil(overdue)
    decided = np.isfinite(known) & (known <= math.ceil(units.time[-1]) if len(units) else False)
    figures = [
        (_sequence(admitted, units.bad & ~is_late, ended[is_late], units.bad[is_late]), flag_limit(limits.bad)),
        (
            _sequence(admitted, units.failed & ~is_late, ended[is_late], units.failed[is_late]),
            flag_limit(limits.errors),
        ),
        (_sequence(known[decided], (ends >= overdue)[decided], np.empty(0), np.empty(0, bool)), OVERDUE_LIMIT),
    ]
    most, near = -math.inf, list[Span]()
    for (seconds, bad), limit in figures:
        steps = np.flatnonzero(bad)
        if not len(steps):
            continue
        good = np.diff(steps, prepend=-1) - 1
        evidence, has_begun = np.full(len(steps), -math.inf), np.zeros(len(steps), bool)
        for before, after in wealths(good[None, :], np.ones((1, len(steps)), bool), limit):
            np.maximum(evidence, after[0] - math.log(len(ODDS)), out=evidence)
            has_begun |= before[0] > 0
        most = max(most, float(evidence.max()))
        begins = np.flatnonzero(~has_begun)  # the first step is one of them
        for step in np.flatnonzero(evidence >= flag_level(FLEET) - NEAR):
            begin = steps[begins[np.searchsorted(begins, step, side="right") - 1]]
            near.append(Span(float(seconds[begin]), float(seconds[steps[step]])))
    return Screened(most, _joined(near))


def _joined(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Spans in order, with those as one whose replays would meet."""
    joined = list[Span]()
    for span in sorted(spans):
        if joined and span.begin - BEFORE_S <= joined[-1].last + AFTER_S:
            joined[-1] = Span(joined[-1].begin, max(joined[-1].last, span.last))
        else:
            joined.append(span)
    return tuple(joined)


def _sequence(
    seconds: NDArray[np.float64], bad: NDArray[np.bool_], late: NDArray[np.float64], late_bad: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Units in the order in which they count, the good ones of a second first, and those once more that are late."""
    seconds, bad = np.concatenate([seconds, late]), np.concatenate([bad, late_bad])
    order = np.lexsort((bad, seconds))
    return seconds[order], bad[order]


@dataclass(frozen=True)
class Day:
    """A good tenant's day, with what its routers and the hub have learnt from the days before."""

    route: Route
    number: int
    asked: Requests
    limits: Limits
    durations: Durations
    """As they are at midnight; copy them before use."""

    @classmethod
    def of(cls, route: Route, number: int) -> Day:
        """Generates a day, and learns from the one before. `number`: 1 or more."""
        return cls._generated(route, number - 1, Limits(bad=BAD_USUAL, errors=ERRORS), {}).next()

    @classmethod
    def _generated(cls, route: Route, number: int, limits: Limits, durations: Durations) -> Day:
        return cls(route, number, requests(route, number * DAY, (number + 1) * DAY), limits, durations)

    def next(self) -> Day:
        """Generates the day after this one, which has learnt from it."""
        return self._generated(self.route, self.number + 1, usual(self.units), self._overdue[1])

    @cached_property
    def units(self) -> Requests:
        """The requests of the day that are units."""
        return self.asked[is_unit(self.asked)]

    @cached_property
    def _overdue(self) -> tuple[NDArray[np.float64], Durations]:
        """When each unit is overdue, and what routers know of durations at the end of the day."""
        durations = copy.deepcopy(self.durations)
        return overdue_at(self.units, durations, (self.number + 1) * DAY), durations

    @property
    def move(self) -> float:
        """When its forward move is."""
        return self.number * DAY + float(np.random.default_rng(self.route.tenant).random()) * DAY

    def screened(self) -> Screened:
        """What arrays say of it."""
        return screen(self.units, self._overdue[0], self.limits)

    def replayed(self, begin: float, end: float) -> list[Flag]:
        """The flags that the product raises between two seconds of it."""
        begin, end = max(begin, self.number * DAY), min(end, (self.number + 1) * DAY)
        durations = copy.deepcopy(self.durations)
        earlier = self.asked[self.asked.time < begin]
        overdue_at(earlier[is_unit(earlier)], durations, begin)
        replay = Replay(self.limits, nodes=NODES)
        later = self.asked[(self.asked.time >= begin) & (self.asked.time < end)]
        replay.add(later, moves=(self.move,), durations=durations)
        for number in range(1, NEIGHBOURS + 1):
            beside = replace(self.route, rate=min(self.route.rate, 1.0), seed=number)
            replay.add(requests(beside, begin, end))
        for _ in replay.seconds(math.floor(begin), math.floor(end)):
            pass
        return replay.flags


def part(number: int, *, tenants: range = range(TENANTS), days: int = DAYS) -> dict[str, int]:
    """Simulates a week of tenants. Returns how many flags there were, and what they were about."""
    found: Counter[str] = Counter()
    for tenant in tenants:
        day = Day.of(route(number, tenant), 1)
        while True:
            for span in day.screened().near:
                for flag in day.replayed(span.begin - BEFORE_S, span.last + AFTER_S):
                    found["flags"] += 1
                    found["release"] += flag.is_about_release
                    found["unknown"] += not flag.is_about_release and flag.cause() is FlagCause.UNKNOWN
                    found[flag.raised.figure] += 1
            if day.number == days:
                break
            day = day.next()
    return dict(found)


def upper_bound(count: int, weeks: float) -> float:
    """The upper 95 % bound of a Poisson rate a week, from a count in some weeks (Garwood, 1936)."""
    low, high = 0.0, 10.0 * (count + 10)
    for _ in range(60):
        middle = (low + high) / 2
        terms = np.cumsum(np.log(np.maximum(np.arange(count + 1), 1)))
        below = float(np.exp(-middle + np.arange(count + 1) * math.log(middle) - terms).sum())
        low, high = (middle, high) if below > 0.05 else (low, middle)
    return high / weeks
