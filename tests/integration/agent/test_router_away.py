"""A node whose router is dead: what it tells the hub and a person, and what survives a kill of both processes."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import socket

from tests.fleets.waiting import until
from tests.integration.agent.artifacts import Adapter, entry
from tests.integration.agent.fake_hub import FakeHub, hash_at
from tests.integration.agent.node import CALLER_HASH, Node

from loradeck.schemas.link import Hello

KEYS = (CALLER_HASH,)


async def pinned(node: Node, hub: FakeHub, v1: Adapter, v2: Adapter, *, away: bool = False) -> None:
    """v2 is served and proven, and v1 is pinned over it; `away`: while the hub is."""
    first = entry(v2.ref, 1, beneath=(v1.ref,), keys=KEYS)
    await hub.desire(first)
    await hub.ack(first, "proven")
    await until(lambda: node.router_has(v1.release.id), "the prior is resident")
    if away:
        await hub.stop()
    await pin(node, "v1")


async def pin(node: Node, to: str) -> None:
    done = await asyncio.to_thread(node.command, "pin", "acme", "production", "--to", to, "--reason", "night shift")
    assert done.returncode == 0, done.stderr


async def killed(node: Node) -> None:
    """Agent and router are killed together, without a moment for either to write anything."""
    router = node.router_pid
    assert router is not None
    assert node.process is not None
    os.kill(node.process.pid, signal.SIGKILL)
    os.kill(router, signal.SIGKILL)
    await asyncio.to_thread(node.process.wait)
    await until(lambda: node.router_pid is None, "the router is gone")


async def taken(port: int) -> socket.socket:
    """A listener on the port, once the kernel has closed what the killed router had open there."""
    made: list[socket.socket] = []

    def bound() -> bool:
        try:
            made.append(socket.create_server(("127.0.0.1", port)))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        return bool(made)

    await until(bound, "the port is free")
    return made[0]


async def test_the_hello_while_the_router_is_dead_says_cursor_and_pins_of_its_table(
    node: Node, hub: FakeHub, v1: Adapter, v2: Adapter
) -> None:
    await pinned(node, hub, v1, v2)
    await killed(node)
    with await taken(node.port):  # a router cannot start
        heard = len(hub.heard)
        node.start(LD_TEST_LINK_ANYWAY_S="0.5")
        hello = await hub.wait(Hello, after=heard)
        assert (hello.epoch, hello.rev, hello.hash) == (1, hub.rev, hash_at(hub.rev))
        assert [(p.release.id, p.reason) for p in hello.pins] == [(v1.release.id, "night shift")]
        report = await hub.report(lambda r: bool(r.replicas[0].alarm))
        assert (report.epoch, report.rev, [p.release.id for p in report.pins]) == (1, hub.rev, [v1.release.id])
    await until(lambda: node.router_pid, "a router starts once it can")
    await hub.ack(hub.entries["acme", "production"], "waiting", after=heard)
    assert await node.tokens("hello") == v1.tokens("hello")


async def test_a_hub_that_lacks_the_nodes_log_is_not_obeyed_while_the_router_is_dead(
    node: Node, hub: FakeHub, v1: Adapter, v2: Adapter
) -> None:
    await pinned(node, hub, v1, v2)
    later = entry(v2.ref, 3, epoch=1, beneath=(v1.ref,), keys=KEYS)
    await hub.desire(later)
    await hub.ack(later, "waiting")
    await killed(node)
    hub.refuse, hub.rev = "log_behind", 1  # restored from a copy
    hub.entries["acme", "production"] = entry(v1.ref, 1, keys=KEYS)
    heard = len(hub.heard)
    with await taken(node.port):
        node.start(LD_TEST_LINK_ANYWAY_S="0.5")
        assert (await hub.wait(Hello, after=heard)).rev == 2
        await hub.send_table(full=True)
    await until(lambda: node.router_pid, "a router starts once it can")
    state = await node.router_state()
    assert [e.fence for e in state.entries] == [later.fence]
    await until(lambda: "log_behind" in node.log_text(), "the reason is in the log")


async def test_a_pin_made_while_the_hub_is_away_survives_a_kill_of_agent_and_router(
    node: Node, hub: FakeHub, v1: Adapter, v2: Adapter
) -> None:
    await pinned(node, hub, v1, v2, away=True)
    await killed(node)
    heard = len(hub.heard)
    await hub.start()
    node.start()
    hello = await hub.wait(Hello, after=heard)
    assert [(p.release.id, p.over, p.reason) for p in hello.pins] == [(v1.release.id, (1, 1), "night shift")]
    await hub.report(lambda r: r.replicas[0].state.value == "up")
    assert await node.tokens("hello") == v1.tokens("hello")


async def test_status_and_pin_say_that_no_router_runs_and_what_its_table_holds(
    node: Node, hub: FakeHub, v1: Adapter, v2: Adapter
) -> None:
    await pinned(node, hub, v1, v2)
    await killed(node)
    text = await asyncio.to_thread(node.command, "status")
    assert text.returncode == 3
    assert "router  does not run; its table: epoch 1 rev 1, pinned: acme/production\n" in text.stdout
    done = await asyncio.to_thread(node.command, "status", "--json")
    document = json.loads(done.stdout)
    assert document["router"] is None
    assert (document["table"]["rev"], document["table"]["hash"]) == (1, hash_at(1))
    assert [one["reason"] for one in document["table"]["pins"]] == ["night shift"]
    made = await asyncio.to_thread(node.command, "pin", "acme", "production", "--to", "v2", "--reason", "x")
    assert (made.returncode, "unreachable" in made.stderr) == (3, True)
