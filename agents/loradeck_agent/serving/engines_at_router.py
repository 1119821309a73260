"""What the agent tells its router of engines, and what the router wants loaded.

The router is told which engines there are and which releases each may be asked for. It says how often each pointer is
asked for, and which releases requests wait for: these are loaded.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from loradeck.rules.serving.residency import asked_lately
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.link import Ack
from loradeck.schemas.replica_state import AckState
from loradeck_agent.host.errors import AgentError, Unreachable
from loradeck_agent.router.client import RouterControl
from loradeck_agent.router.wire import ColdAsk
from loradeck_agent.serving.replica import EngineReplica

log = logging.getLogger(__name__)

LOOK_S = 5.0
"""How long engines are kept from the router while one of them was not looked at: an adopted one shows in a second."""


@dataclass(eq=False, kw_only=True)
class EnginesAtRouter:
    """The router's list of engines, which is always given as a whole.

    A router that an agent adopts has its engines from the agent before. They are not replaced before each engine was
    looked at, within reason: otherwise the router would answer nobody until then.

    Attributes:
        acked: is given every acknowledgement of the router that follows from a push.
        missed: called when the router gave no answer, so that what it acknowledged by it, if it did, is not known; and
            when its disk has refused it a flip.
        up: set while a router is there.
        told: releases that the router admits to, as it has answered; None: it may admit to others.
    """

    engines: tuple[EngineReplica, ...]
    router: RouterControl
    acked: Callable[[tuple[Ack, ...]], Awaitable[None]]
    missed: Callable[[], None]
    up: asyncio.Event = field(default_factory=asyncio.Event)
    told: frozenset[str] | None = None
    _pushing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _look_until: float = field(default_factory=lambda: time.monotonic() + LOOK_S)

    async def push(self) -> bool:
        """Gives the router all engines with the releases they may be asked for; one that is down gets them once up.

        False: it gave no answer. It may carry the call out later, and is asked again for how everything stands.
        """
        async with self._pushing:
            self.told = None
            if not self.up.is_set() or not self._looked_at():
                return True
            slots = tuple(slot for slot in (engine.slot() for engine in self.engines) if slot is not None)
            try:
                acks = await self.router.engines(slots)
            except Unreachable as error:
                log.warning("the router does not have its engines yet: %s", error)
                self.missed()
                return False
            self.told = frozenset(release for slot in slots for release in slot.ready)
        await self.acked(acks)
        if any(ack.state is AckState.FAILED for ack in acks):
            self.missed()  # its disk has refused a flip: it is asked again until that is made
        return True

    async def is_told(self) -> bool:
        """Tells whether the router admits to nothing that was closed; it is told again where that is not known."""
        if self.told is None:
            await self.push()
        return self.told is not None

    def doubt(self, releases: Collection[str]) -> None:
        """Has engines asked what they hold, because the router admits nobody to releases that it was told of."""
        self.told = None
        for engine in (one for one in self.engines if not one.ready.isdisjoint(releases)):
            engine.levels_until = 0.0

    async def first_look(self) -> None:
        """Gives the router its engines also where one of them does not show in time whether it runs."""
        await asyncio.sleep(max(0.0, self._look_until - time.monotonic()))
        await self.push()

    def _looked_at(self) -> bool:
        return all(engine.began.is_set() for engine in self.engines) or time.monotonic() >= self._look_until


RETRY_S = 1.0
COUNT_S = 5.0
"""Seconds between two counts of the requests for each pointer."""

WITHOUT_QUEUE_S = 30.0
"""Seconds until a router of an earlier version, which has no queue, is asked again."""


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
        while True:
            full = self.without_room(full | asked)  # one that had no room is asked for again and again
            failing = tuple(sorted(self.failing()))
            ask = ColdAsk(times=times, failing=failing, load_s=self.load_s(), full=tuple(sorted(full)))
            admitted = self.at_router.told or frozenset()
            try:
                wanted = await self.at_router.router.wanted(ask)
            except AgentError as error:
                log.debug("which releases are waited for is not known: %s", error)
                times = -1
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
