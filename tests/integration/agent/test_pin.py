"""A release chosen on the node, with and without the hub and the agent."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time

from tests.fleets.waiting import until
from tests.integration.agent.artifacts import Adapter, entry
from tests.integration.agent.fake_hub import FakeHub
from tests.integration.agent.node import CALLER_HASH, Node

from loradeck.schemas.link import Hello, SampleAsk, SampleRows, TraceAsk, TraceRows
from loradeck_agent.router.table import read_contents

KEYS = (CALLER_HASH,)


async def serving(node: Node, hub: FakeHub, v1: Adapter, v2: Adapter) -> None:
    first = entry(v2.ref, 1, beneath=(v1.ref,), keys=KEYS)
    await hub.desire(first)
    await hub.ack(first, "proven")
    await until(lambda: f"load {v1.ref.engine_name}" in node.engine_calls(), "the prior is resident")
    await until(lambda: node.router_has(v1.release.id), "the router knows that it is")


async def pin(node: Node, to: str = "v1") -> str:
    done = await asyncio.to_thread(node.command, "pin", "acme", "production", "--to", to, "--reason", "night shift")
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_a_pin_without_the_hub_holds_and_is_reported_as_drift(
    node: Node, hub: FakeHub, v1: Adapter, v2: Adapter
) -> None:
    await serving(node, hub, v1, v2)
    await hub.stop()
    assert "pinned acme/production to v1" in await pin(node)
    assert await node.tokens("hello") == v1.tokens("hello")
    heard = len(hub.heard)
    await hub.start()
    hello = await hub.wait(Hello, after=heard)
    assert [(p.release.id, p.over, p.reason) for p in hello.pins] == [(v1.release.id, (1, 1), "night shift")]
    report = await hub.report(lambda r: bool(r.pins))
    assert report.pins[0].release.id == v1.release.id
    assert await node.tokens("hello") == v1.tokens("hello"), "reconnecting does not undo it"


async def test_the_hub_is_told_who_was_served_by_which_release(
    node: Node, hub: FakeHub, v1: Adapter, v2: Adapter
) -> None:
    await serving(node, hub, v1, v2)
    await node.tokens("hello")

    async def asked() -> TraceRows:
        after = len(hub.heard)
        await hub.send(TraceAsk(ask=str(after), tenant="acme", route="production"))
        return await hub.wait(TraceRows, lambda rows: rows.ask == str(after), after=after)

    async def told() -> bool:
        return any(row.release == v2.release.id for row in (await asked()).rows)

    await until(told, "the trace has the request once it is judged")
    answer = await asked()
    assert (answer.trouble, answer.turned_over) == ("", False)
    assert {row.replica for row in answer.rows} == {"gpu-01"}
    await hub.send(SampleAsk(ask="any?", tenant="acme", route="production"))
    kept = await hub.wait(SampleRows, lambda rows: rows.ask == "any?")
    assert (kept.samples, kept.kept, kept.trouble) == ((), 0, ""), "its tenant has none kept"


async def test_a_pin_ends_by_an_unpin_of_the_hub_only(node: Node, hub: FakeHub, v1: Adapter, v2: Adapter) -> None:
    await serving(node, hub, v1, v2)
    await pin(node)
    await hub.report(lambda r: bool(r.pins))
    moved = entry(v2.ref, 2, beneath=(v1.ref,), keys=KEYS)
    await hub.desire(moved)
    assert (await hub.ack(moved, "waiting")).code == "pinned"
    assert await node.tokens("hello") == v1.tokens("hello")
    heard = len(hub.heard)
    hub.rev += 1
    await hub.send_table([], prev_rev=hub.rev - 1, unpin=(("acme", "production"),))
    await hub.ack(moved, "proven", after=heard)
    assert await node.tokens("hello") == v2.tokens("hello")
    await hub.report(lambda r: not r.pins)

    await node.end_agent(signal.SIGKILL)
    heard = len(hub.heard)
    node.start()
    assert (await hub.wait(Hello, after=heard)).pins == ()


async def test_a_release_that_was_pinned_while_the_hub_moved_to_it_is_proven_once_the_pin_is_gone(
    node: Node, hub: FakeHub, v1: Adapter, v2: Adapter
) -> None:
    await serving(node, hub, v1, v2)
    await pin(node, "v1")
    await hub.report(lambda r: bool(r.pins))
    back = entry(v1.ref, 2, beneath=(v2.ref,), keys=KEYS)
    await hub.desire(back)
    await hub.ack(back, "flipped")
    heard = len(hub.heard)
    hub.rev += 1
    await hub.send_table([], prev_rev=hub.rev - 1, unpin=(("acme", "production"),))
    await hub.ack(back, "proven", after=heard)


async def test_an_agent_that_does_not_respond_is_not_said_to_be_linked(node: Node, hub: FakeHub) -> None:
    await until(lambda: node.state.status.exists(), "the agent has written its status")
    assert node.process is not None
    node.process.send_signal(signal.SIGSTOP)
    os.utime(node.state.status, (time.time() - 30, time.time() - 30))
    done = await asyncio.to_thread(node.command, "status")
    node.process.send_signal(signal.SIGCONT)
    assert "DOES NOT RESPOND for 3" in done.stdout
    assert "linked to" not in done.stdout


async def test_a_pin_is_made_without_the_agent_and_survives_its_return(
    node: Node, hub: FakeHub, v1: Adapter, v2: Adapter
) -> None:
    await serving(node, hub, v1, v2)
    await node.end_agent(signal.SIGKILL)
    await pin(node)
    assert await node.tokens("hello") == v1.tokens("hello")
    assert [p.reason for p in read_contents(node.state.router).pins.values()] == ["night shift"]
    heard = len(hub.heard)
    node.start()
    hello = await hub.wait(Hello, after=heard)
    assert [p.release.id for p in hello.pins] == [v1.release.id]
    assert await node.tokens("hello") == v1.tokens("hello")


async def test_a_pin_to_what_the_route_does_not_have_says_what_it_has_and_changes_nothing(
    node: Node, hub: FakeHub, v1: Adapter, v2: Adapter
) -> None:
    await serving(node, hub, v1, v2)
    done = await asyncio.to_thread(node.command, "pin", "acme", "production", "--to", "v9", "--reason", "x")
    assert done.returncode == 1
    assert "unknown_release" in done.stderr
    assert f"v1 ({v1.release.id[:6]})" in done.stderr
    done = await asyncio.to_thread(node.command, "pin", "acme", "nowhere", "--to", "v1", "--reason", "x")
    assert done.returncode == 1
    assert "unknown_route" in done.stderr
    assert (await node.router_state()).pins == ()


async def test_without_a_router_a_pin_says_so(stopped: Node) -> None:
    done = await asyncio.to_thread(stopped.command, "pin", "acme", "production", "--to", "v1", "--reason", "x")
    assert done.returncode == 3
    assert "unreachable" in done.stderr


async def test_status_and_trace_say_what_the_node_serves(node: Node, hub: FakeHub, v1: Adapter, v2: Adapter) -> None:
    await serving(node, hub, v1, v2)
    await node.tokens("hello")
    await pin(node)
    done = await asyncio.to_thread(node.command, "status", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["router"]["routes"][0]["in_force"]["id"] == v1.release.id
    assert document["agent"]["link"]["connected"] is True
    assert document["engines"][0]["up"] is True
    text = await asyncio.to_thread(node.command, "status")
    assert "PINNED to v1: night shift" in text.stdout
    trace = await asyncio.to_thread(node.command, "trace", "--tenant", "acme", "--json")
    rows = json.loads(trace.stdout)
    assert [row["release"] for row in rows] == [v2.release.id]
