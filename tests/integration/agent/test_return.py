"""An agent that comes back to a router and engines that went on without it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

from tests.fleets.waiting import until
from tests.integration.agent.artifacts import Adapter, entry
from tests.integration.agent.conftest import TOKEN
from tests.integration.agent.fake_hub import FakeHub
from tests.integration.agent.node import CALLER_HASH, Node

from loradeck.schemas.link import Ack, Hello, Report


@contextlib.asynccontextmanager
async def asked_all_the_time(node: Node) -> AsyncIterator[Counter[int]]:
    """How often three callers were answered with each status."""
    statuses: Counter[int] = Counter()

    async def ask() -> None:
        while True:
            status, _, _ = await node.ask("hello")
            statuses[status] += 1

    asking = [asyncio.create_task(ask()) for _ in range(3)]
    yield statuses
    for task in asking:
        assert not task.done(), task
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)


async def test_no_request_fails_while_an_agent_ends_and_another_takes_its_place(
    node: Node, hub: FakeHub, v1: Adapter
) -> None:
    """The new agent has not looked at its engines yet when it meets the router, which has them."""
    first = entry(v1.ref, 1, keys=(CALLER_HASH,))
    await hub.desire(first)
    await hub.ack(first, "proven")
    async with asked_all_the_time(node) as statuses:
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
            await node.end_agent(number)
            heard = len(hub.heard)
            node.start()
            await hub.wait(Hello, after=heard)
            await hub.report(lambda report: report.replicas[0].state.value == "up")
    assert set(statuses) == {200}, statuses
    assert statuses[200] > 100


async def test_no_request_fails_while_a_new_agent_has_not_heard_yet_what_an_engine_of_two_has_loaded(
    folder: Path, base: Path, hub: FakeHub, v1: Adapter
) -> None:
    """The other engine is known at once. What the router hears of it must not take the first one away."""
    other = folder / "other"
    shutil.copytree(base, other)
    (other / "extra.json").write_text("{}")
    node = Node(folder, base, hub.url, TOKEN, engine=f'[[engine]]\nname = "e1"\nbase = "{other}"\nslots = 4')
    first, second = (node.state.engine(name) for name in ("e0", "e1"))
    try:
        node.start()
        await hub.report(_both_up)
        wanted = entry(v1.ref, 1, keys=(CALLER_HASH,))
        await hub.desire(wanted)
        await hub.ack(wanted, "proven")
        async with asked_all_the_time(node) as statuses:
            await node.end_agent(signal.SIGKILL)
            os.mkfifo(first / "held_models")
            (second / "unhealthy").touch()
            node.start()
            await until(lambda: "models held" in node.engine_calls(), "the first engine is asked what it has loaded")
            (second / "unhealthy").unlink()
            await hub.report(lambda report: report.replicas[1].state.value == "up")
            answered = statuses[200]
            await until(lambda: statuses[200] > answered + 10 or len(statuses) > 1, "requests were answered since")
            with (first / "held_models").open("wb"):
                (first / "held_models").unlink()
            await hub.report(_both_up)
        assert set(statuses) == {200}, statuses
    finally:
        node.close()


async def test_a_second_engine_gives_replicas_new_names_and_nothing_is_acknowledged_under_the_old_one(
    folder: Path, base: Path, hub: FakeHub, v1: Adapter
) -> None:
    """The router has run on, and answers for the engine as it knows it until it is given the engines anew."""
    node = Node(folder, base, hub.url, TOKEN)
    try:
        node.start()
        first = entry(v1.ref, 1, keys=(CALLER_HASH,))
        await hub.desire(first)
        await hub.ack(first, "proven")
        await node.end_agent()
        other = folder / "other"
        shutil.copytree(base, other)
        (other / "extra.json").write_text("{}")
        with node.config.open("a") as config:
            config.write(f'[[engine]]\nname = "e1"\nbase = "{other}"\nslots = 4\n')
        heard = len(hub.heard)
        node.start()
        await hub.report(_both_up)
        await hub.ack(first, "proven", after=heard)
        since = hub.heard[heard:]
        assert {ack.replica for ack in since if isinstance(ack, Ack)} == {"gpu-01.e0"}
        assert len([hello for hello in since if isinstance(hello, Hello)]) == 1
    finally:
        node.close()


def _both_up(report: Report) -> bool:
    return [replica.state.value for replica in report.replicas] == ["up", "up"]
