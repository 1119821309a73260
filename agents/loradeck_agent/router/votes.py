"""Votes on a release: a request and its repetitions are one unit, so that a caller who tries again is heard once."""

import time
from collections.abc import Iterable
from dataclasses import dataclass

from loradeck.rules.quality.detection import HORIZON_S
from loradeck.schemas.counts import SecondOfVotes
from loradeck.schemas.ids import PointerKey

REPETITION_S = 60.0
"""Seconds in which the same request of the same caller is a repetition."""

KEPT = 50_000
"""Most requests that are remembered; the oldest are forgotten first."""

CALLERS = 100
"""Different callers that are counted."""

_FOLDED = 2048  # bytes at the end of a body, where the newest message stands
_DIGITS = b"0123456789"
_REPORTED_S = 5  # a second is reported again for so long after its last change, so that a lost report loses nothing


class Repetitions:
    """Recognises the repetitions of requests: the same caller, route and body, apart from digits and case."""

    def __init__(self) -> None:
        self._seen: dict[int, float] = {}

    def is_first(self, caller: str, key: PointerKey, body: bytes) -> bool:
        """Tells whether a request repeats no earlier one, so that it is a unit of its own."""
        now, seen = time.monotonic(), self._seen
        while seen and (seen[oldest := next(iter(seen))] < now - REPETITION_S or len(seen) >= KEPT):
            del seen[oldest]
        unit = hash((caller, key, body[-_FOLDED:].translate(None, _DIGITS).lower()))
        if unit in seen:
            return False
        seen[unit] = now
        return True


class Rate:
    """Requests a second: of the last whole second, or of the one that runs, where that has more."""

    __slots__ = ("_before", "_now", "_second")

    def __init__(self) -> None:
        self._second = self._before = self._now = 0

    def counted(self, at_ns: int) -> int:
        """Counts a request that is admitted now. Returns the rate."""
        second = at_ns // 10**9
        if second != self._second:
            self._before = self._now if second == self._second + 1 else 0
            self._second, self._now = second, 0
        self._now += 1
        return max(self._before, self._now)


@dataclass(slots=True)
class _Second:
    units: int = 0
    failed: int = 0
    sampled: int = 0
    bad: int = 0
    changed: int = 0
    noticed: dict[str, int] | None = None
    asked: dict[str, list[int]] | None = None
    """Check that sees only some units -> how many it was asked of, and how many of those it has noticed."""


class Votes:
    """The units of one counter by the (monotonic) second of their admission, and which failed or were bad."""

    __slots__ = ("_seconds", "callers")

    def __init__(self) -> None:
        self._seconds: dict[int, _Second] = {}
        self.callers: set[str] = set()
        """Callers who had a unit, up to CALLERS: by their key, and by the user whom their requests name."""

    def admitted(self, at_ns: int, caller: str, *, sampled: bool, asked: Iterable[str] = ()) -> None:
        """Counts an admitted unit. `sampled`: its answer is to be checked; `asked`: by which checks of only some."""
        second = self._at(at_ns)
        second.units += 1
        second.sampled += sampled
        for name in asked:
            second.asked = second.asked or {}
            second.asked.setdefault(name, [0, 0])[0] += 1
        if len(self.callers) < CALLERS:
            self.callers.add(caller)

    def failed(self, at_ns: int) -> None:
        """A unit that was admitted then has failed."""
        self._at(at_ns).failed += 1

    def bad(self, at_ns: int) -> None:
        """The answer of a unit that was admitted then is bad."""
        self._at(at_ns).bad += 1

    def noticed(self, at_ns: int, checks: Iterable[str]) -> None:
        """Checks that make no answer bad have noticed that of a unit that was admitted then."""
        second = self._at(at_ns)
        second.noticed = second.noticed or {}
        for name in checks:
            second.noticed[name] = second.noticed.get(name, 0) + 1
            if second.asked is not None and name in second.asked:
                second.asked[name][1] += 1

    def _at(self, at_ns: int) -> _Second:
        at, now = at_ns // 10**9, time.monotonic_ns() // 10**9
        second = self._seconds.get(at)
        if second is None:
            for old in [s for s in self._seconds if s < now - HORIZON_S]:
                del self._seconds[old]
            second = self._seconds[at] = _Second()
        second.changed = now
        return second

    def changed(self) -> tuple[SecondOfVotes, ...]:
        """The seconds that have changed of late, whole."""
        since = time.monotonic_ns() // 10**9 - _REPORTED_S
        return tuple(
            (at, one.units, one.failed, one.sampled, one.bad)
            for at, one in self._seconds.items()
            if one.changed >= since
        )

    def changed_noticed(self) -> dict[str, tuple[tuple[int, int], ...]]:
        """The seconds that have changed of late in which a check has noticed any units, and how many, by check."""
        since, found = time.monotonic_ns() // 10**9 - _REPORTED_S, dict[str, tuple[tuple[int, int], ...]]()
        for at, one in self._seconds.items():
            if one.noticed is not None and one.changed >= since:
                for name, n in one.noticed.items():
                    found[name] = (*found.get(name, ()), (at, n))
        return found

    def changed_asked(self) -> dict[str, tuple[tuple[int, int, int], ...]]:
        """Returns the seconds that have changed of late, by check that sees only some of the units.

        Of each second: how many units the check was asked of, and how many of these it has noticed.
        """
        since, found = time.monotonic_ns() // 10**9 - _REPORTED_S, dict[str, tuple[tuple[int, int, int], ...]]()
        for at, one in self._seconds.items():
            if one.asked is not None and one.changed >= since:
                for name, (n, noticed) in one.asked.items():
                    found[name] = (*found.get(name, ()), (at, n, noticed))
        return found
