"""A route's history in steps of equal length, for bars and tables."""

from collections.abc import Sequence
from typing import NamedTuple

from loradeck.rules.clocks import MINUTE_MS
from loradeck.schemas.counts import NO_COUNTS, Counts, RouteHistory


class Step(NamedTuple):
    """A part of a history: its first minute (minutes since 1970 UTC), how many minutes it has, and their counts."""

    since: int
    minutes: int
    counts: Counts

    @property
    def requests_per_s(self) -> float:
        """Attempted requests a second."""
        return self.counts.attempted / (60 * self.minutes)


def in_steps(history: RouteHistory, most: int) -> Sequence[Step]:
    """A history in so many steps at most, oldest first, up to the last minute, or hour, that is over."""
    each = history.each
    until = history.at_ms // MINUTE_MS // each * each
    whole = max(each, until - history.since)
    length = -(-whole // (max(1, most) * each)) * each
    since = until - length * max(1, whole // length)
    sums: dict[int, Counts] = {}
    for minute, counts in history.minutes.items():
        if since <= minute < until:
            number = (minute - since) // length
            sums[number] = sums.get(number, NO_COUNTS) + counts
    number = (until - since) // length
    return [Step(since + i * length, length, sums.get(i, NO_COUNTS)) for i in range(number)]
