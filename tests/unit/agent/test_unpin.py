"""A pin that was ended stays ended, whatever was read of it before."""

from __future__ import annotations

import asyncio

from loradeck.schemas.ids import PointerKey
from loradeck.schemas.link import Ack
from loradeck.schemas.log import GENESIS
from loradeck.schemas.manifest import Form, Release
from loradeck.schemas.table import Pin, ReleaseRef
from loradeck_agent.daemon import Agent
from loradeck_agent.router.wire import RouterState

BASE = Release(tenant="acme", form=Form.BASE, base="b" * 64)
PIN = Pin(
    tenant="acme",
    route="production",
    release=ReleaseRef(id=BASE.id, release=BASE),
    over=(1, 1),
    actor="ann",
    reason="night shift",
    at_ms=1,
)


class SlowRouter:
    """Holds one pin. What it says of itself stays on its way until it may arrive."""

    def __init__(self) -> None:
        self.pins: tuple[Pin, ...] = (PIN,)
        self.asked, self.may_arrive = asyncio.Event(), asyncio.Event()

    def close(self) -> None: ...

    async def state(self) -> RouterState:
        state = RouterState(pid=1, boot="b", epoch=1, rev=1, hash=GENESIS, entries=(), pins=self.pins)
        self.asked.set()
        await self.may_arrive.wait()
        return state

    async def unpin(self, key: PointerKey) -> tuple[Ack, ...]:
        self.pins = ()
        return ()


async def test_a_pin_that_was_read_before_its_end_is_not_kept_after_it(agent: Agent) -> None:
    """It would be reported to the hub, and put back into a table that was lost."""
    agent.sync.router = router = SlowRouter()  # type: ignore[assignment]
    agent.table.pins = {("acme", "production"): PIN}
    reading = asyncio.create_task(agent.sync.read_pins())
    await router.asked.wait()
    ending = asyncio.create_task(agent.sync.unpin(("acme", "production")))
    for _ in range(100):
        await asyncio.sleep(0)  # as far as it gets before the answer arrives
    router.may_arrive.set()
    await asyncio.gather(reading, ending)
    assert (router.pins, agent.table.pins) == ((), {})
    assert (await agent.reports.hello()).pins == ()
