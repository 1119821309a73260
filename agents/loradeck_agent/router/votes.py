"""Votes on a release: a request and the tries after it are one unit, so that a caller who tries again is heard once.

While a candidate is out, the units of either arm are counted by bins of keys too, from the last change of its share on.

Where another release is asked what a live one was, their answers to the same unit are a pair. Pairs are counted in the
order in which their units were admitted, each once it is over, so that neither release looks better for answering
sooner. An answer that is not waited for any longer counts for the live release, and against the one beneath it. Beside
a shadow, which is judged itself, such a pair says nothing, unless the live release had answered in half of that time.
"""

import random
import time
import zlib
from array import array
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from loradeck.rules.quality.detection import HORIZON_S
from loradeck.rules.quality.sampling import OPENING, TOGETHER, asked_again_share, waits_for_oldest
from loradeck.schemas.counts import (
    BINS,
    CALLERS_OF_STEP,
    SECONDS_OF_VOTES,
    STEP_S,
    ArmOutcomes,
    AskedAgain,
    SecondOfVotes,
    StepOfCaller,
)
from loradeck.schemas.ids import PointerKey

REPETITION_S = 60.0
"""Seconds after a unit's admission in which the same request of the same caller is another try of it."""

KEPT = 50_000
"""Most units that are remembered until they are answered well; the oldest are forgotten first."""

CALLERS = 100
"""Different callers that are counted."""

REPORTED_S = 5
"""Seconds for which something is reported again after its last change, so that a lost report loses nothing."""

LONGEST_S = 600
"""Seconds after its admission in which the outcome of a unit still counts among those of its second."""


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
class _Reported:
    """What is reported for a while after each change."""

    changed: int = 0
    """Second of its last change."""
    reports: int = 0
    """Reports that it was in since then."""

    def change(self, now: int) -> None:
        """Its counts have changed in the second `now`."""
        self.changed, self.reports = now, 0


@dataclass(slots=True)
class _Second(_Reported):
    units: int = 0
    failed: int = 0
    sampled: int = 0
    bad: int = 0
    open: int = 0
    """Units that have not ended."""
    last: int = 0
    """The second in which one of its units was admitted last, has ended or was judged."""
    noticed: dict[str, int] | None = None
    asked: dict[str, list[int]] | None = None
    """Check that sees only some units -> how many it was asked of, and how many of those it has noticed."""


_NO_UNITS = array("I", (0, 0, 0, 0) * BINS)


@dataclass(slots=True)
class _Step(_Reported):
    """The units of a step by bins of callers. A plain array: a busy counter has many steps."""

    counts: "array[int]" = field(default_factory=lambda: _NO_UNITS[:])
    """Four for each bin: its units, those that have failed, those to be checked, and those of them that are bad."""
    faulty: set[int] = field(default_factory=set)
    """Bins with failed or bad units."""

    def add(self, bin_: int, place: int, now: int) -> None:
        """Counts a unit of a bin as failed (1) or bad (3)."""
        self.counts[4 * bin_ + place] += 1
        self.faulty.add(bin_)
        self.change(now)

    def worst(self) -> list[tuple[int, int, int, int, int]]:
        """The bins with the most failed and bad units, and what they count."""
        bins = list[tuple[int, int, int, int, int]]()
        for at in self.faulty:
            units, failed, sampled, bad = self.counts[4 * at : 4 * at + 4]
            bins.append((at, units, failed, sampled, bad))
        return sorted(bins, key=lambda of_bin: of_bin[2] + of_bin[4], reverse=True)[:CALLERS_OF_STEP]


@lru_cache(maxsize=4096)
def bin_of(caller: str) -> int:
    """The bin of a caller, which is the same in every router."""
    return zlib.crc32(caller.encode("utf-8", "surrogatepass")) % BINS


class ReportedVotes(NamedTuple):
    """The seconds and steps that have changed of late, whole, by their names in `schemas.counts.Traffic`."""

    votes: tuple[SecondOfVotes, ...]
    noticed_votes: dict[str, tuple[tuple[int, int], ...]]
    asked_votes: dict[str, tuple[tuple[int, int, int], ...]]
    caller_votes: tuple[StepOfCaller, ...]


class Votes:
    """The units of one counter by the (monotonic) second of their admission, and which failed or were bad.

    A second is kept until a minute after the last of its units has ended, so that what fails or is bad late counts in
    it too, but for LONGEST_S at most. What comes after that counts nowhere.
    """

    __slots__ = ("_seconds", "_steps", "callers")

    def __init__(self) -> None:
        self._seconds: dict[int, _Second] = {}
        self._steps: dict[int, _Step] = {}
        """The steps of which a second is kept."""
        self.callers: set[str] = set()
        """Callers who had a unit, up to CALLERS: by their key, and by the user whom their requests name."""

    def admitted(self, at_ns: int, caller: str, *, sampled: bool, asked: Iterable[str] = ()) -> int:
        """Counts an admitted unit. Returns its caller's bin.

        Args:
            sampled: its answer is to be checked.
            asked: the checks of only some answers that are to see it.
        """
        at, bin_ = at_ns // 10**9, bin_of(caller)
        second = self._seconds.get(at)
        if second is None:
            second = self._begin(at)
        step = self._steps[at // STEP_S]
        second.units += 1
        second.open += 1
        second.sampled += sampled
        second.last = second.changed = step.changed = at
        second.reports = step.reports = 0
        step.counts[4 * bin_] += 1
        if sampled:
            step.counts[4 * bin_ + 2] += 1
        for name in asked:
            second.asked = second.asked or {}
            second.asked.setdefault(name, [0, 0])[0] += 1
        if len(self.callers) < CALLERS:
            self.callers.add(caller)
        return bin_

    def ended(self, at_ns: int, bin_: int, *, failed: bool) -> None:
        """A unit that was admitted then has ended."""
        if (second := self._seconds.get(at := at_ns // 10**9)) is not None:
            second.open -= 1
            second.last = now = time.monotonic_ns() // 10**9
            if failed:
                second.failed += 1
                second.change(now)
                self._steps[at // STEP_S].add(bin_, 1, now)

    def bad(self, at_ns: int, bin_: int) -> None:
        """The answer of a unit that was admitted then is bad."""
        if (second := self._seconds.get(at := at_ns // 10**9)) is not None:
            second.bad += 1
            second.last = now = time.monotonic_ns() // 10**9
            second.change(now)
            self._steps[at // STEP_S].add(bin_, 3, now)

    def noticed(self, at_ns: int, checks: Iterable[str]) -> None:
        """Checks that make no answer bad have noticed that of a unit that was admitted then."""
        if (second := self._seconds.get(at_ns // 10**9)) is not None:
            second.last = now = time.monotonic_ns() // 10**9
            second.change(now)
            second.noticed = second.noticed or {}
            for name in checks:
                second.noticed[name] = second.noticed.get(name, 0) + 1
                if second.asked is not None and name in second.asked:
                    second.asked[name][1] += 1

    def _begin(self, now: int) -> _Second:
        """Begins a second, and forgets those of which nothing more is expected."""
        over, longest = now - HORIZON_S, now - LONGEST_S
        for at in [at for at, one in self._seconds.items() if at < longest or (one.last < over and not one.open)]:
            del self._seconds[at]
        if now // STEP_S not in self._steps:
            steps = {at // STEP_S for at in self._seconds}
            self._steps = {at: step for at, step in self._steps.items() if at in steps}
            self._steps[now // STEP_S] = _Step()
        second = self._seconds[now] = _Second()
        return second

    def reported(self) -> ReportedVotes:
        """The seconds and steps that are to be reported now, whole."""
        votes, noticed, asked = (
            list[SecondOfVotes](),
            defaultdict[str, list[Any]](list),
            defaultdict[str, list[Any]](list),
        )
        for at, second in _of_late(self._seconds, SECONDS_OF_VOTES):
            votes.append((at, second.units, second.failed, second.sampled, second.bad))
            for name, n in (second.noticed or {}).items():
                noticed[name].append((at, n))
            for name, (n, of_these) in (second.asked or {}).items():
                asked[name].append((at, n, of_these))
        faulty = {at: step for at, step in self._steps.items() if step.faulty}
        steps = _of_late(faulty, SECONDS_OF_VOTES // CALLERS_OF_STEP)
        return ReportedVotes(
            votes=tuple(votes),
            noticed_votes={name: tuple(of_check) for name, of_check in noticed.items()},
            asked_votes={name: tuple(of_check) for name, of_check in asked.items()},
            caller_votes=tuple((at, *of_bin) for at, step in steps for of_bin in step.worst()),
        )


_Kept = TypeVar("_Kept", bound=_Reported)


def _of_late(kept: dict[int, _Kept], most: int) -> list[tuple[int, _Kept]]:
    """Takes what has changed of late for a report.

    Where there is no room for all of it, what was in the fewest reports goes first, and of that what has changed last.
    The rest is treated as if it had changed now until it was in REPORTED_S reports as well.
    """
    now = time.monotonic_ns() // 10**9
    late = [(at, one) for at, one in kept.items() if one.changed >= now - REPORTED_S]
    if len(late) > most:
        late.sort(key=lambda entry: (entry[1].reports, -entry[1].changed, -entry[0]))
        for _, one in late[most:]:
            if one.reports < REPORTED_S:
                one.changed = now
        late = sorted(late[:most], key=lambda entry: entry[0])
    for _, one in late:
        one.reports += 1
    return late


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
