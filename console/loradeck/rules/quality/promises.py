"""Promises over days: whether a route has had more bad answers or errors than it promises.

Detection asks within seconds whether a release is well above a promise (`loradeck.rules.quality.detection`). What lies
a little above it for days speaks against no release, and breaks the promise all the same: it spends an error budget
faster than that comes. The two windows are those of the slowest alert of Google's "Site Reliability Workbook", chapter
5: the long one says so, and the short one that it is still so.
"""

from collections.abc import Mapping

from loradeck.rules.quality.health import ENOUGH
from loradeck.schemas.counts import Counts
from loradeck.schemas.route import Objectives

LONG, SHORT = 72, 6
"""Hours of both windows."""


def overspent(hours: Mapping[int, Counts], now: int, promised: Objectives) -> tuple[str, ...]:
    """Says which share of a route has been above its promise, over both windows: 'bad 1.4% of 120,000 in three ...'.

    `hours`: its counts by the hour; `now`: the hour that runs.
    """
    found = []
    for what, share in (("bad", promised.bad), ("errors", promised.errors)):
        (part, whole), recent = (_sum(hours, now - window, what) for window in (LONG, SHORT))
        if share is not None and whole >= ENOUGH and part > share * whole and recent[0] > share * recent[1]:
            found.append(f"{what} {part / whole:.1%} of {whole:,} in three days, {share:.1%} promised")
    return tuple(found)


def _sum(hours: Mapping[int, Counts], after: int, what: str) -> tuple[int, int]:
    counts = [one for hour, one in hours.items() if hour > after]
    if what == "bad":
        return sum(one.bad for one in counts), sum(one.checked for one in counts)
    return sum(one.failed for one in counts), sum(one.admitted for one in counts)
