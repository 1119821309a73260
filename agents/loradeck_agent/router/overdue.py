"""Answers that run on: how long those of a route take, and which units have not ended when nearly all would have.

An answer is overdue after 1.5 times the 99th percentile of the route's durations, and never within a second. Streamed
answers, and those that come whole, each have durations of their own. All releases of a route share them.

The 99th percentile is taken of each period, and the upper quartile of those of the last KEPT periods counts. So answers
that run on move it only once they were in a quarter of the periods, however many they are, while another kind of
traffic that stays is learnt within a day. What is asked by day alone is in more than a quarter of them.
"""

from array import array
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field

from loradeck_agent.router.votes import REPORTED_S

FEWEST = 200
"""Answers of which a period has to tell before it says what is usual."""

KEPT = 48
"""Periods that are remembered: a day of a busy route."""

SHORTEST_NS = 10**9
"""Nanoseconds before which no answer is overdue."""

PERIOD_NS = 30 * 60 * 10**9
"""Nanoseconds after which a period is over, where it has enough answers."""

_BOUNDS_NS = tuple(round(min(1.1**n, 3_600_000) * 10**6) for n in range(160))
"""Upper bounds of the buckets of durations, a tenth apart: a millisecond to an hour. Longer ones are in the last."""

_OPEN = 50
"""A period has so many times the answers that have not ended: of a younger one those that take long are missing."""

_YOUNG = 8
"""A period lasts for this part of the time since the first one began, so that an incident is in few of them."""


class Durations:
    """How long the answers of one kind take, from their admission to their end. Times are monotonic nanoseconds."""

    __slots__ = ("_begun_ns", "_counts", "_first_ns", "_n", "_open", "_periods", "overdue_after_ns")

    def __init__(self) -> None:
        self.overdue_after_ns = 0
        """How long after its admission an answer is overdue; 0: not known yet."""
        self._open = 0
        """Answers that have not ended."""
        self._first_ns = self._begun_ns = 0
        """When the first period began, and when the one that runs did."""
        self._n = 0
        self._counts = array("I", ())
        """Answers of the period that runs, in all and by buckets."""
        self._periods: deque[int] = deque(maxlen=KEPT)
        """The bucket in which the 99th percentile of each period was."""

    def admitted(self, at_ns: int) -> int:
        """Counts an answer that begins. Returns when it will be overdue; 0: never."""
        if not self._first_ns:
            self._first_ns = self._begun_ns = at_ns
            self._counts = array("I", (0,)) * len(_BOUNDS_NS)
        self._open += 1
        return at_ns + self.overdue_after_ns if self.overdue_after_ns else 0

    def broken_off(self) -> None:
        """An answer has ended that would have taken longer, or is none."""
        self._open -= 1

    def answered(self, admitted_ns: int, ended_ns: int) -> None:
        """An answer has come completely. Called in the order of the ends."""
        self._open -= 1
        self._n += 1
        self._counts[min(bisect_left(_BOUNDS_NS, ended_ns - admitted_ns), len(_BOUNDS_NS) - 1)] += 1
        if self._n >= FEWEST:
            lasts_ns = ended_ns - self._begun_ns
            is_whole = self._n >= _OPEN * self._open and lasts_ns >= (ended_ns - self._first_ns) // _YOUNG
            if is_whole or lasts_ns >= PERIOD_NS:
                self._end_period(ended_ns)

    def _end_period(self, now_ns: int) -> None:
        longer, p99 = self._n // 100, len(_BOUNDS_NS) - 1
        while (longer := longer - self._counts[p99]) >= 0:
            p99 -= 1
        self._periods.append(p99)
        usual = sorted(self._periods)[3 * (len(self._periods) - 1) // 4]
        self.overdue_after_ns = max(SHORTEST_NS, _BOUNDS_NS[usual] * 3 // 2)
        self._begun_ns, self._n = now_ns, 0
        self._counts = array("I", (0,)) * len(_BOUNDS_NS)


@dataclass(frozen=True, slots=True)
class RouteDurations:
    """The durations of a route's answers, of the streamed ones and of those that come whole."""

    streamed: Durations = field(default_factory=Durations)
    whole: Durations = field(default_factory=Durations)

    def of(self, *, streamed: bool) -> Durations:
        """The durations of one kind of answers."""
        return self.streamed if streamed else self.whole

    @property
    def overdue_ms(self) -> tuple[int, int]:
        """After how many milliseconds a streamed answer is overdue, and one that comes whole; 0: not known yet."""
        return self.streamed.overdue_after_ns // 10**6, self.whole.overdue_after_ns // 10**6


class OverdueUnits:
    """The units of one counter, by the second in which it is decided whether they are overdue.

    That is the first whole second at which they would be, so that each counts once, in the order of admission, and what
    is decided never changes. A unit whose caller left before that is not among them.
    """

    __slots__ = ("_seconds",)

    def __init__(self) -> None:
        self._seconds: dict[int, list[int]] = {}
        """Second -> units that are decided in it, and how many of them have ended in time."""

    def admitted(self, at_ns: int, overdue_ns: int) -> None:
        """Counts a unit that was admitted at the one time, and will be overdue at the other."""
        at = _second(overdue_ns)
        units = self._seconds.get(at)
        if units is None:
            reported = at_ns // 10**9 - REPORTED_S
            for old in [second for second in self._seconds if second < reported]:
                del self._seconds[old]
            units = self._seconds[at] = [0, 0]
        units[0] += 1

    def in_time(self, overdue_ns: int) -> None:
        """A unit has ended before it would have been overdue."""
        self._seconds[_second(overdue_ns)][1] += 1

    def left(self, overdue_ns: int) -> None:
        """The caller of a unit has left before it would have been overdue."""
        self._seconds[_second(overdue_ns)][0] -= 1

    def decided(self, now_ns: int) -> tuple[tuple[int, int, int], ...]:
        """The seconds of late in which units were decided: (second, units, the overdue ones)."""
        now = now_ns // 10**9
        seconds = ((at, self._seconds.get(at, (0, 0))) for at in range(now - REPORTED_S, now + 1))
        return tuple((at, units, units - in_time) for at, (units, in_time) in seconds if units)


def _second(overdue_ns: int) -> int:
    """The first whole second at which it is known that a unit is overdue."""
    return -(-overdue_ns // 10**9)
