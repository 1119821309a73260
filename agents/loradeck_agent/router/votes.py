"""Votes on a release: a request and the tries after it are one unit, so that a caller who tries again is heard once.

While a candidate is out, the units of either arm are counted by bins of keys too, from the last change of its share on.

Where another release is asked what a live one was, their answers to the same unit are a pair. Pairs are counted in the
order in which their units were admitted, each once it is over, so that neither release looks better for answering
sooner. An answer that is not waited for any longer counts for the live release, and against the one beneath it. Beside
a shadow, which is judged itself, such a pair says nothing, unless the live release had answered in half of that time.
"""

import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from loradeck.rules.quality.detection import HORIZON_S
from loradeck.rules.quality.sampling import OPENING, TOGETHER, asked_again_share, waits_for_oldest
from loradeck.schemas.counts import ArmOutcomes, AskedAgain, SecondOfVotes
from loradeck.schemas.ids import PointerKey

REPETITION_S = 60.0
"""Seconds after a unit's admission in which the same request of the same caller is another try of it."""

KEPT = 50_000
"""Most units that are remembered until they are answered well; the oldest are forgotten first."""

CALLERS = 100
"""Different callers that are counted."""

_REPORTED_S = 5  # a second is reported again for so long after its last change, so that a lost report loses nothing


class Repetitions:
    """Tells a request that is tried again from one that is asked anew.

    Only a body that is the same byte for byte, of the same caller and route, repeats another. It is another try while
    the one before has not ended, or has ended badly. Where that was answered well, the same body is a question of its
    own, as of a template.
    """

    def __init__(self) -> None:
        self._open: dict[int, float] = {}
        """Unit that was not answered well, or is not yet -> when its first request was admitted."""

    @staticmethod
    def unit_of(caller: str, key: PointerKey, body: bytes) -> int:
        """The number by which a caller's request for a route is recognised. `body`: all of it but its settings."""
        return hash((caller, key, body))

    def is_first(self, unit: int) -> bool:
        """Tells whether a request, which is about to be admitted, begins a unit, and repeats none."""
        now, open_ = time.monotonic(), self._open
        while open_ and (open_[oldest := next(iter(open_))] < now - REPETITION_S or len(open_) >= KEPT):
            del open_[oldest]
        if unit in open_:
            return False
        open_[unit] = now
        return True

    def answered_well(self, unit: int) -> None:
        """A request of a unit has ended without a fault: who sends the same again asks anew."""
        self._open.pop(unit, None)


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
        return tuple((at, one.units, one.failed, one.sampled, one.bad) for at, one in self._of_late())

    def changed_noticed(self) -> dict[str, tuple[tuple[int, int], ...]]:
        """The seconds that have changed of late in which a check has noticed any units, and how many, by check."""
        found = dict[str, tuple[tuple[int, int], ...]]()
        for at, one in self._of_late():
            for name, n in (one.noticed or {}).items():
                found[name] = (*found.get(name, ()), (at, n))
        return found

    def changed_asked(self) -> dict[str, tuple[tuple[int, int, int], ...]]:
        """Returns the seconds that have changed of late, by check that sees only some of the units.

        Of each second: how many units the check was asked of, and how many of these it has noticed.
        """
        found = dict[str, tuple[tuple[int, int, int], ...]]()
        for at, one in self._of_late():
            for name, (n, noticed) in (one.asked or {}).items():
                found[name] = (*found.get(name, ()), (at, n, noticed))
        return found

    def _of_late(self) -> Iterator[tuple[int, _Second]]:
        since = time.monotonic_ns() // 10**9 - _REPORTED_S
        return ((at, one) for at, one in self._seconds.items() if one.changed >= since)


class Seat(NamedTuple):
    """The place and the bin of a request's key, and the step of the split that gave it its arm."""

    step: int
    place: int
    bin: int


@dataclass(slots=True)
class Outcomes:
    """The bins of one counter in one step. Another step begins anew; what is then still under way counts nowhere."""

    step: int = -1
    _places: set[int] = field(default_factory=set)
    _bins: dict[int, list[int]] = field(default_factory=dict)
    """Bin -> units that were admitted, failed, are to be checked, and are bad."""

    def admitted(self, seat: Seat, *, voter: bool, sampled: bool) -> None:
        """A request was admitted. `voter`: it is a unit; `sampled`: its answer is to be checked."""
        if seat.step != self.step:
            self.step, self._places, self._bins = seat.step, set(), {}
        self._places.add(seat.place)
        if voter:
            counts = self._bins.setdefault(seat.bin, [0, 0, 0, 0])
            counts[0] += 1
            counts[2] += sampled

    def failed(self, seat: Seat) -> None:
        """A unit has failed."""
        if seat.step == self.step:
            self._bins[seat.bin][1] += 1

    def bad(self, seat: Seat) -> None:
        """The answer of a unit is bad."""
        if seat.step == self.step:
            self._bins[seat.bin][3] += 1

    def typed(self) -> ArmOutcomes:
        """The sums as they are reported."""
        bins = tuple((at, (units, failed, checked, bad)) for at, (units, failed, checked, bad) in self._bins.items())
        return ArmOutcomes(step=self.step, keys=len(self._places), bins=bins)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an answer. `bad` None: it was not checked. `at_ns`: monotonic, when that was known."""

    failed: bool
    bad: bool | None = None
    at_ns: int = field(default_factory=time.monotonic_ns)


_GOOD, _BAD = Outcome(failed=False, bad=False), Outcome(failed=True, bad=True)


@dataclass(slots=True, eq=False)
class Pair:
    """One unit that is asked twice. `given`: by the live release; `again`: by the other one; None: under way."""

    at_ns: int
    given: Outcome | None = None
    again: Outcome | None = None
    dropped: bool = False
    """It says nothing: the caller left, or the other release was not asked or is no longer there."""
    opening: bool = False
    """It is among the first after the move."""

    @property
    def over(self) -> bool:
        """Whether nothing more is expected of it."""
        return self.dropped or (self.given is not None and self.again is not None)


class Pairs:
    """The pairs of one counter with one other release.

    Args:
        shadow: the other one is judged, or the live release a second time beside such a one.
        clock: monotonic nanoseconds.
        draw: a number from 0 to 1 by chance.
    """

    def __init__(
        self,
        release: str,
        clock: Callable[[], int] = time.monotonic_ns,
        draw: Callable[[], float] = random.random,
        *,
        shadow: bool = False,
    ) -> None:
        self.release = release
        self.shadow = shadow
        self._clock, self._draw = clock, draw
        self._open: deque[Pair] = deque()
        self._rate = Rate()
        self._drawn = self._asked = self._shed = self._pairs = self._checked = 0
        self._failed, self._bad = [0, 0], [0, 0]

    def drawn(self, at_ns: int) -> bool:
        """Tells whether a unit that is admitted now is to be asked again."""
        share = asked_again_share(self._rate.counted(at_ns), self._drawn)
        return share >= 1 or self._draw() < share

    def begin(self, at_ns: int) -> Pair:
        """A unit that was admitted now is asked again. Called in the order of admission."""
        self._count()
        pair = Pair(at_ns, opening=self._drawn < OPENING)
        self._drawn += 1
        self._open.append(pair)
        return pair

    def asked(self) -> None:
        """The other release was asked."""
        self._asked += 1

    def shed(self) -> None:
        """A unit that was drawn is not asked again, since callers come first."""
        self._shed += 1

    def typed(self) -> AskedAgain | None:
        """The counts as they are reported to the hub; None while there are none."""
        self._count()
        if not self._asked and not self._shed:
            return None
        return AskedAgain(
            release=self.release,
            asked=self._asked,
            shed=self._shed,
            pairs=self._pairs,
            failed=(self._failed[0], self._failed[1]),
            checked=self._checked,
            bad=(self._bad[0], self._bad[1]),
        )

    def _count(self) -> None:
        """Counts the pairs that are over, up to the first one that is not."""
        late_ns = self._clock() - HORIZON_S * 10**9
        while self._open:
            pair = self._open[0]
            if not pair.over and pair.at_ns > late_ns:
                over = [one.over for one in islice(self._open, TOGETHER)]
                if self.shadow or waits_for_oldest(self._pairs, over):
                    return
            if not pair.dropped and not (self.shadow and _says_nothing(pair)):
                self._add(pair.given or _GOOD, pair.again or _BAD)
            self._open.popleft()

    def _add(self, given: Outcome, again: Outcome) -> None:
        self._pairs += 1
        self._failed[0] += given.failed
        self._failed[1] += again.failed
        if given.bad is not None and again.bad is not None:
            self._checked += 1
            self._bad[0] += given.bad
            self._bad[1] += again.bad


def _says_nothing(pair: Pair) -> bool:
    """Tells whether a pair with a shadow that is not waited for any longer speaks against nobody: both take long."""
    if pair.given is None:
        return True
    return pair.again is None and pair.given.at_ns - pair.at_ns > HORIZON_S * 10**9 // 2
