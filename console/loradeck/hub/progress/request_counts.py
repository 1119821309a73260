"""The routers' counters, added up: for each release on a pointer, for each replica, and over the last minute.

Routers send counters that only grow since the router started, so a lost report loses nothing. A counter that
this hub sees for the first time from a router that was already running when the hub started is a baseline:
what it counted before was flushed by the hub's last life and is not counted a second time.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import attrgetter, sub
from types import MappingProxyType
from typing import NamedTuple

from loradeck.hub.progress.windows import WINDOW_S, Bookings, Recent, Window, added
from loradeck.rules.quality.health import Units, total, units_of
from loradeck.schemas.counts import FAULTS, NO_COUNTS, AskedAgain, Counts, Traffic
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.link import belongs
from loradeck.store.interface import Served

log = logging.getLogger("loradeck.hub.progress.request_counts")

Stint = tuple[int, str]
"""(generation, release)"""


class CounterReading(NamedTuple):
    """The newest reading of one counter. As the model it came in it would take 3 kB, for each of thousands."""

    counts: Counts = NO_COUNTS
    admitted: int = 0
    streams: int = 0
    last_admitted_ms: int = 0
    last_token_ms: int = 0
    keys: int = 0
    tokens: int = 0
    ttft_ms: tuple[int, ...] = ()
    token_ms: tuple[int, ...] = ()
    faults: Mapping[str, int] = MappingProxyType({})
    noticed: Mapping[str, int] = MappingProxyType({})
    judged: Mapping[str, int] = MappingProxyType({})
    asked: Mapping[str, int] = MappingProxyType({})
    again: AskedAgain | None = None
    noise: AskedAgain | None = None
    overdue_votes: tuple[tuple[int, int, int], ...] = ()
    """A counter in which nothing else changes may have them: all that is asked hangs."""

    @classmethod
    def of(cls, row: Traffic) -> CounterReading:
        """The fields of a wire row."""
        return cls._make(_counted(row))


class CheckFigures(NamedTuple):
    """Answers by the checks that they failed: that made them bad, and that make none bad; and by what came of asking
    the judge.
    """

    faults: dict[str, int]
    noticed: dict[str, int]
    judged: dict[str, int]
    asked: dict[str, int]


_counted = attrgetter(*CounterReading._fields)

NOTHING = CounterReading()

CountedRow = Callable[[Traffic, Counts, tuple[int, ...], tuple[int, ...]], str]
"""Takes a row of a report, what its counts have grown by, and what each bucket of its histograms has grown by: of times
to first token, and of times between tokens.
"""

MOST_STINTS = 256
"""Stints of one replica on a pointer of which readings are noted that do not count; a router keeps as many."""

MOST_NODES, MOST_NEIGHBOURS, MOST_ROUTES = 8, 50, 4
"""Nodes, other tenants on each of their replicas, and routes of each that `RequestCounts.neighbours` reads: it is asked
in each second while something is wrong."""

LARGEST = 2**53
"""No router counts further: what is larger is no count, and no database holds it."""


def figures_fault(row: Traffic, read: CounterReading, before: CounterReading, node: str) -> str:
    """Why a node's figures are not counted; "" if they add up.

    `before`: the reading before this one since the router started.
    """
    counts, known = read.counts, before.counts
    if not belongs(row.replica, node):
        return f"it counts for {row.replica}, which is not on this node"
    if not counts.adds_up or not 0 <= read.admitted <= LARGEST or counts.attempted > LARGEST:
        return f"{counts} do not add up"
    if (
        counts.attempted < known.attempted
        or counts.refused < known.refused
        or counts.failed < known.failed
        or counts.finished < known.finished
        or counts.checked < known.checked
        or counts.bad < known.bad
    ):
        return f"{counts} are less than {known} before"
    if sum(read.faults.values()) > counts.bad or not _grew(read.faults, before.faults):
        return f"the checks that answers failed do not add up to {counts.bad} bad ones"
    if max(read.noticed.values(), default=0) > counts.checked or not _grew(read.noticed, before.noticed):
        return f"the checks that answers failed do not add up to {counts.checked} checked ones"
    if max(read.asked.values(), default=0) > counts.checked or not _grew(read.asked, before.asked):
        return f"the answers that checks were asked of do not add up to {counts.checked} checked ones"
    if sum(read.judged.values()) > counts.checked or not _grew(read.judged, before.judged):
        return f"the answers that were to be judged do not add up to {counts.checked} checked ones"
    return ""


def _grew(read: Mapping[str, int], before: Mapping[str, int]) -> bool:
    return all(n >= before.get(name, 0) for name, n in read.items())


@dataclass(slots=True)
class Counter:
    """One (pointer, generation, release, replica). Totals span restarts of the router."""

    release: str
    generation: int
    replica: str
    node: str
    boot: str = ""
    seen: float = 0.0
    """When its router last reported it, on the hub's monotonic clock, seconds."""
    last: CounterReading | None = None
    bookings: Bookings = field(default_factory=Bookings)
    admitted: int = 0
    counts: Counts = NO_COUNTS
    faults: dict[str, int] = field(default_factory=dict)
    noticed: dict[str, int] = field(default_factory=dict)
    judged: dict[str, int] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)
    streams: int = 0
    last_admitted_ms: int = 0
    last_token_ms: int = 0
    keys: int = 0
    mark: tuple[int, int] | None = None
    """(time of a flip, `admitted` when first looked at after it), to count what came in too late."""


class RequestCounts:
    """All counters of the fleet, and the totals that outlive the hub."""

    def __init__(self, served: Iterable[Served], known_boots: dict[str, str], started: float) -> None:
        self._counters: dict[PointerKey, dict[str, dict[Stint, Counter]]] = defaultdict(dict)
        """Pointer -> replica -> its counters there: a row needs those of each of a thousand replicas."""
        self._windows: dict[PointerKey, dict[Stint, Window]] = defaultdict(dict)
        """The last minute of a pointer's stints, over all replicas."""
        self._replicas: dict[str, Window] = defaultdict(Window)
        """The last minute of a replica, over all pointers."""
        self._first_tokens: dict[str, tuple[float, float | None]] = {}
        """Replica -> what `first_token_s` last said, and at which report: a thousand rows ask it of one replica."""
        self._shares: dict[str, dict[PointerKey, Window]] = defaultdict(dict)
        """The last minute of one pointer on one replica: replica -> pointer -> window."""
        self._totals: dict[PointerKey, dict[str, Served]] = defaultdict(dict)
        self._live: dict[PointerKey, dict[Stint, Counts]] = defaultdict(dict)
        """The counts of a pointer's stints since each began, over all replicas."""
        self._pending: dict[tuple[str, str, str], Served] = {}
        self.boots = dict(known_boots)
        self._faults: dict[str, str] = {}
        self._met: dict[str, float] = {}
        self._started = self._now = self._swept = started
        for s in served:
            self._totals[s.tenant, s.route][s.release] = s

    def report(
        self,
        node: str,
        boot: str,
        rows: Iterable[Traffic],
        now: float,
        unserved: Callable[[Traffic], str] = lambda row: "",
        counted: CountedRow = lambda row, growth, ttft, pace: "",
    ) -> set[PointerKey]:
        """Adds a router's counters, at monotonic `now`. Returns the pointers on which something changed.

        Args:
            counted: called with each row that has changed and counts in the last minute. It returns why some of what
                it was given counts nowhere; "" if all counts.
            unserved: why a node serves nothing that a row could count; "" if it does. Such a row counts nowhere, and
                what it counted until now never will.
        """
        changed: set[PointerKey] = set()
        baseline = self.boots.get(node) == boot and node not in self._met
        self.boots[node] = boot
        since = now - self._met.get(node, now)
        self._met[node] = self._now = now
        by_replica: dict[tuple[str, float], Counts] = {}
        first_tokens: dict[str, tuple[int, ...]] = {}
        faults: list[str] = []
        for row in rows:
            found = self._count(row, node, boot, now, since, faults, unserved, counted, baseline=baseline)
            if found is None:
                continue
            parts, grown = found
            changed.add((row.tenant, row.route))
            if grown:
                first_tokens[row.replica] = added(first_tokens.get(row.replica, ()), grown)
            for at, part in parts:
                by_replica[row.replica, at] = by_replica.get((row.replica, at), NO_COUNTS) + part
        for (replica, at), counts in by_replica.items():
            self._replicas[replica].put(at, counts)
        for replica, grown in first_tokens.items():
            self._replicas[replica].put(now, NO_COUNTS, grown)
        if now - self._swept > WINDOW_S:
            self._forget_idle_replicas(now)
        fault = faults[0] if faults else ""
        if fault and fault != self._faults.get(node):
            log.error("figures held back node=%s %s", node, fault)
        self._faults[node] = fault
        return changed

    def _forget_idle_replicas(self, now: float) -> None:
        """Forgets the last minute of replicas that had nothing in it: names of engines come and go for as long as the
        hub runs. Their shares go with them, since one is taken from the other.
        """
        self._swept = now
        for replica in self._replicas.keys() | self._shares.keys():
            window = self._replicas.get(replica)
            if window is not None:
                window.prune(now)
            if window is None or not window.slices:
                for of_replica in (self._replicas, self._shares, self._first_tokens):
                    of_replica.pop(replica, None)

    def fault(self, node: str) -> str:
        """Why figures in a node's last report were held back, in one line; "" if all of them add up."""
        return self._faults.get(node, "")

    def _count(
        self,
        row: Traffic,
        node: str,
        boot: str,
        now: float,
        since: float,
        faults: list[str],
        unserved: Callable[[Traffic], str],
        counted: CountedRow,
        *,
        baseline: bool,
    ) -> tuple[list[tuple[float, Counts]], tuple[int, ...]] | None:
        """Adds a row. Returns its parts of the last minute, by time, and what its buckets of times to first token have
        grown by; None when nothing has changed.

        Args:
            since: seconds since this router's last report.
            faults: where to note that the row is held back, and why.
        """
        stint = (row.generation, row.release)
        counters = self._counters[row.tenant, row.route].setdefault(row.replica, {})
        counter = counters.get(stint) or Counter(row.release, row.generation, row.replica, node)
        read = CounterReading.of(row)
        known = counter.last if counter.boot == boot else None
        before = known or NOTHING
        if known != read and (fault := figures_fault(row, read, before, node)):
            faults.append(f"figures of {row.tenant}/{row.route} are not counted: {fault}")
            if counter.node == node:
                counter.seen = now  # its router has it still: forgotten now, it would later be counted twice
            return None
        if known != read and (fault := unserved(row)):
            faults.append(f"figures of {row.tenant}/{row.route} are not counted: {fault}")
            if stint in counters or len(counters) < MOST_STINTS:
                counters[stint] = counter
                counter.last, counter.boot, counter.seen = read, boot, now
            return None
        counters[stint] = counter
        if known is None:
            counter.bookings = Bookings(read.counts.in_flight if baseline else 0)
        counter.last, counter.boot, counter.seen = read, boot, now
        if known == read:
            return None
        growth = read.counts - before.counts
        counter.admitted += read.admitted - before.admitted
        counter.counts += growth
        for sums, now_, then in (
            (counter.faults, read.faults, before.faults),
            (counter.noticed, read.noticed, before.noticed),
            (counter.judged, read.judged, before.judged),
            (counter.asked, read.asked, before.asked),
        ):
            for name, n in now_.items():
                if name in sums or len(sums) < FAULTS:  # a node may send others each time
                    sums[name] = sums.get(name, 0) + n - then.get(name, 0)
        live = self._live[row.tenant, row.route]
        live[stint] = live.get(stint, NO_COUNTS) + growth
        counter.streams = row.streams
        counter.last_admitted_ms = max(counter.last_admitted_ms, row.last_admitted_ms)
        counter.last_token_ms = max(counter.last_token_ms, row.last_token_ms)
        counter.keys = max(counter.keys, row.keys)
        if baseline:
            return [], ()
        recent = min(1.0, WINDOW_S / max(since, 1.0))
        grown = _grown(row.ttft_ms, before.ttft_ms, recent)
        if fault := counted(row, growth, grown, _grown(row.token_ms, before.token_ms, recent)):
            faults.append(fault)
        parts, over = counter.bookings.book(now, growth, since)
        window = self._windows[row.tenant, row.route].setdefault(stint, Window())
        share = self._shares[row.replica].setdefault((row.tenant, row.route), Window())
        for at, part in parts:
            window.put(at, part)
            share.put(at, part)
        if grown:
            window.put(now, NO_COUNTS, grown)
        if over:
            self._add_total(Served(tenant=row.tenant, route=row.route, release=row.release, counts=over))
        return parts, grown

    def _add_total(self, delta: Served) -> None:
        key = (delta.tenant, delta.route)
        known = self._totals[key].get(delta.release)
        self._totals[key][delta.release] = delta if known is None else known + delta
        self._put_pending(delta)

    def _put_pending(self, delta: Served) -> None:
        name = (delta.tenant, delta.route, delta.release)
        pending = self._pending.get(name)
        self._pending[name] = delta if pending is None else pending + delta

    def left(self, key: PointerKey, release: str, seconds: float, keep: int) -> None:
        """Ends the stint of a release that was current on a pointer for so many seconds.

        Counters of generations before `keep` are forgotten once their last minute is over and no router reports them
        any more: one that was forgotten earlier would be counted again.
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
        """Tells whether its router's last report had it: a report has all that its router still counts."""
        return counter.boot == self.boots.get(counter.node) and counter.seen >= self._met.get(counter.node, 0.0)

    def take_pending(self) -> list[Served]:
        """The totals that are not in the store yet. The caller writes them, or gives them back."""
        pending, self._pending = list(self._pending.values()), {}
        return pending

    def give_back(self, deltas: Iterable[Served]) -> None:
        """Takes back totals that could not be written: the next flush has them."""
        for delta in deltas:
            self._put_pending(delta)

    # ---- what rows are made of -----------------------------------------------------------------------------

    def total(self, key: PointerKey, release: str) -> Served:
        """The total of a release on a pointer, without the seconds of its current stint."""
        totals = self._totals.get(key, {})
        return totals.get(release) or Served(tenant=key[0], route=key[1], release=release)

    def counters(self, key: PointerKey) -> Iterator[Counter]:
        """Lists all counters of a pointer."""
        for counters in self._counters.get(key, {}).values():
            yield from counters.values()

    def _of_stint(self, key: PointerKey, generation: int, release: str) -> Iterator[Counter]:
        stint = (generation, release)
        return (found[stint] for found in self._counters.get(key, {}).values() if stint in found)

    def live(self, key: PointerKey, generation: int, release: str) -> dict[str, Counts]:
        """Replica -> the answers of the release there in this generation."""
        return {counter.replica: counter.counts for counter in self._of_stint(key, generation, release)}

    def live_total(self, key: PointerKey, generation: int, release: str) -> Counts:
        """The answers of the release on all replicas in this generation."""
        return self._live.get(key, {}).get((generation, release), NO_COUNTS)

    def faults(self, key: PointerKey, generation: int, release: str) -> CheckFigures:
        """The release's answers in this generation by the checks that they failed, most of them first."""
        found = list(self._of_stint(key, generation, release))
        return CheckFigures(*(_summed(getattr(one, part) for one in found) for part in CheckFigures._fields))

    def minute(self, key: PointerKey, generation: int, release: str, now: float) -> Counts:
        """The counts of a release's last minute in one generation, on all replicas."""
        window = self._windows.get(key, {}).get((generation, release))
        return window.sum(now) if window is not None else NO_COUNTS

    def recent(self, key: PointerKey, generation: int, release: str, now: float) -> Recent:
        """The last minute of a release in one generation, on all replicas, with its times to first token."""
        seconds = max(1.0, min(WINDOW_S, now - self._started))
        window = self._windows.get(key, {}).get((generation, release))
        return window.recent(now, seconds) if window is not None else Recent(seconds=seconds)

    def others(self, key: PointerKey, replicas: Iterable[str], now: float) -> Counts:
        """The last minute of some replicas on all pointers but this one."""
        sums = NO_COUNTS
        for replica in set(replicas):
            if replica in self._replicas:
                sums += self._replicas[replica].sum(now)
            if (share := self._shares.get(replica, {}).get(key)) is not None:
                sums -= share.sum(now)
        assert sums.adds_up, sums
        return sums

    def neighbours(
        self, tenant: str, replicas: Iterable[tuple[str, str]], figure: str, now: float
    ) -> dict[str, dict[str, Units]]:
        """Node -> other tenant -> its units of the last minute on some replicas of that node.

        They are a sample where there are many: on the first `MOST_NODES` nodes, of each replica `MOST_NEIGHBOURS`
        tenants, by `MOST_ROUTES` routes of each.

        Args:
            tenant: the one whose neighbours they are.
            replicas: (node, replica) of each.
            figure: of which units, 'bad' or 'errors'.
        """
        by_node: dict[str, dict[str, Units]] = {}
        for node, replica in replicas:
            if node not in by_node and len(by_node) == MOST_NODES:
                continue
            tenants = by_node.setdefault(node, {})
            for other, units in self._neighbours_on(replica, tenant, figure, now).items():
                tenants[other] = total((tenants[other], units)) if other in tenants else units
        return by_node

    def _neighbours_on(self, replica: str, tenant: str, figure: str, now: float) -> dict[str, Units]:
        """Returns the units of other tenants on one replica.

        Pointers that had none in the last minute are forgotten on the way, so that a look does not go through all that
        were ever there.
        """
        shares, over = self._shares.get(replica, {}), list[PointerKey]()
        by_tenant, routes = dict[str, Units](), dict[str, int]()
        for key, share in shares.items():
            other = key[0]
            if other == tenant or routes.get(other) == MOST_ROUTES:
                continue
            counts = share.sum(now)
            if not share.slices:
                over.append(key)
                continue
            units = units_of(counts, figure)
            if other in by_tenant:
                units = total((by_tenant[other], units))
            elif len(by_tenant) == MOST_NEIGHBOURS:
                break
            by_tenant[other], routes[other] = units, routes.get(other, 0) + 1
        for key in over:
            del shares[key]
        return by_tenant

    def first_token_s(self, replica: str) -> float | None:
        """The 95th percentile of the times to first token of a replica's last minute, on all pointers, seconds.

        A router counts from the moment it admits a request, so no wait for a load is in it. None: nothing was answered.
        """
        at, seconds = self._first_tokens.get(replica, (None, None))
        if at != self._now and replica in self._replicas:
            ms = self._replicas[replica].recent(self._now, WINDOW_S).ttft95_ms
            seconds = None if ms is None else ms / 1000
            self._first_tokens[replica] = (self._now, seconds)
        return seconds

    def keys(self, key: PointerKey, generation: int, release: str) -> dict[str, int]:
        """Node -> different keys that asked for a candidate's pointer, at least: the most that it has counted."""
        by_node = dict[str, int]()
        for counter in self._of_stint(key, generation, release):
            by_node[counter.node] = max(by_node.get(counter.node, 0), counter.keys)
        return by_node

    def tokens_a_request(self, key: PointerKey, generation: int, release: str) -> float | None:
        """The mean tokens of a request to a release, as limits count them; None: no router has counted any."""
        tokens, admitted = 0, 0
        for counter in self._of_stint(key, generation, release):
            if (read := counter.last) is not None and 0 < read.tokens <= LARGEST:
                tokens, admitted = tokens + read.tokens, admitted + read.admitted
        return tokens / admitted if admitted else None

    def late(self, key: PointerKey, generation: int, replica: str, flipped_ms: int) -> int:
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


def _grown(now: tuple[int, ...], before: tuple[int, ...], part: float) -> tuple[int, ...]:
    """A part (0 to 1) of the growth of each bucket; () where none has grown."""
    if now == before:
        return ()
    grown = map(sub, now, before + (0,) * (len(now) - len(before)))
    return tuple(grown) if part == 1.0 else tuple(round(n * part) for n in grown)


def _summed(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Sums by name, the largest first, as many as there may be."""
    sums: dict[str, int] = {}
    for part in parts:
        for name, n in part.items():
            sums[name] = sums.get(name, 0) + n
    return dict(sorted(sums.items(), key=lambda one: (-one[1], one[0]))[:FAULTS])
