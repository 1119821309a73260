"""The callers of the demo at a real router."""

from __future__ import annotations

import asyncio

import psutil
from tests.integration.router.running import KEY, Running, release
from tests.integration.router.running import unchecked as entry
from tests.integration.router.upstream import Upstream

from incident.traffic import Callers, Prompt

V1 = release("v1")
ASKED = Prompt(id="one", messages=[{"role": "user", "content": "hello"}])


def _open(router: Running) -> set[int]:
    """Local ports of this process's connections to the router."""
    found = psutil.Process().net_connections("tcp")
    return {
        one.laddr.port
        for one in found
        if one.raddr and one.raddr.port == router.port and one.status == psutil.CONN_ESTABLISHED
    }


async def test_a_burst_finds_the_connections_open_that_were_opened_for_it(router: Running, engine: Upstream) -> None:
    """Else it begins with as many handshakes, and few of its requests are admitted close to the move they surround."""
    await router.post("/control/hub", {"connected": True})
    await router.table(entry(V1))
    await router.engines(("e0", engine.socket, [V1]))
    async with Callers({"gpu-01": router.url}, {"acme": KEY}) as callers:
        await callers.connect("acme", 8)
        before = _open(router)
        assert len(before) == 8
        answers = await asyncio.gather(*callers.burst("acme", [ASKED], 8))
        assert [answer.status for answer in answers] == [200] * 8
        assert _open(router) == before
