"""Promises over hours and days: tells whether a route has had more bad answers, errors or refusals than it promises.

Detection asks within seconds whether a release is well above a promise (`loradeck.rules.quality.detection`). What lies
a little above it for days speaks against no release, and breaks the promise all the same: it spends an error budget
faster than that comes. The windows and rates are those of Google's "Site Reliability Workbook", chapter 5, for the
budget of thirty days: each long one says so, and its short one that it is still so.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from loradeck.rules.quality.health import ENOUGH
from loradeck.schemas.counts import NO_COUNTS, Counts
from loradeck.schemas.route import Objectives


class Window(NamedTuple):
    """Two windows, in the unit of the counts, and how many times the promised share has to be exceeded in both."""

    long: int
    short: int
    rate: float
    words: str


SLOW = Window(72, 6, 1.0, "in three days")
"""In hours: a tenth of the budget in three days. It opens a ticket."""

FAST = (Window(60, 5, 14.4, "in an hour"), Window(360, 30, 6.0, "in six hours"))
"""In minutes: 2 % of the budget in an hour, or 5 % in six. They page."""


def overspent(hours: Mapping[int, Counts], now: int, promised: Objectives) -> tuple[str, ...]:
    """Says which share of a route has been above its promise for days: 'bad 1.4% of 120,000 in three days, ...'.

    `hours`: its counts by the hour; `now`: the hour that runs.
    """
    return tuple(_above(hours, now, promised, SLOW).values())


def burning(minutes: Mapping[int, Counts], now: int, promised: Objectives) -> tuple[str, ...]:
    """Says which share of a route is so far above its promise that the budget of a month is gone within days.

    `minutes`: its counts by the minute; `now`: the minute that runs.
    """
    found: dict[str, str] = {}
    for window in FAST:
        found = _above(minutes, now, promised, window) | found
    return tuple(found.values())


def _above(counts: Mapping[int, Counts], now: int, promised: Objectives, window: Window) -> dict[str, str]:
    long, short = (sum((one for at, one in counts.items() if at > now - length), NO_COUNTS) for length in window[:2])
    found = {}
    for (what, share, part, whole), (_, _, recent, of) in zip(
        _figures(long, promised), _figures(short, promised), strict=True
    ):
        limit = share * window.rate
        if whole >= ENOUGH and part > limit * whole and recent > limit * of:
            found[what] = f"{what} {part / whole:.1%} of {whole:,} {window.words}, {share:.1%} promised"
    return found


def _figures(counts: Counts, promised: Objectives) -> Iterator[tuple[str, float, int, int]]:
    """The figures that a route promises a share of: (figure, promised share, so many, of so many)."""
    of = {
        "bad": (counts.bad, counts.checked),
        "errors": (counts.failed, counts.admitted),
        "refusals": (counts.refused, counts.attempted),
    }
    for figure, share in promised.shares.items():
        yield figure, share, *of[figure]
