"""An agent that comes back to a router and engines that went on without it."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter

from tests.integration.agent.artifacts import Adapter, entry
from tests.integration.agent.fake_hub import FakeHub
from tests.integration.agent.node import CALLER_HASH, Node

from loradeck.schemas.link import Hello


async def test_no_request_fails_while_an_agent_ends_and_another_takes_its_place(
    node: Node, hub: FakeHub, v1: Adapter
) -> None:
    """The new agent has not looked at its engines yet when it meets the router, which has them."""
    first = entry(v1.ref, 1, keys=(CALLER_HASH,))
    await hub.desire(first)
    await hub.ack(first, "proven")
    statuses: Counter[int] = Counter()

    async def ask() -> None:
        while True:
            status, _, _ = await node.ask("hello")
            statuses[status] += 1

    asking = [asyncio.create_task(ask()) for _ in range(3)]
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        await node.end_agent(number)
        heard = len(hub.heard)
        node.start()
        await hub.wait(Hello, after=heard)
        await hub.report(lambda report: report.replicas[0].state.value == "up")
    for task in asking:
        assert not task.done(), task
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    assert set(statuses) == {200}, statuses
    assert statuses[200] > 100
