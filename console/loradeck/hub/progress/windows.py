"""Sliding windows over the last minute: the six counts of requests, per release and per replica."""

from dataclasses import dataclass, field
from itertools import zip_longest

from loradeck.schemas.counts import NO_COUNTS, Counts
from loradeck.schemas.traffic import TTFT_BUCKETS_MS

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
