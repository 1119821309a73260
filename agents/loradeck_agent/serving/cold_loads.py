"""Counts the requests for each pointer of this node, and has the releases loaded that requests wait for."""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from loradeck.rules.serving.residency import asked_lately
from loradeck.schemas.ids import PointerKey
from loradeck_agent.host.errors import AgentError, Unreachable
from loradeck_agent.router.wire import ColdAsk
from loradeck_agent.serving.engines_at_router import EnginesAtRouter

log = logging.getLogger(__name__)

RETRY_S = 1.0
COUNT_S = 5.0
"""Seconds between two counts of the requests for each pointer."""

WITHOUT_QUEUE_S = 30.0
"""Seconds until a router of an earlier version is asked again, or told again which releases get no slot."""


@dataclass(eq=False)
class Demand:
    """Recent requests per pointer, and the pointers whose release is not loaded while requests wait for it."""

    traffic: dict[PointerKey, float] = field(default_factory=dict)
    waiting: tuple[PointerKey, ...] = ()
    """On-demand pointers whose release requests wait for, in the order in which they are loaded."""
    hinted: frozenset[PointerKey] = frozenset()
    """On-demand pointers whose requests are coming, as gateways say."""
    _counted: Mapping[PointerKey, int] = field(default_factory=dict)
    _at: float = 0.0

    def is_due(self, now: float) -> bool:
        """Tells whether the router is to be asked for its counts again. `now`: monotonic seconds."""
        return not self._at or now - self._at >= COUNT_S

    def count(self, attempted: Mapping[PointerKey, int], now: float) -> None:
        """Takes the counts of requests of a router, which begin again when it does. `now`: monotonic seconds."""
        before, seconds = self._counted, now - self._at
        self._counted, self._at = attempted, now
        self.traffic = {
            key: asked_lately(
                self.traffic.get(key, 0.0), n - before.get(key, 0) if n >= before.get(key, 0) else n, seconds
            )
            for key, n in attempted.items()
        }


@dataclass(eq=False, kw_only=True)
class ColdLoads:
    """Asks the router which releases are wanted, and has them loaded.

    Attributes:
        failing: gives the releases that cannot be loaded now.
        without_room: gives those of some releases that get no slot here, however long a request waits.
        load_s: gives how long a load takes here.
        changed: called when more releases are wanted, and when none is any more: then the others are loaded at once.
    """

    at_router: EnginesAtRouter
    demand: Demand
    failing: Callable[[], Iterable[str]]
    without_room: Callable[[Collection[str]], set[str]]
    load_s: Callable[[], float | None]
    changed: Callable[[], None]

    async def run(self) -> None:
        """Asks the router for wanted releases, for ever. Its answer comes once something has changed."""
        times, full, asked = -1, set[str](), set[str]()
        untold_until = 0.0
        while True:
            full = self.without_room(full | asked)  # one that had no room is asked for again and again
            failing = tuple(sorted(self.failing()))
            told = tuple(sorted(full)) if time.monotonic() >= untold_until else ()
            ask = ColdAsk(times=times, failing=failing, load_s=self.load_s(), full=told)
            admitted = self.at_router.told or frozenset()
            try:
                wanted = await self.at_router.router.wanted(ask)
            except AgentError as error:
                log.debug("which releases are waited for is not known: %s", error)
                times = -1
                if not isinstance(error, Unreachable):  # perhaps a router of before, which knows nothing of it
                    untold_until = time.monotonic() + WITHOUT_QUEUE_S
                await asyncio.sleep(RETRY_S)
                continue
            if wanted is None:
                await asyncio.sleep(WITHOUT_QUEUE_S)
                continue
            times = wanted.times
            asked = {release for _, _, release in wanted.releases}
            waiting = tuple((tenant, route) for tenant, route, _ in wanted.releases)
            hinted = frozenset((tenant, route) for tenant, route, _ in wanted.hinted)
            before = {*self.demand.waiting}
            if lost := asked.intersection(admitted, self.at_router.told or ()):
                self.at_router.doubt(lost)
            is_more = not before.issuperset(waiting) or bool(hinted - before - self.demand.hinted)
            is_more = is_more or bool(lost or (before and not waiting))
            self.demand.waiting, self.demand.hinted = waiting, hinted
            if is_more:
                self.changed()
