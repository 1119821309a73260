"""Counters by (tenant, route, generation, release, replica). They only grow while the router runs."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

from loradeck.schemas.link import TTFT_BUCKETS_MS, Traffic
from loradeck_agent.router.trace import Row

_KEPT_PER_ROUTE = 256
"""Counters of the oldest generations of a route are let go beyond this many, so that memory stays bounded."""


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
    admitted: int = 0
    finished: int = 0
    errors: int = 0
    checked: int = 0
    bad: int = 0
    streams: int = 0
    first_ms: int = 0
    last_admitted_ms: int = 0
    last_token_ms: int = 0
    ttft: list[int] = field(default_factory=lambda: [0] * (len(TTFT_BUCKETS_MS) + 1))

    def admit(self, row: Row) -> None:
        """A request was admitted."""
        self.admitted += 1
        self.streams += 1
        self.first_ms = self.first_ms or row.admitted_ms
        self.last_admitted_ms = row.admitted_ms

    def first_token(self, row: Row) -> None:
        """The first bytes of a streamed answer came."""
        self.ttft[bisect_left(TTFT_BUCKETS_MS, (row.first_token_ns - row.admitted_ns) / 1e6)] += 1

    def leave(self, row: Row, *, finished: bool, error: bool, token: bool) -> None:
        """An answer is over. `token`: the engine's last bytes have just come."""
        self.streams -= 1
        self.finished += finished
        self.errors += error
        if token:
            self.last_token_ms = row.wall_ms(row.finished_ns)

    def judged(self, bad: bool) -> None:
        """An answer was checked."""
        self.checked += 1
        self.bad += bad

    def typed(self) -> Traffic:
        """The counter as it is reported to the hub."""
        return Traffic(
            tenant=self.tenant,
            route=self.route,
            generation=self.generation,
            release=self.release,
            replica=self.replica,
            admitted=self.admitted,
            finished=self.finished,
            errors=self.errors,
            checked=self.checked,
            bad=self.bad,
            streams=self.streams,
            first_ms=self.first_ms,
            last_admitted_ms=self.last_admitted_ms,
            last_token_ms=self.last_token_ms,
            ttft_ms=tuple(self.ttft),
        )


class Stats:
    """All counters of this router, bounded in number per route."""

    def __init__(self) -> None:
        self._by_route: dict[tuple[str, str], dict[tuple[int, str, str], Counter]] = {}

    def counter(self, tenant: str, route: str, generation: int, release: str, replica: str) -> Counter:
        """The counter of one release on one replica, made at first use."""
        of_route = self._by_route.setdefault((tenant, route), {})
        key = (generation, release, replica)
        found = of_route.pop(key, None) or Counter(tenant, route, generation, release, replica)
        of_route[key] = found  # the newest asked for stands last, and is let go last
        self._let_go(of_route)
        return found

    def traffic(self) -> list[Traffic]:
        """Counters that have ever counted."""
        return [c.typed() for of_route in self._by_route.values() for c in of_route.values() if c.admitted]

    @staticmethod
    def _let_go(of_route: dict[tuple[int, str, str], Counter]) -> None:
        spare = len(of_route) - _KEPT_PER_ROUTE
        if spare > 0:
            idle = [key for key, c in of_route.items() if not c.streams]
            for key in idle[:spare]:
                del of_route[key]
