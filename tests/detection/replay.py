"""Generated requests as routers and the hub see them: the product's own counters, votes and rule of causes.

Time is simulated. Routers are `Repetitions` and `Counter`, one of each a node, and they report at the end of each
second in which something was asked, ended or was decided, a moment after it. The hub is `Votes` with a fleet of 10,000
tenants, and `decide` on the window that `ReleaseHealth.verdict` puts together, without a release that is asked again.
Each node has one engine, which makes a step in each second in which an answer is under way that will end. A node looks
at its engine's steps as `Liveness` does, and a request for one token is not answered where no other is.
A body's number stands for its bytes: equal numbers have equal bytes, and different ones different bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray
from tests.detection.delays import FLEET
from tests.detection.traffic.generator import Requests

from loradeck.hub.progress.flags import DOUBT_S
from loradeck.hub.progress.votes import Raised, Votes
from loradeck.rules.quality.cause import Verdict as Cause
from loradeck.rules.quality.cause import Window, decide
from loradeck.rules.quality.detection import Limits
from loradeck.rules.serving.engine_steps import PROBE_S, StepWatch
from loradeck.schemas.counts import NO_COUNTS, Traffic
from loradeck.schemas.flag import FlagCause
from loradeck.schemas.ids import PointerKey
from loradeck_agent.router.counters import Counter
from loradeck_agent.router.overdue import RouteDurations
from loradeck_agent.router.response_checks import Verdict
from loradeck_agent.router.trace import Row
from loradeck_agent.router.votes import Repetitions
from loradeck_agent.serving.liveness import LOOK_S

ROUTE = "production"
BEGINNING_S = 1_000
"""Seconds that clocks show at the beginning of the generated time."""

Durations = dict[int, RouteDurations]
"""Node -> what its router knows of the durations of a route's answers."""

GOOD, BAD = Verdict(), Verdict(fault="empty")


def release_of(generation: int) -> str:
    """The digest of the release that a generation of a pointer has."""
    return f"{generation:064x}"


@dataclass
class Flag:
    """A flag: the second in which it was raised, what it speaks of, and its causes in the order of their decision.

    `ended`: the second in which it was over; None: not in the time that was replayed. Seconds are the generator's.
    """

    at: int
    raised: Raised
    causes: list[tuple[int, FlagCause]] = field(default_factory=list)
    ended: int | None = None

    def cause(self, seconds: float = DOUBT_S) -> FlagCause:
        """The cause that the flag has so many seconds after it was raised. What is unknown takes no other's place."""
        known = [cause for at, cause in self.causes if at <= self.at + seconds and cause is not FlagCause.UNKNOWN]
        return known[-1] if known else FlagCause.UNKNOWN

    @property
    def is_about_release(self) -> bool:
        """Whether the release was ever its cause, which is what rules a release out."""
        return any(cause is FlagCause.RELEASE for _, cause in self.causes)


@dataclass
class _Tenant:
    key: PointerKey
    requests: Requests
    moves: tuple[float, ...]
    durations: Durations
    counters: dict[tuple[int, int], Counter] = field(default_factory=dict)
    due: dict[int, set[tuple[int, int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        part = self.requests
        ends = part.time + part.duration
        self.count = len(part)
        ended = np.flatnonzero(np.isfinite(ends))
        times = np.concatenate([part.time, ends[ended]])
        which = np.concatenate([np.arange(self.count), ended + self.count])
        order = np.argsort(times, kind="stable")
        self.times, self.events = (times[order] + BEGINNING_S).tolist(), which[order].tolist()
        self.seconds = np.floor(times[order]).astype(np.int64)
        self.caller, self.node, self.body = part.caller.tolist(), part.node.tolist(), part.body.tolist()
        self.streamed, self.failed, self.bad = part.streamed.tolist(), part.failed.tolist(), part.bad.tolist()
        self.will_end = np.isfinite(part.duration).tolist()
        self.rows: dict[int, tuple[Row, int]] = {}

    def counter(self, generation: int, node: int) -> Counter:
        """The counter of one release on one node."""
        counter = self.counters.get((generation, node))
        if counter is None:
            durations = self.durations.setdefault(node, RouteDurations())
            counter = self.counters[generation, node] = Counter(
                *self.key, generation, release_of(generation), f"node-{node}", durations=durations
            )
        return counter


def overdue_at(units: Requests, durations: Durations, until: float) -> NDArray[np.float64]:
    """When each unit is overdue (s), inf where never, as routers learn it from what happens before a second.

    What has not ended by then is let go, so that a replay can begin there.
    """
    times = np.concatenate([units.time, units.time + units.duration])
    order = np.argsort(times, kind="stable")
    order = order[times[order] < until]
    count, found = len(units), [math.inf] * len(units)
    for node in set(units.node.tolist()) - durations.keys():
        durations[node] = RouteDurations()
    of_unit = zip(units.node.tolist(), units.streamed.tolist(), strict=True)
    kinds = [durations[node].of(streamed=streamed) for node, streamed in of_unit]
    at_ns = [int((time + BEGINNING_S) * 1e9) if math.isfinite(time) else 0 for time in times.tolist()]
    failed, in_flight = units.failed.tolist(), set[int]()
    for place in order.tolist():
        unit = place % count
        if place < count:
            in_flight.add(unit)
            overdue_ns = kinds[unit].admitted(at_ns[place])
            found[unit] = overdue_ns / 1e9 - BEGINNING_S if overdue_ns else math.inf
        elif failed[unit]:
            kinds[unit].broken_off()
            in_flight.discard(unit)
        else:
            kinds[unit].answered(at_ns[unit], at_ns[place])
            in_flight.discard(unit)
    for unit in in_flight:
        kinds[unit].broken_off()
    return np.array(found)


class Replay:
    """A hub and its nodes. The first tenant is the one whose flags are looked at, the others are its neighbours."""

    def __init__(self, usual: Limits, *, nodes: int, fleet: int = FLEET) -> None:
        self.now_ns = BEGINNING_S * 10**9
        self.flags: list[Flag] = []
        self.silent: dict[int, int] = {}
        """Node -> the second in which it reports for the first time that its engine does not answer."""
        self._nodes = nodes
        self._steps, self._working, self._hung = [0] * nodes, [0] * nodes, [0] * nodes
        self._watches = [StepWatch() for _ in range(nodes)]
        self._votes = Votes(lambda key: usual, lambda: self.now_ns / 1e9)
        self._repetitions = [Repetitions() for _ in range(nodes)]
        self._tenants: list[_Tenant] = []
        # Of the other pointers only their number counts, which sets the level: to report of each would take seconds.
        self._votes._stints.update({(f"idle-{number}", ROUTE): {} for number in range(fleet - 1)})

    def add(
        self,
        requests: Requests,
        *,
        moves: tuple[float, ...] = (),
        durations: Durations | None = None,
    ) -> None:
        """Adds a tenant with what it is asked.

        Args:
            moves: seconds of forward moves: what is admitted from one on is answered by another release.
            durations: node -> what its router knows of the durations of this tenant's answers already.
        """
        name = f"tenant-{len(self._tenants)}"
        self._tenants.append(_Tenant((name, ROUTE), requests, moves, durations or {}))

    def seconds(self, begin: int, end: int) -> Iterator[int]:
        """Lets these seconds pass, and gives each in which something was reported, after the hub has looked at it."""
        with self._clock():
            for second in range(begin, end):
                reported = [counter for tenant in self._tenants for counter in self._pass(tenant, second)]
                self._look_at_engines(second + 1)
                if reported:
                    self.now_ns = (BEGINNING_S + second + 1) * 10**9
                    self._report(reported)
                    self._look(second + 1)
                    yield second + 1

    def overdue_ms(self) -> tuple[int, int]:
        """After how many milliseconds a streamed answer of the first tenant is overdue now, and a whole one.

        As the first node's router knows it; 0: not known.
        """
        return self._tenants[0].durations[0].overdue_ms

    @contextmanager
    def _clock(self) -> Iterator[None]:
        with patch("time.monotonic_ns", lambda: self.now_ns), patch("time.monotonic", lambda: self.now_ns / 1e9):
            yield

    def _look_at_engines(self, second: int) -> None:
        for node, watch in enumerate(self._watches):
            self._steps[node] += self._working[node] > 0
            if (second + node) % LOOK_S:  # nodes look at different seconds
                continue
            is_asked = self._working[node] + self._hung[node] > 0
            if watch.look(float(second), (str(self._steps[node]),), is_asked=is_asked) is not None:
                self.silent.setdefault(node, second + math.ceil(PROBE_S) + 1)

    def _pass(self, tenant: _Tenant, second: int) -> list[Counter]:
        """Admits and ends what a second has of one tenant. Returns the counters that have something to report."""
        changed = tenant.due.pop(second, set())
        first, last = np.searchsorted(tenant.seconds, (second, second + 1))
        for place in range(int(first), int(last)):
            number = tenant.events[place]
            self.now_ns = int(tenant.times[place] * 1e9)
            if number < tenant.count:
                changed.add(self._admit(tenant, number))
            elif number - tenant.count in tenant.rows:
                changed.add(self._end(tenant, number - tenant.count))
        return [tenant.counters[key] for key in sorted(changed)]

    def _admit(self, tenant: _Tenant, number: int) -> tuple[int, int]:
        at_s, node = self.now_ns / 1e9 - BEGINNING_S, tenant.node[number]
        generation = 1 + sum(at_s >= move for move in tenant.moves)
        counter, repetitions = tenant.counter(generation, node), self._repetitions[node]
        caller = f"caller-{tenant.caller[number]}"
        unit = repetitions.unit_of(caller, tenant.key, tenant.body[number].to_bytes(8, "big"))
        row = Row(
            request="",
            tenant=tenant.key[0],
            route=ROUTE,
            release=counter.release,
            generation=generation,
            replica=counter.replica,
            streamed=tenant.streamed[number],
            admitted_ns=self.now_ns,
            admitted_ms=1,
            sampled=True,
            voter=repetitions.is_first(unit),
        )
        counter.admit(row, caller)
        if row.overdue_ns:
            tenant.due.setdefault(-(-row.overdue_ns // 10**9) - BEGINNING_S, set()).add((generation, node))
        tenant.rows[number] = row, unit
        (self._working if tenant.will_end[number] else self._hung)[node] += 1
        return generation, node

    def _end(self, tenant: _Tenant, number: int) -> tuple[int, int]:
        row, unit = tenant.rows.pop(number)
        node, is_failed, is_bad = tenant.node[number], tenant.failed[number], tenant.bad[number]
        counter = tenant.counters[row.generation, node]
        self._working[node] -= 1
        self._steps[node] += 1
        row.finished_ns, row.status = self.now_ns, 500 if is_failed else 200
        counter.leave(row, "failed" if is_failed else "answered")
        if not is_failed:
            counter.judged(row, BAD if is_bad else GOOD)
            if not is_bad:
                self._repetitions[node].answered_well(unit)
        return row.generation, node

    def _report(self, counters: list[Counter]) -> None:
        by_node: dict[str, list[Traffic]] = {}
        for counter in counters:
            by_node.setdefault(counter.replica, []).append(counter.typed())
        for node, rows in by_node.items():
            count = self._votes.counted(node, "boot", rows)
            for row in rows:
                count(row, NO_COUNTS, (), ())

    def _look(self, second: int) -> None:
        """Raises and ends flags, and decides their causes, as `loradeck.hub.progress.flags` does."""
        tenant = self._tenants[0]
        generation = 1 + sum(second > move for move in tenant.moves)
        flag = self.flags[-1] if self.flags and self.flags[-1].ended is None else None
        stint = (generation, release_of(generation))
        raised = self._votes.raised(tenant.key, stint, 0, stands=flag is not None)
        if raised is None:
            if flag is not None:
                flag.ended = second
            return
        if flag is None:
            flag = Flag(second, raised)
            self.flags.append(flag)
        flag.causes.append((second, self._cause(tenant, stint, raised).cause))

    def _cause(self, tenant: _Tenant, stint: tuple[int, str], raised: Raised) -> Cause:
        key, figure, since = tenant.key, raised.figure, raised.since
        placed = {f"node-{node}" for node in range(self._nodes)}
        now = math.floor(self.now_ns / 1e9)
        window = Window(
            figure=figure,
            limit=raised.limit,
            by_node=self._votes.by_node(key, stint, figure, since),
            placed=placed,
            callers=self._votes.callers(key, stint, figure, since),
            neighbours=self._votes.neighbours(key[0], {node: node for node in sorted(placed)}, figure, since),
            age_s=now - since,
            after_move_s=since - BEGINNING_S - tenant.moves[stint[0] - 2] if stint[0] > 1 else None,
            away={
                replica: units.of(figure)
                for replica, units in self._votes.by_replica(key, stint, since).items()
                if units.of(figure)[0]
                and self.silent.get(int(replica.removeprefix("node-")), math.inf) <= now - BEGINNING_S
            },
        )
        return decide(window)
