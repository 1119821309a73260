"""Counters by (tenant, route, generation, release, replica). They only grow while the router runs."""

import time
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from loradeck.rules.serving.deprecation import note
from loradeck.schemas.counts import TOKEN_BUCKETS_MS, TTFT_BUCKETS_MS, Traffic
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.judge import JUDGE, Judgement
from loradeck_agent.router.overdue import OverdueUnits, RouteDurations
from loradeck_agent.router.response_checks import Verdict
from loradeck_agent.router.trace import Row
from loradeck_agent.router.votes import Outcomes, Pairs, Votes

_KEPT_PER_ROUTE = 256
"""Counters of the oldest generations of a route are let go beyond this many, so that memory stays bounded."""

_FEWEST_EVENTS = 10
"""Events of a stream below which its pace says nothing: the first and the last ones carry no token."""


_PLAIN = (
    "tenant",
    "route",
    "generation",
    "release",
    "replica",
    "attempted",
    "refused",
    "admitted",
    "finished",
    "checked",
    "bad",
    "streams",
    "first_ms",
    "last_admitted_ms",
    "last_token_ms",
    "tokens",
)
"""Names of the fields that a counter has unchanged in the report to the hub."""

End = Literal["answered", "given_up", "failed", "taken_back"]
"""How an admitted request ended. Every one ends in exactly one of these, or is in flight.

answered: completely, or refused by the engine for what the request itself holds; it counts as finished.
given_up: its caller left while an answer was still to be expected; it counts as finished.
failed: the engine or the way to it failed.
taken_back: its release was left and its route cuts; it counts as refused there, and again where it goes on.
"""


@dataclass(slots=True)
class Counter:
    """What became of the requests to one release on one replica, under one generation of a pointer.

    Plain integers, which are counted up in the path of every request; `typed` gives them as they are reported.
    """

    tenant: str
    route: str
    generation: int
    release: str
    replica: str
    attempted: int = 0
    refused: int = 0
    admitted: int = 0
    failed: int = 0
    finished: int = 0
    checked: int = 0
    bad: int = 0
    streams: int = 0
    first_ms: int = 0
    last_admitted_ms: int = 0
    last_token_ms: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    """The bad answers by the check that they failed."""
    noticed: dict[str, int] = field(default_factory=dict)
    """Answers by the checks that they failed which make none bad."""
    asked: dict[str, int] = field(default_factory=dict)
    """Checked answers by the plug-ins that have looked at them."""
    by_judge: dict[str, int] = field(default_factory=dict)
    """Checked answers by what came of asking the judge."""
    places: set[int] = field(default_factory=set)
    """The places of the keys that asked for a candidate's pointer, of either arm."""
    ttft: list[int] = field(default_factory=lambda: [0] * (len(TTFT_BUCKETS_MS) + 1))
    pace: list[int] = field(default_factory=lambda: [0] * (len(TOKEN_BUCKETS_MS) + 1))
    durations: RouteDurations = field(default_factory=RouteDurations)
    """How long the answers of its route take, which all counters of the route share."""
    votes: Votes = field(default_factory=Votes)
    overdue: OverdueUnits = field(default_factory=OverdueUnits)
    arm: Outcomes | None = None
    """Outcomes of the requests whose arm chance chose, while a candidate is out; None: there were none."""
    pairs: Pairs | None = None
    """Pairs of its answers and those of another release to the same requests; None: none was asked again."""
    noise: Pairs | None = None
    """Pairs of its own answers to requests that it was asked twice; None: it was asked none twice."""
    tokens: int = 0
    called_by: dict[str, int] | None = None
    """The callers of a deprecated release of late, and when each asked last; None: it is not deprecated."""

    def pairs_with(self, other: str, *, shadow: bool = False) -> Pairs:
        """The pairs with another release, which begin anew where that is another one than before, or with itself."""
        if other == self.release:
            self.noise = self.noise or Pairs(other, shadow=True)
            return self.noise
        if self.pairs is None or self.pairs.release != other:
            self.pairs = Pairs(other, shadow=shadow)
        return self.pairs

    def admit(self, row: Row, caller: str, tokens: int = 0) -> None:
        """A request was admitted. `caller`: who asked, the digest of the key first. `tokens`: as limits count them."""
        self.attempted += 1
        self.admitted += 1
        self.tokens += tokens
        self.streams += 1
        self.first_ms = self.first_ms or row.admitted_ms
        self.last_admitted_ms = row.admitted_ms
        if self.called_by is not None:
            note(self.called_by, caller, row.admitted_ms)
        if row.voter:
            row.bin = self.votes.admitted(row.admitted_ns, caller, sampled=row.sampled, asked=row.asked)
            row.overdue_ns = self.durations.of(streamed=row.streamed).admitted(row.admitted_ns)
            if row.overdue_ns:
                self.overdue.admitted(row.admitted_ns, row.overdue_ns)
        if row.seat is not None:
            self.arm = self.arm or Outcomes()
            self.arm.admitted(row.seat, voter=row.voter, sampled=row.sampled)

    def refuse(self) -> None:
        """A request was refused: no engine was asked."""
        self.attempted += 1
        self.refused += 1

    def first_token(self, row: Row) -> None:
        """The first bytes of a streamed answer came."""
        self.ttft[bisect_left(TTFT_BUCKETS_MS, (row.first_token_ns - row.admitted_ns) / 1e6)] += 1

    def leave(self, row: Row, end: End) -> None:
        """A request that was admitted is over, in exactly one of three ways."""
        self.streams -= 1
        if row.voter:
            self.votes.ended(row.admitted_ns, row.bin, failed=end == "failed")
            self._time(row, end)
        if end == "failed":
            self.failed += 1
            if row.voter and row.seat is not None and self.arm is not None:
                self.arm.failed(row.seat)
        elif end == "taken_back":
            self.refused += 1
        else:
            self.finished += 1
            if end == "answered":
                self.last_token_ms = row.wall_ms(row.finished_ns)
                if row.events >= _FEWEST_EVENTS:
                    mean_ms = (row.finished_ns - row.first_token_ns) / (row.events - 2) / 1e6
                    self.pace[bisect_left(TOKEN_BUCKETS_MS, mean_ms)] += 1

    def _time(self, row: Row, end: End) -> None:
        """Counts how long a unit took, and that it was not overdue."""
        durations = self.durations.of(streamed=row.streamed)
        if end == "answered" and row.status == 200:
            durations.answered(row.admitted_ns, row.finished_ns)
        else:
            durations.broken_off()
        if row.finished_ns < row.overdue_ns:
            if end in ("given_up", "taken_back"):
                self.overdue.left(row.overdue_ns)
            else:
                self.overdue.in_time(row.overdue_ns)

    def judged(self, row: Row, verdict: Verdict, plugins: Iterable[str] = ()) -> None:
        """Counts the verdict of the checks on a request's answer. `plugins`: the plug-ins that have looked at it."""
        row.checked, row.fault = True, verdict.fault
        self.checked += 1
        for name in plugins:
            self.asked[name] = self.asked.get(name, 0) + 1
        for name in verdict.noticed:
            self.noticed[name] = self.noticed.get(name, 0) + 1
        if verdict.noticed and row.voter:
            self.votes.noticed(row.admitted_ns, verdict.noticed)
        if not verdict.fault:
            return
        self.bad += 1
        self.faults[verdict.fault] = self.faults.get(verdict.fault, 0) + 1
        if row.voter:
            self.votes.bad(row.admitted_ns, row.bin)
            if row.seat is not None and self.arm is not None:
                self.arm.bad(row.seat)

    def judge_said(self, row: Row, what: Judgement) -> None:
        """The judge was to be asked of an answer that was checked, and this came of it."""
        row.judge = what
        self.by_judge[what] = self.by_judge.get(what, 0) + 1
        if what is Judgement.FAILED:
            self.noticed[JUDGE] = self.noticed.get(JUDGE, 0) + 1
            if row.voter:
                self.votes.noticed(row.admitted_ns, (JUDGE,))

    def typed(self) -> Traffic:
        """The counter as it is reported to the hub."""
        return Traffic(
            **{name: getattr(self, name) for name in _PLAIN},
            errors=self.failed,
            faults=dict(self.faults),
            noticed=dict(self.noticed),
            judged=dict(self.by_judge),
            asked=dict(self.asked),
            keys=len(self.places),
            ttft_ms=tuple(self.ttft),
            token_ms=tuple(self.pace),
            **self.votes.reported()._asdict(),
            callers=len(self.votes.callers),
            overdue_votes=self.overdue.decided(time.monotonic_ns()),
            overdue_ms=self.durations.overdue_ms,
            arm=self.arm.typed() if self.arm is not None else None,
            again=self.pairs.typed() if self.pairs is not None else None,
            noise=self.noise.typed() if self.noise is not None else None,
            called_by=dict(self.called_by or ()),
        )


class Stats:
    """All counters of this router, bounded in number per route."""

    def __init__(self) -> None:
        self._by_route: dict[PointerKey, dict[tuple[int, str, str], Counter]] = {}
        self._durations: dict[PointerKey, RouteDurations] = {}
        self._gone: dict[PointerKey, int] = {}
        """Requests of the counters that were let go."""

    def counter(self, tenant: str, route: str, generation: int, release: str, replica: str) -> Counter:
        """The counter of one release on one replica, made at first use."""
        of_route = self._by_route.setdefault((tenant, route), {})
        key = (generation, release, replica)
        found = of_route.pop(key, None)
        if found is None:
            durations = self._durations.setdefault((tenant, route), RouteDurations())
            found = Counter(tenant, route, generation, release, replica, durations=durations)
        of_route[key] = found  # the newest asked for stands last, and is let go last
        self._let_go((tenant, route), of_route)
        return found

    def refusals(self, tenant: str, route: str, generation: int, release: str, replica: str) -> Counter:
        """The counter for requests that are refused on their way to a release.

        `replica`: the engine that should have answered; "": none is known yet. What is counted until one is known is
        then counted there.
        """
        found = self.counter(tenant, route, generation, release, replica)
        nameless = self._by_route[tenant, route].pop((generation, release, ""), None) if replica else None
        if nameless is not None:
            found.attempted += nameless.attempted
            found.refused += nameless.refused
        return found

    def traffic(self) -> list[Traffic]:
        """Counters that have ever counted, on engines that are known."""
        return [
            counter.typed()
            for of_route in self._by_route.values()
            for counter in of_route.values()
            if (counter.attempted or counter.places) and counter.replica
        ]

    def attempted(self) -> dict[PointerKey, int]:
        """Counts how often each pointer was asked for."""
        routes = self._by_route.items()
        return {key: self._gone.get(key, 0) + sum(c.attempted for c in counters.values()) for key, counters in routes}

    def answering(self) -> dict[str, set[str]]:
        """The releases that answer somebody now, by replica."""
        answering: dict[str, set[str]] = {}
        for of_route in self._by_route.values():
            for counter in of_route.values():
                if counter.streams:
                    answering.setdefault(counter.replica, set()).add(counter.release)
        return answering

    def _let_go(self, key: PointerKey, of_route: dict[tuple[int, str, str], Counter]) -> None:
        spare = len(of_route) - _KEPT_PER_ROUTE
        if spare > 0:
            for one in [one for one, c in of_route.items() if not c.streams][:spare]:
                self._gone[key] = self._gone.get(key, 0) + of_route.pop(one).attempted
