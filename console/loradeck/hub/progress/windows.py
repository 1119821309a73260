"""Sliding windows over the last minute: the six counts of requests, and the second in which each was booked."""

import math
from dataclasses import dataclass, field
from itertools import zip_longest

from loradeck.schemas.counts import NO_COUNTS, TTFT_BUCKETS_MS, Counts

WINDOW_S = 60.0
"""Length of every window, seconds. Shares and rates that are shown as current are taken over it.
A breach is judged by the counts of the whole generation (`loradeck.hub.progress.release_health`)."""

BUCKET_S = 1.0
"""Length of a slice, seconds. All windows begin their slices at the same times: one can be taken from another."""

BUCKETS = len(TTFT_BUCKETS_MS) + 1
"""Buckets of the histogram of times to first token. The last one is unbounded."""


def second(at: float) -> float:
    """The beginning of the slice that a monotonic time falls into."""
    return at // BUCKET_S * BUCKET_S


@dataclass(slots=True)
class Slice:
    """Requests that were attempted in one second, and what has become of them.

    `at` is the hub's monotonic clock in seconds, `ttft` the growth of each bucket of the histogram.
    """

    at: float
    counts: Counts = NO_COUNTS
    ttft: tuple[int, ...] = ()


@dataclass
class Recent:
    """Totals of a window. `seconds` is how much of the last minute has been watched."""

    counts: Counts = NO_COUNTS
    seconds: float = 0.0
    ttft: list[int] = field(default_factory=lambda: [0] * BUCKETS)

    @property
    def ttft95_ms(self) -> float | None:
        """The 95th percentile of the time to first token, milliseconds, rounded up to its bucket's bound.

        None where no first token was measured.
        """
        total = sum(self.ttft)
        if not total:
            return None
        seen = 0
        for bound, n in zip(TTFT_BUCKETS_MS, self.ttft, strict=False):
            seen += n
            if seen >= 0.95 * total:
                return float(bound)
        return float(TTFT_BUCKETS_MS[-1])


def added(ttft: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    """The sum of two histograms, bucket by bucket; a bucket that one of them lacks counts 0 there."""
    return tuple(map(sum, zip_longest(ttft, other, fillvalue=0)))


class Window:
    """The slices of the last minute and their running sum, so that reading the sum costs nothing.

    Slices of one second are merged, since a thousand replicas report in every second. They are a list: there are two
    windows for each node, and an empty deque takes 600 bytes.
    """

    __slots__ = ("_sum", "slices")

    def __init__(self) -> None:
        self.slices: list[Slice] = []
        self._sum = NO_COUNTS

    def put(self, at: float, counts: Counts, ttft: tuple[int, ...] = ()) -> None:
        """Adds counts, and growth of the histogram, to the second of a time, which may be before the newest one."""
        self.prune(at)
        at, slices = second(at), self.slices
        self._sum += counts
        where = len(slices)
        while where and slices[where - 1].at > at:
            where -= 1
        if where and slices[where - 1].at == at:
            known = slices[where - 1]
            known.counts += counts
            if ttft:
                known.ttft = added(known.ttft, ttft)
        else:
            slices.insert(where, known := Slice(at, counts, ttft))
        assert known.counts.adds_up, known

    def prune(self, now: float) -> None:
        """Drop the slices that are older than the window."""
        over, oldest = 0, now - WINDOW_S
        for part in self.slices:
            if part.at >= oldest:
                break
            self._sum -= part.counts
            over += 1
        if over:
            del self.slices[:over]

    def sum(self, now: float) -> Counts:
        """Totals of the last minute, without times to first token."""
        self.prune(now)
        return self._sum

    def recent(self, now: float, seconds: float) -> Recent:
        """Totals of the last minute with times to first token. `seconds`: how much of that minute was watched."""
        recent = Recent(self.sum(now), seconds)
        for one in self.slices:
            for i, n in enumerate(one.ttft[:BUCKETS]):
                recent.ttft[i] += n
        return recent


@dataclass(slots=True)
class _Booked:
    """Requests that were attempted at one time (monotonic seconds) and whose outcome, or check, is still to come."""

    at: float
    in_flight: int = 0
    unchecked: int = 0


class Bookings:
    """The requests of one counter that are in flight, and its answers that are not checked, by when they were booked.

    A router says how many requests ended, not which. The oldest are taken to finish first, and the newest to fail, to
    be taken back and to be checked first: an engine that fails does so at once. Every second adds up, whichever they
    were.
    """

    __slots__ = ("_booked",)

    def __init__(self, in_flight: int = 0) -> None:
        self._booked = [_Booked(-math.inf, in_flight)] if in_flight else []

    def book(self, now: float, growth: Counts, over_s: float) -> tuple[list[tuple[float, Counts]], Counts]:
        """Books the growth of the counter.

        Args:
            now: monotonic seconds.
            over_s: the seconds in which the counter has grown. A router that had no link for ten minutes reports all
                ten at once: a tenth of it is the last minute's.

        Returns:
            What falls into the last minute, by time, newest first; and all requests that are over. Each part adds up
            with what was booked at its time before.
        """
        self._forget(now)
        back = max(0, growth.refused - growth.attempted)  # were in flight when a move cut them, and were refused then
        refused = growth.refused - back
        newest = _Booked(second(now), growth.attempted - refused)
        booked = self._booked
        booked.append(newest)
        ended = [0] * len(booked)
        finished, failed, checked, bad = growth.finished, growth.failed, growth.checked, growth.bad
        for index, one in enumerate(booked):
            if not finished:
                break
            if n := min(one.in_flight, finished):
                ended[index] = n
                finished -= n
                one.in_flight -= n
                one.unchecked += n
        recent: list[tuple[float, Counts]] = []
        for index in range(len(booked) - 1, -1, -1):
            one, n = booked[index], ended[index]
            lost, seen = min(one.in_flight, failed), min(one.unchecked, checked)
            worse = min(seen, bad)
            failed, checked, bad = failed - lost, checked - seen, bad - worse
            again = min(one.in_flight - lost, back)
            back -= again
            one.in_flight -= lost + again
            one.unchecked -= seen
            if one is newest:
                part = Counts(growth.attempted, refused, lost, n, seen, worse)
                if over_s > WINDOW_S:
                    part = part.scaled(WINDOW_S / over_s)
                    one.unchecked = part.finished - part.checked
                if part:
                    recent.append((one.at, part))
            elif (n or lost or seen or again) and one.at > -math.inf:
                recent.append((one.at, Counts(0, again, lost, n, seen, worse)))
        over = Counts.over(
            refused=growth.refused - back,
            failed=growth.failed - failed,
            finished=growth.finished - finished,
            checked=growth.checked - checked,
            bad=growth.bad - bad,
        )
        self._booked = [one for one in booked if one.in_flight or one.unchecked]
        return recent, over

    def _forget(self, now: float) -> None:
        """Puts together what was booked before the last minute: no window looks at when."""
        if len(self._booked) < 2 and (not self._booked or self._booked[0].at == -math.inf):
            return
        old = [one for one in self._booked if one.at < now - WINDOW_S]
        if old and (len(old) > 1 or old[0].at > -math.inf):
            together = _Booked(-math.inf, sum(o.in_flight for o in old), sum(o.unchecked for o in old))
            self._booked = [together, *self._booked[len(old) :]]
