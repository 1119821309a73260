"""Tells the router which engines there are, and which releases each may be asked for."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field

from loradeck.schemas.link import Ack
from loradeck.schemas.replica_state import AckState, EngineState
from loradeck_agent.host.errors import Unreachable
from loradeck_agent.router.client import RouterControl
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
        known = all(engine.began.is_set() or engine.state is EngineState.STOPPED for engine in self.engines)
        return known or time.monotonic() >= self._look_until
