"""The counts of each route by the minute, on their way to the store."""

from collections.abc import Iterable, Mapping

from loradeck.schemas.counts import NO_COUNTS, Counts
from loradeck.schemas.ids import PointerKey
from loradeck.store.interface import Served

ROWS = 200
"""Rows that are written at once: more would keep a move waiting."""

Minute = Mapping[PointerKey, Counts]


class PendingMinutes:
    """The counts that are not in the store yet, by minutes since 1970. A minute is written once it is over.

    A request counts in the minute in which the hub has booked its end, a few seconds late.
    """

    def __init__(self) -> None:
        self._minutes: dict[int, dict[PointerKey, Counts]] = {}

    def add(self, deltas: Iterable[Served], minute: int) -> None:
        """Adds what releases have served in a minute."""
        for delta in deltas:
            if delta.counts:
                self._put(minute, (delta.tenant, delta.route), delta.counts)

    def take(self, minute: int) -> dict[int, Minute]:
        """The next rows that are to be written, of minutes before this one, oldest first. The caller writes them, or
        gives them back.
        """
        rest = ROWS
        taken: dict[int, Minute] = {}
        for at in sorted(at for at in self._minutes if at < minute):
            keys = list(self._minutes[at])[:rest]
            taken[at] = {key: self._minutes[at].pop(key) for key in keys}
            rest -= len(keys)
            if not self._minutes[at]:
                del self._minutes[at]
            if not rest:
                break
        return taken

    def __len__(self) -> int:
        """Rows that are not in the store yet."""
        return sum(map(len, self._minutes.values()))

    def give_back(self, taken: Mapping[int, Minute]) -> None:
        """Takes back rows that could not be written."""
        for minute, rows in taken.items():
            for key, counts in rows.items():
                self._put(minute, key, counts)

    def of(self, key: PointerKey) -> dict[int, Counts]:
        """The counts of a route that are not in the store yet, by the minute."""
        return {minute: rows[key] for minute, rows in self._minutes.items() if key in rows}

    def _put(self, minute: int, key: PointerKey, counts: Counts) -> None:
        rows = self._minutes.setdefault(minute, {})
        rows[key] = rows.get(key, NO_COUNTS) + counts
