"""Which days of a route its freshness meters compare, through promotes and rewinds.

What callers ask does not change because a release was promoted. So the days that the latest ones are held against are
the route's: its first ones, whatever has become live since. They move where the live release was trained on rows that
came in later, to the days before those came in; after a rewind they are those of the release that is live again. Where
days are kept no more, the first days after the next move stand for them.

What is answered may change by a promote alone. So a release's answers are held against its own first days, too.
"""

from collections.abc import Sequence
from typing import NamedTuple

from loradeck.rules.clocks import DAY_MS

REFERENCE_DAYS = 14
"""Days that the latest ones are held against: whole weeks, so that weekends are in them."""


class Stay(NamedTuple):
    """A release that became live on a route, and when: milliseconds since 1970 UTC."""

    release: str
    since_ms: int


class Window(NamedTuple):
    """Whole days since 1970 UTC that one comparison is made of.

    `spans`: one for each move after which a reference may begin, in order. `rows`: the day on which the newest rows
    came in that the live release was trained on; None: that is not known, or of no concern.
    """

    spans: tuple[range, ...]
    rows: int | None = None

    def has(self, day: int) -> bool:
        """Tells whether a day is one of these."""
        return any(day in span for span in self.spans)

    def live(self, counted: Sequence[int]) -> range:
        """Returns the days from the reference on: the first REFERENCE_DAYS of `counted` among them are the reference.

        They begin before the rows came in, where so many of `counted` are, the last no more than REFERENCE_DAYS before;
        else after the first move of which the first days are kept. Where no first days are kept, they begin with the
        first move, REFERENCE_DAYS or more before the first of `counted`.
        """
        return range(self._start(counted), max(span.stop for span in self.spans))

    def _start(self, counted: Sequence[int]) -> int:
        if self.rows is not None:
            before = [day for day in counted if day < self.rows][-REFERENCE_DAYS:]
            if len(before) == REFERENCE_DAYS and before[-1] >= self.rows - REFERENCE_DAYS:
                return before[0]
        starts = [span.start for span in self.spans]
        kept = (start for start in starts if any(start <= day < start + REFERENCE_DAYS for day in counted))
        return next(kept, starts[0])

    def after_days_elsewhere(self, first: int) -> "Window":
        """The window of a release that served elsewhere before, from a day on: its rows had come in by then."""
        spans = sorted((range(first, first), *self.spans), key=lambda span: span.start)
        return Window(tuple(spans), None if self.rows is None else min(self.rows, first))


def asked(stays: Sequence[Stay], rows_ms: int | None, now_ms: int) -> Window:
    """The days of a route on which callers asked, whatever answered them.

    Args:
        stays: what became live on the route, oldest first; one at least.
        rows_ms: when the newest rows came in that the live release was trained on; None: not known.
    """
    today = now_ms // DAY_MS
    spans = tuple(range(start, today) for start in _starts(stays))
    # Rows that were entered late had come in before the release that was trained on them became live.
    rows = None if rows_ms is None else min(rows_ms // DAY_MS, answered(stays, now_ms).spans[0].start)
    return Window(spans, rows)


def answered(stays: Sequence[Stay], now_ms: int) -> Window:
    """The days of a route that the release which became live last answered alone: those of a move are not whole."""
    ends = [stay.since_ms // DAY_MS for stay in stays[1:]] + [now_ms // DAY_MS]
    spans = zip((stay.release for stay in stays), _starts(stays), ends, strict=True)
    return Window(tuple(range(start, end) for release, start, end in spans if release == stays[-1].release))


def _starts(stays: Sequence[Stay]) -> list[int]:
    return [stay.since_ms // DAY_MS + 1 for stay in stays]
