"""What requests wait for is asked of the router, and counted."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from loradeck_agent.router.wire import ColdAsk, WantedLoads
from loradeck_agent.serving.engines_at_router import ColdLoads, Demand

COLD = "c" * 64


def test_requests_are_counted_every_five_seconds_however_often_loads_are_planned() -> None:
    demand, key = Demand(), ("acme", "production")
    assert demand.is_due(100.0), "nothing was counted yet"
    demand.count({key: 3}, 100.0)
    assert [now for now in (100.1, 104.9, 105.0, 200.0) if demand.is_due(now)] == [105.0, 200.0]


async def test_a_round_is_due_when_more_is_wanted_and_when_nothing_is_and_not_when_one_of_several_is_there() -> None:
    demand, rounds = Demand(), list[tuple[str, ...]]()
    answers = [("a", "b"), ("b",), ("b", "c"), ("c",), (), ("", "d"), ("d",), ("d",), ()]
    done = asyncio.Event()

    class Router:
        async def wanted(self, ask: ColdAsk) -> WantedLoads:
            if not answers:
                done.set()
                await asyncio.Event().wait()
            named = tuple((name, "production", COLD) for name in answers.pop(0))
            hinted = named[1:] if named and not named[0][0] else ()  # "" stands before what gateways hint at
            return WantedLoads(times=0, releases=() if hinted else named, hinted=hinted)

    at_router: Any = SimpleNamespace(router=Router(), told=None)
    loads = ColdLoads(
        at_router=at_router,
        demand=demand,
        failing=tuple,
        without_room=set,
        load_s=lambda: None,
        changed=lambda: rounds.append(tuple(tenant for tenant, _ in demand.waiting)),
    )
    running = asyncio.create_task(loads.run())
    async with asyncio.timeout(60):
        await done.wait()
    running.cancel()
    assert rounds == [("a", "b"), ("b", "c"), (), (), ("d",), ()], "a request turns out what a hint of it does not"
