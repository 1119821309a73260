"""The units of the last ten minutes by their second of admission: a minute of seconds, and steps of ten seconds.

They are kept for each replica that answers for a pointer, which are tens of thousands, in three kilobytes each.
"""

from array import array
from collections.abc import Iterable
from operator import add
from typing import NamedTuple

from loradeck.rules.quality.health import OVERDUE
from loradeck.schemas.counts import STEP_S, Counts

KEPT_STEPS = 60
"""Steps that are kept: ten minutes."""

KEPT_SECONDS = 64
"""Seconds that are kept one by one."""


class UnitSums(NamedTuple):
    """Units that were admitted, those that have failed, those that are checked, and those of them that are bad.

    `decided`: those of which it was decided in this time whether they are overdue.
    """

    units: int = 0
    failed: int = 0
    checked: int = 0
    bad: int = 0
    decided: int = 0
    overdue: int = 0

    def plus(self, other: Iterable[int]) -> "UnitSums":
        """Adds other sums, in the same order."""
        return UnitSums._make(map(add, self, other))

    def of(self, figure: str) -> tuple[int, int]:
        """The bad units of a figure, and all that it speaks of."""
        if figure == OVERDUE:
            bad, n = self.overdue, self.decided
        else:
            bad, n = (self.bad, self.checked) if figure == "bad" else (self.failed, self.units)
        return min(bad, n), n  # of units from before a lift more may turn out badly than there are since

    @property
    def counts(self) -> Counts:
        """The units as counts of requests. What is still under way has not failed."""
        failed = min(self.failed, self.units)
        finished = self.units - failed
        checked = min(self.checked, finished)
        return Counts.over(failed=failed, finished=finished, checked=checked, bad=min(self.bad, checked))


_FIELDS = len(UnitSums._fields)
_BYTES = array("I").itemsize

MOST = 2**31
"""Units of a slot that are counted at most, however many a node says that it has had."""


class _Ring:
    """Sums of so many slots of time, the newest ones."""

    __slots__ = ("_newest", "_size", "_sums")

    def __init__(self, size: int) -> None:
        self._size = size
        self._newest = -1
        self._sums = array("I", bytes(_BYTES * _FIELDS * size))

    def add(self, slot: int, sums: tuple[int, ...]) -> None:
        """Adds to a slot. One that is too old to be kept is passed over."""
        if slot > self._newest:
            first = max(self._newest + 1, slot - self._size + 1)
            for new in range(first, slot + 1):
                at = new % self._size * _FIELDS
                self._sums[at : at + _FIELDS] = array("I", bytes(_BYTES * _FIELDS))
            self._newest = slot
        elif slot <= self._newest - self._size:
            return
        at = slot % self._size * _FIELDS
        for i, n in enumerate(sums):
            self._sums[at + i] = min(self._sums[at + i] + n, MOST)

    def since(self, slot: int, now: int) -> UnitSums:
        """Sums of the slots from one on, or of all that are kept. `now`: the slot that runs."""
        first = max(slot, max(self._newest, now) - self._size + 1, 0)
        if first > self._newest:
            return UnitSums()
        begin, end = first % self._size, self._newest % self._size + 1
        kept = self._sums[begin * _FIELDS : end * _FIELDS]
        if begin >= end:
            kept = self._sums[begin * _FIELDS :] + self._sums[: end * _FIELDS]
        return UnitSums._make(sum(kept[i::_FIELDS]) for i in range(_FIELDS))


class Steps:
    """The units of one release on one replica. Seconds are the hub's."""

    __slots__ = ("_seconds", "_steps")

    def __init__(self) -> None:
        self._seconds, self._steps = _Ring(KEPT_SECONDS), _Ring(KEPT_STEPS)

    def add(self, second: int, sums: UnitSums) -> None:
        """Adds units of a second, or what has become of units of that second since."""
        self._seconds.add(second, sums)
        self._steps.add(second // STEP_S, sums)

    def between(self, first: int, end: int, now: int) -> UnitSums:
        """The units that were admitted from a second on and before another one, as exactly as they are kept."""
        later = self.since(end, now)
        return UnitSums._make(max(0, n - m) for n, m in zip(self.since(first, now), later, strict=True))

    def since(self, second: int, now: int) -> UnitSums:
        """The units that were admitted from a second on, or from the beginning of its step where that is long ago."""
        if second > now - KEPT_SECONDS:
            return self._seconds.since(second, now)
        return self._steps.since(second // STEP_S, now // STEP_S)
