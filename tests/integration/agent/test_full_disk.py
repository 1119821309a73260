"""A node whose state lies on a disk that is full or has no inode left: it serves, flips, says so, and heals alone."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.disks import fill, small_disk, take_inodes
from tests.fleets.waiting import until
from tests.integration.agent.artifacts import Adapter, entry
from tests.integration.agent.conftest import TOKEN
from tests.integration.agent.fake_hub import FakeHub
from tests.integration.agent.node import CALLER_HASH, Node
from tests.integration.agent.test_faults import _served

KEYS = (CALLER_HASH,)


@pytest.fixture
def stopped(folder: Path, base: Path, hub: FakeHub) -> Iterator[Node]:
    with small_disk(folder / "s", "32m", 200):
        made = Node(folder, base, hub.url, TOKEN)
        yield made
        made.close()


@pytest.mark.parametrize("take", [fill, take_inodes])
async def test_router_and_agent_come_back_on_a_full_disk_serve_and_flip_and_say_so(
    node: Node, hub: FakeHub, v1: Adapter, v2: Adapter, take: Callable[[Path], Path]
) -> None:
    first = entry(v1.ref, 1, beneath=(v2.ref,), keys=KEYS)
    await hub.desire(first)
    await hub.ack(first, "proven")
    await until(lambda: node.router_has(v2.ref.id), "v2 is resident")
    taken = take(node.state.root)

    assert node.router_pid is not None
    os.kill(node.router_pid, signal.SIGKILL)
    await until(lambda: _served(node, v1), "the new router serves from what it read")
    told = (await hub.report(lambda r: bool(r.replicas[0].alarm))).replicas[0]
    assert "No space left on device" in told.alarm
    assert told.answers, "callers reach it"

    heard = len(hub.heard)
    second = entry(v2.ref, 2, beneath=(v1.ref,), keys=KEYS)
    await hub.desire(second)
    await hub.ack(second, "flipped", after=heard)
    assert await node.tokens("hello") == v2.tokens("hello")

    await node.end_agent(signal.SIGKILL)
    assert node.router_pid is not None
    os.kill(node.router_pid, signal.SIGKILL)
    await until(lambda: node.router_pid is None, "the router has ended")
    node.start()
    await until(lambda: _served(node, v2), "agent and router come back, at the move that was acknowledged")
    await hub.report(lambda r: bool(r.replicas[0].alarm))

    shutil.rmtree(taken) if taken.is_dir() else taken.unlink()
    await hub.report(lambda r: not r.replicas[0].alarm)
