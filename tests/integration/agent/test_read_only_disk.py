"""A node whose state lies on a disk that has become read-only: it serves, flips in memory, and does not count that."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack

from tests.disks import read_only
from tests.fleets.waiting import until
from tests.integration.agent.artifacts import Adapter, entry
from tests.integration.agent.fake_hub import FakeHub
from tests.integration.agent.node import CALLER_HASH, Node
from tests.integration.agent.test_faults import _served

from loradeck.schemas.link import Hello

KEYS = (CALLER_HASH,)


async def kill_router(node: Node) -> None:
    pid = node.router_pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await until(lambda: node.router_pid != pid, "the router has ended")


async def test_router_and_agent_come_back_on_a_read_only_disk_and_no_caller_gets_what_a_volatile_flip_left(
    node: Node, hub: FakeHub, v1: Adapter, v2: Adapter
) -> None:
    first = entry(v1.ref, 1, beneath=(v2.ref,), keys=KEYS)
    await hub.desire(first)
    await hub.ack(first, "proven")
    await until(lambda: node.router_has(v2.ref.id), "v2 is resident")
    with ExitStack() as mounted:
        mounted.enter_context(read_only(node.state.root))
        await kill_router(node)
        await until(lambda: _served(node, v1), "the new router serves from what it read")
        told = (await hub.report(lambda r: bool(r.replicas[0].alarm))).replicas[0]
        assert "Read-only file system" in told.alarm
        assert told.answers

        heard = len(hub.heard)
        second = entry(v2.ref, 2, beneath=(v1.ref,), keys=KEYS)
        await hub.desire(second)
        ack = await hub.ack(second, "failed", after=heard)
        assert ack.code == "volatile"
        assert await node.tokens("hello") == v2.tokens("hello")

        await kill_router(node)
        answers = set()

        async def told_again() -> bool:
            try:
                status, tokens, _ = await node.ask("hello")
            except OSError:
                return False
            if status == 200:
                answers.add(tuple(tokens))
            return status == 200

        await until(told_again, "the agent has told the next router")
        assert answers == {tuple(v2.tokens("hello"))}

        await node.end_agent(signal.SIGKILL)
        heard = len(hub.heard)
        node.start()
        await hub.wait(Hello, after=heard)
        assert await node.tokens("hello") == v2.tokens("hello")
    heard = len(hub.heard)
    await hub.ack(second, "flipped", after=heard)
    await hub.report(lambda r: not r.replicas[0].alarm)
    await kill_router(node)
    await until(lambda: _served(node, v2), "it is on the disk")
