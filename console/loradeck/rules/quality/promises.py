"""Promises over days: tells whether a route has had more bad answers or errors than it promises.

Detection asks within seconds whether a release is well above a promise (`loradeck.rules.quality.detection`). What lies
a little above it for days speaks against no release, and breaks the promise all the same: it spends an error budget
faster than that comes. The two windows are those of the slowest alert of Google's "Site Reliability Workbook", chapter
5: the long one says so, and the short one that it is still so.
"""

from collections.abc import Mapping

from loradeck.rules.quality.health import ENOUGH
from loradeck.schemas.counts import NO_COUNTS, Counts
from loradeck.schemas.route import Objectives

LONG, SHORT = 72, 6
"""Hours of both windows."""


def overspent(hours: Mapping[int, Counts], now: int, promised: Objectives) -> tuple[str, ...]:
    """Says which share of a route has been above its promise, over both windows: 'bad 1.4% of 120,000 in three ...'.

    `hours`: its counts by the hour; `now`: the hour that runs.
    """
    long, short = (
        sum((counts for hour, counts in hours.items() if hour > now - window), NO_COUNTS) for window in (LONG, SHORT)
    )
    found = []
    for what, share, (part, whole), recent in (
        ("bad", promised.bad, (long.bad, long.checked), (short.bad, short.checked)),
        ("errors", promised.errors, (long.failed, long.admitted), (short.failed, short.admitted)),
    ):
        if share is not None and whole >= ENOUGH and part > share * whole and recent[0] > share * recent[1]:
            found.append(f"{what} {part / whole:.1%} of {whole:,} in three days, {share:.1%} promised")
    return tuple(found)
