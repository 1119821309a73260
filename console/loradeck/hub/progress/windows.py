"""Sliding windows over the last minute: requests, errors and bad answers, per release and per replica."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import zip_longest

from loradeck.schemas.counts import NO_COUNTS, Counts
from loradeck.schemas.link import TTFT_BUCKETS_MS

WINDOW_S = 60.0
"""Length of every window, seconds. Shares and rates that are shown as current are taken over it."""

BUCKET_S = 1.0
"""Slices that begin less than this many seconds apart are added together, and so expire together."""

BUCKETS = len(TTFT_BUCKETS_MS) + 1
"""Buckets of the histogram of times to first token. The last one is unbounded."""


@dataclass(slots=True)
class Slice:
    """The growth of counters from one report to the next, in a window.

    `at` is the hub's monotonic clock in seconds, `ttft` the growth of each bucket of the histogram.
    """

    at: float
    counts: Counts = NO_COUNTS
    ttft: tuple[int, ...] = ()

    def within(self, seconds: float) -> Slice:
        """The part of this slice that falls into the last minute, if it was counted evenly over `seconds`.

        A router that had no link for ten minutes reports all ten at once; a tenth of that is the last minute's.
        """
        if seconds <= WINDOW_S:
            return self
        part = WINDOW_S / seconds
        checked, requests = round(self.counts.checked * part), round(self.counts.requests * part)
        counts = Counts(
            requests,
            min(requests, round(self.counts.errors * part)),
            checked,
            min(checked, round(self.counts.bad * part)),
        )
        return Slice(self.at, counts, tuple(round(n * part) for n in self.ttft))


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


class Window:
    """The slices of the last minute and their running sum, so that reading the sum costs nothing.

    Slices less than `BUCKET_S` apart are merged, since a thousand replicas report in every second. They are a list:
    there are two windows for each node, and an empty deque takes 600 bytes.
    """

    __slots__ = ("_sum", "slices")

    def __init__(self) -> None:
        self.slices: list[Slice] = []
        self._sum = NO_COUNTS

    def put(self, part: Slice) -> None:
        """Add a slice. The window keeps it and may add later ones to it."""
        self.prune(part.at)
        self._sum += part.counts
        if self.slices and part.at - self.slices[-1].at < BUCKET_S:
            last = self.slices[-1]
            last.counts += part.counts
            last.ttft = tuple(map(sum, zip_longest(last.ttft, part.ttft, fillvalue=0)))
        else:
            self.slices.append(part)

    def prune(self, now: float) -> None:
        """Drop the slices that are older than the window."""
        over = 0
        for part in self.slices:
            if part.at >= now - WINDOW_S:
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
