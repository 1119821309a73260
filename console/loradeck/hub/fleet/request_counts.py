"""What the routers count, added up: per release on a pointer, per replica, and over the last minute.

Routers send counters that only grow since the router started, so a lost report loses nothing. A counter that
this hub sees for the first time from a router that was already running when the hub started is a baseline:
what it counted before was flushed by the hub's last life and is not counted a second time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from operator import attrgetter
from typing import NamedTuple

from loradeck.schemas.link import TTFT_BUCKETS_MS, Traffic
from loradeck.schemas.state import Health
from loradeck.store.interface import Served

Key = tuple[str, str]
"""(tenant, route)"""

Stint = tuple[int, str]
"""(generation, release)"""

WINDOW_S = 60.0
"""How far back 'now' reaches for shares and rates."""

BUCKET_S = 1.0
"""Slices of a window closer than this are added together; each is let go of up to this much early."""

BUCKETS = len(TTFT_BUCKETS_MS) + 1


@dataclass(slots=True)
class Slice:
    """What one report added. `at` is the hub's monotonic clock, seconds."""

    at: float
    finished: int = 0
    errors: int = 0
    checked: int = 0
    bad: int = 0
    ttft: tuple[int, ...] = ()

    def add(self, part: Slice) -> None:
        """All but times to first token."""
        self.finished += part.finished
        self.errors += part.errors
        self.checked += part.checked
        self.bad += part.bad

    def take(self, part: Slice) -> None:
        self.finished -= part.finished
        self.errors -= part.errors
        self.checked -= part.checked
        self.bad -= part.bad

    def within(self, seconds: float) -> Slice:
        """Its part of the last minute, where it adds up more than that: what a router counted without a link."""
        if seconds <= WINDOW_S:
            return self
        part = WINDOW_S / seconds
        checked, finished = round(self.checked * part), round(self.finished * part)
        return Slice(
            self.at,
            finished,
            min(finished, round(self.errors * part)),
            checked,
            min(checked, round(self.bad * part)),
            tuple(round(n * part) for n in self.ttft),
        )


@dataclass
class Recent:
    """Sums of slices; `seconds` is how much of the last minute has been watched."""

    finished: int = 0
    errors: int = 0
    checked: int = 0
    bad: int = 0
    seconds: float = 0.0
    ttft: list[int] = field(default_factory=lambda: [0] * BUCKETS)

    def health(self) -> Health:
        return Health(requests=self.finished, errors=self.errors, checked=self.checked, bad=self.bad)

    @property
    def ttft95_ms(self) -> float | None:
        """Upper bound of the bucket that holds the 95th percentile; None without measurements."""
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
    """Slices of the last minute, and their sum, kept up so that asking for it costs nothing.

    Slices less than `BUCKET_S` apart are one: a thousand replicas report in every second. A list, because there are
    two for each node and an empty deque takes 600 bytes.
    """

    __slots__ = ("_sum", "slices")

    def __init__(self) -> None:
        self.slices: list[Slice] = []
        self._sum = Slice(0.0)

    def put(self, part: Slice) -> None:
        """Takes a slice over; it may be added to later."""
        self.prune(part.at)
        self._sum.add(part)
        if self.slices and part.at - self.slices[-1].at < BUCKET_S:
            last = self.slices[-1]
            last.add(part)
            last.ttft = tuple(map(sum, zip_longest(last.ttft, part.ttft, fillvalue=0)))
        else:
            self.slices.append(part)

    def prune(self, now: float) -> None:
        over = 0
        for part in self.slices:
            if part.at >= now - WINDOW_S:
                break
            self._sum.take(part)
            over += 1
        if over:
            del self.slices[:over]

    def sum(self, now: float) -> Slice:
        """Of the last minute, without times to first token. To be read at once: it goes on."""
        self.prune(now)
        return self._sum

    def recent(self, now: float, seconds: float) -> Recent:
        """The same with them. `seconds`: how much of that minute has been watched."""
        part = self.sum(now)
        sums = Recent(part.finished, part.errors, part.checked, part.bad, seconds)
        for one in self.slices:
            for i, n in enumerate(one.ttft[:BUCKETS]):
                sums.ttft[i] += n
        return sums


class Counted(NamedTuple):
    """What a router said last of one counter. As the model it came in, it would take 3 kB, for each of thousands."""

    admitted: int = 0
    finished: int = 0
    errors: int = 0
    checked: int = 0
    bad: int = 0
    streams: int = 0
    last_admitted_ms: int = 0
    last_token_ms: int = 0
    ttft_ms: tuple[int, ...] = ()

    @classmethod
    def of(cls, row: Traffic) -> Counted:
        return cls._make(_counted(row))


_counted = attrgetter(*Counted._fields)

NOTHING = Counted()


@dataclass(slots=True)
class Counter:
    """One (pointer, generation, release, replica). Totals span restarts of the router."""

    release: str
    generation: int
    replica: str
    node: str
    boot: str = ""
    seen: float = 0.0
    """When its router last reported it, on the hub's monotonic clock."""
    last: Counted | None = None
    admitted: int = 0
    finished: int = 0
    errors: int = 0
    checked: int = 0
    bad: int = 0
    streams: int = 0
    last_admitted_ms: int = 0
    last_token_ms: int = 0
    mark: tuple[int, int] | None = None
    """(time of a flip, `admitted` when first looked at after it), to count what came in too late."""

    def health(self) -> Health:
        return Health(requests=self.finished, errors=self.errors, checked=self.checked, bad=self.bad)


def add(parts: Iterable[Health]) -> Health:
    """The sum of some figures."""
    parts = tuple(parts)
    return Health(
        requests=sum(p.requests for p in parts),
        errors=sum(p.errors for p in parts),
        checked=sum(p.checked for p in parts),
        bad=sum(p.bad for p in parts),
    )


class Counts:
    """All counters of the fleet, and the totals that outlive the hub."""

    def __init__(self, served: Iterable[Served], known_boots: dict[str, str], started: float) -> None:
        self._counters: dict[Key, dict[str, dict[Stint, Counter]]] = defaultdict(dict)
        """Pointer -> replica -> what it has served there: a row asks for each of a thousand replicas."""
        self._windows: dict[Key, dict[Stint, Window]] = defaultdict(dict)
        """The last minute of a pointer's stints, over all replicas."""
        self._replicas: dict[str, Window] = defaultdict(Window)
        """The last minute of a replica, over all pointers."""
        self._shares: dict[Key, dict[str, Window]] = defaultdict(dict)
        """A pointer's part of it, by replica."""
        self._totals: dict[Key, dict[str, Served]] = defaultdict(dict)
        self._live: dict[Key, dict[Stint, list[int]]] = defaultdict(dict)
        """(generation, release) -> finished, errors, checked, bad of all replicas."""
        self._pending: dict[tuple[str, str, str], Served] = {}
        self.boots = dict(known_boots)
        self._met: dict[str, float] = {}
        self._started = self._now = started
        for s in served:
            self._totals[s.tenant, s.route][s.release] = s

    def report(self, node: str, boot: str, rows: Iterable[Traffic], now: float) -> set[Key]:
        """Take in a router's counters; the pointers on which something changed."""
        changed: set[Key] = set()
        baseline = self.boots.get(node) == boot and node not in self._met
        self.boots[node] = boot
        since = now - self._met.get(node, now)
        self._met[node] = self._now = now
        by_replica: dict[str, Slice] = {}
        for row in rows:
            part = self._count(row, node, boot, now, since, baseline=baseline)
            if part is None:
                continue
            changed.add((row.tenant, row.route))
            by_replica.setdefault(row.replica, Slice(now)).add(part)
        for replica, sums in by_replica.items():
            self._replicas[replica].put(sums)
        return changed

    def _count(self, row: Traffic, node: str, boot: str, now: float, since: float, *, baseline: bool) -> Slice | None:
        """What a row adds to the last minute; None when it says nothing new.

        Args:
            since: seconds since this router's last report.
        """
        stint = (row.generation, row.release)
        counters = self._counters[row.tenant, row.route].setdefault(row.replica, {})
        counter = counters.get(stint)
        if counter is None:
            counter = counters[stint] = Counter(row.release, row.generation, row.replica, node)
        said = Counted.of(row)
        known = counter.last if counter.boot == boot else None
        counter.last, counter.boot, counter.seen = said, boot, now
        if known == said:
            return None
        before = known or NOTHING
        part = Slice(
            now,
            row.finished - before.finished,
            row.errors - before.errors,
            row.checked - before.checked,
            row.bad - before.bad,
            _grown(row.ttft_ms, before.ttft_ms),
        )
        counter.admitted += row.admitted - before.admitted
        counter.finished += part.finished
        counter.errors += part.errors
        counter.checked += part.checked
        counter.bad += part.bad
        live = self._live[row.tenant, row.route].setdefault(stint, [0, 0, 0, 0])
        for index, grown in enumerate((part.finished, part.errors, part.checked, part.bad)):
            live[index] += grown
        counter.streams = row.streams
        counter.last_admitted_ms = max(counter.last_admitted_ms, row.last_admitted_ms)
        counter.last_token_ms = max(counter.last_token_ms, row.last_token_ms)
        if baseline:
            return Slice(now)
        recent = part.within(since)
        self._windows[row.tenant, row.route].setdefault(stint, Window()).put(recent)
        share = Slice(now)
        share.add(recent)
        self._shares[row.tenant, row.route].setdefault(row.replica, Window()).put(share)
        if part.finished or part.errors or part.checked:
            self._add_total(
                Served(
                    tenant=row.tenant,
                    route=row.route,
                    release=row.release,
                    requests=part.finished,
                    errors=part.errors,
                    checked=part.checked,
                    bad=part.bad,
                )
            )
        return recent

    def _add_total(self, delta: Served) -> None:
        key, name = (delta.tenant, delta.route), (delta.tenant, delta.route, delta.release)
        self._totals[key][delta.release] = _sum(self._totals[key].get(delta.release), delta)
        self._pending[name] = _sum(self._pending.get(name), delta)

    def left(self, key: Key, release: str, seconds: float, keep: int) -> None:
        """A release was current on a pointer for so many seconds and no longer is.

        What was counted in generations before `keep` is forgotten once their last minute is over, and no router
        reports it any more: one that was forgotten earlier would be counted again.
        """
        self._add_total(Served(tenant=key[0], route=key[1], release=release, seconds=max(0.0, seconds)))
        for counters in self._counters.get(key, {}).values():
            for stint in [s for s, c in counters.items() if s[0] < keep and not self._is_reported(c)]:
                del counters[stint]
        windows = self._windows.get(key, {})
        for stint in [s for s in windows if s[0] < keep]:
            windows[stint].prune(self._now)
            if not windows[stint].slices:
                del windows[stint]
        sums = self._live.get(key, {})
        for stint in [s for s in sums if s[0] < keep]:
            del sums[stint]

    def _is_reported(self, counter: Counter) -> bool:
        """Whether its router's last report had it: a report has all that its router still counts."""
        return counter.boot == self.boots.get(counter.node) and counter.seen >= self._met.get(counter.node, 0.0)

    def take_pending(self) -> list[Served]:
        """What the store has not been told yet; from here on it is the caller's to write."""
        pending, self._pending = list(self._pending.values()), {}
        return pending

    def give_back(self, deltas: Iterable[Served]) -> None:
        """Deltas that could not be written: the next flush has them."""
        for delta in deltas:
            name = (delta.tenant, delta.route, delta.release)
            self._pending[name] = _sum(self._pending.get(name), delta)

    # ---- what rows are made of -----------------------------------------------------------------------------

    def total(self, key: Key, release: str) -> Served:
        """All that a release has answered on a pointer, without the seconds of its current stint."""
        totals = self._totals.get(key, {})
        return totals.get(release) or Served(tenant=key[0], route=key[1], release=release)

    def counters(self, key: Key) -> Iterator[Counter]:
        for counters in self._counters.get(key, {}).values():
            yield from counters.values()

    def live(self, key: Key, generation: int, release: str) -> dict[str, Health]:
        """Replica -> what the release has answered there in this generation."""
        stint = (generation, release)
        replicas = self._counters.get(key, {})
        return {name: counters[stint].health() for name, counters in replicas.items() if stint in counters}

    def live_total(self, key: Key, generation: int, release: str) -> Health:
        """What the release has answered on all replicas in this generation."""
        finished, errors, checked, bad = self._live.get(key, {}).get((generation, release), (0, 0, 0, 0))
        return Health(requests=finished, errors=errors, checked=checked, bad=bad)

    def recent(self, key: Key, generation: int, release: str, now: float) -> Recent:
        """The last minute of a release in one generation, on all replicas."""
        seconds = max(1.0, min(WINDOW_S, now - self._started))
        window = self._windows.get(key, {}).get((generation, release))
        return window.recent(now, seconds) if window is not None else Recent(seconds=seconds)

    def others(self, key: Key, replicas: Iterable[str], now: float) -> Health:
        """The last minute of all that some replicas served, but for this pointer."""
        sums, shares = Slice(now), self._shares.get(key, {})
        for replica in set(replicas):
            if replica in self._replicas:
                sums.add(self._replicas[replica].sum(now))
            if replica in shares:
                sums.take(shares[replica].sum(now))
        return Health(
            requests=max(0, sums.finished),
            errors=max(0, sums.errors),
            checked=max(0, sums.checked),
            bad=max(0, sums.bad),
        )

    def late(self, key: Key, generation: int, replica: str, flipped_ms: int) -> int:
        """Requests a router admitted to another generation after it had acknowledged this one (at its `flipped_ms`).

        Never an estimate: at least 1 where its clock says one came late, and exact from the first report on.
        """
        late = 0
        for counter in self._counters.get(key, {}).get(replica, {}).values():
            if counter.generation == generation:
                continue
            if counter.mark is None or counter.mark[0] != flipped_ms:
                counter.mark = (flipped_ms, counter.admitted)
            if counter.last_admitted_ms > flipped_ms:
                late += max(1, counter.admitted - counter.mark[1])
        return late


def _grown(now: tuple[int, ...], before: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n - (before[i] if i < len(before) else 0) for i, n in enumerate(now))


def _sum(a: Served | None, b: Served) -> Served:
    if a is None:
        return b
    return Served(
        tenant=b.tenant,
        route=b.route,
        release=b.release,
        seconds=a.seconds + b.seconds,
        requests=a.requests + b.requests,
        errors=a.errors + b.errors,
        checked=a.checked + b.checked,
        bad=a.bad + b.bad,
    )
