"""kill -9 of engine, router and agent; the hub away. What was served goes on, and nothing runs twice."""

from __future__ import annotations

import asyncio
import os
import signal

from tests.fleets.waiting import until
from tests.integration.agent.artifacts import Adapter, entry
from tests.integration.agent.fake_hub import FakeHub
from tests.integration.agent.node import CALLER_HASH, Node

from loradeck.schemas.link import Ack, Hello

KEYS = (CALLER_HASH,)


async def serving(hub: FakeHub, v1: Adapter) -> None:
    first = entry(v1.ref, 1, keys=KEYS)
    await hub.desire(first)
    await hub.ack(first, "proven")


async def test_a_killed_engine_is_restarted_and_verified_before_it_serves(
    node: Node, hub: FakeHub, v1: Adapter
) -> None:
    await serving(hub, v1)
    old, heard = node.engine_pid, len(hub.heard)
    calls = len(node.engine_calls())

    async def keep_asking() -> None:
        while True:
            await node.ask("hello")
            await asyncio.sleep(0.005)

    asking = asyncio.create_task(keep_asking())
    assert old is not None
    os.kill(old, signal.SIGKILL)
    first = hub.entries["acme", "production"]
    void = await hub.ack(first, "waiting", after=heard)
    assert void.code == "engine_down", "what was proven on a dead engine is taken back at once"
    await hub.ack(first, "flipped", after=heard)
    await hub.ack(first, "proven", after=heard)
    await until(lambda: "chat" in node.engine_calls()[-1] and "hello" in node.engine_calls()[-1], "callers are served")
    asking.cancel()

    assert node.engine_pid not in (None, old)
    assert await node.tokens("hello") == v1.tokens("hello")
    anew = node.engine_calls()[calls:]
    loaded = max(i for i, call in enumerate(anew) if call == f"load {v1.ref.engine_name}")
    served = next(i for i, call in enumerate(anew[loaded:], loaded) if call.endswith("hello"))
    canaries = [call for call in anew[loaded:served] if call.startswith(f"chat {v1.ref.engine_name} canary")]
    assert len(canaries) >= 2, f"no caller is served before the canaries were answered: {anew}"


async def test_a_killed_engine_that_comes_back_with_the_bare_base_is_not_given_callers(
    node: Node, hub: FakeHub, v1: Adapter
) -> None:
    await serving(hub, v1)
    (node.state.engine("e0") / "bare_base").touch()
    heard = len(hub.heard)
    assert node.engine_pid is not None
    os.kill(node.engine_pid, signal.SIGKILL)
    failed = await hub.ack(hub.entries["acme", "production"], "failed", after=heard)
    assert failed.code == "canary_mismatch"
    status, _, _ = await node.ask("hello")
    assert status == 503


async def test_a_killed_router_is_restarted_from_its_table(node: Node, hub: FakeHub, v1: Adapter) -> None:
    await serving(hub, v1)
    old, heard = node.router_pid, len(hub.heard)
    assert old is not None
    os.kill(old, signal.SIGKILL)
    await until(lambda: node.router_pid not in (None, old), "a new router")
    await hub.ack(hub.entries["acme", "production"], "flipped", after=heard)
    await until(lambda: _served(node, v1), "callers are served again")


async def _served(node: Node, adapter: Adapter) -> bool:
    try:
        status, tokens, _ = await node.ask("hello")
    except OSError:
        return False
    return status == 200 and tokens == adapter.tokens("hello")


async def test_a_router_that_cannot_start_is_an_alarm_with_its_log_and_is_back_once_its_table_is_moved_away(
    node: Node, hub: FakeHub, v1: Adapter
) -> None:
    await serving(hub, v1)
    table, pid = node.state.router / "table.jsonl", node.router_pid
    assert pid is not None
    assert all(replica.alarm == "" for replica in (await hub.report(lambda r: True)).replicas)
    whole = table.read_bytes()
    table.write_bytes(b"damaged\n" + whole)
    os.kill(pid, signal.SIGKILL)
    told = (await hub.report(lambda r: bool(r.replicas[0].alarm))).replicas[0].alarm
    assert told == f"the router does not answer; its log is {node.state.router_log}"
    await until(lambda: "table_corrupt" in node.state.router_log.read_text(), "its log says why")
    table.rename(table.with_name("table.damaged"))
    heard = len(hub.heard)
    await hub.ack(hub.entries["acme", "production"], "flipped", after=heard)
    await hub.report(lambda r: not r.replicas[0].alarm)
    assert await node.tokens("hello") == v1.tokens("hello")


async def test_a_directive_while_the_router_is_away_is_carried_out_when_it_is_back(
    node: Node, hub: FakeHub, v1: Adapter, v2: Adapter
) -> None:
    both = entry(v1.ref, 1, beneath=(v2.ref,), keys=KEYS)
    await hub.desire(both)
    await hub.ack(both, "proven")
    await until(lambda: f"load {v2.ref.engine_name}" in node.engine_calls(), "v2 is resident")
    heard = len(hub.heard)
    assert node.router_pid is not None
    os.kill(node.router_pid, signal.SIGKILL)
    second = entry(v2.ref, 2, beneath=(v1.ref,), keys=KEYS)
    await hub.desire(second)
    await hub.ack(second, "proven", after=heard)
    assert await node.tokens("hello") == v2.tokens("hello")


async def test_a_killed_agent_leaves_everything_running_and_the_next_adopts_it(
    node: Node, hub: FakeHub, v1: Adapter, v2: Adapter
) -> None:
    await serving(hub, v1)
    router, engine = node.router_pid, node.engine_pid
    loads = [call for call in node.engine_calls() if call.startswith("load")]
    await node.end_agent(signal.SIGKILL)
    assert await node.tokens("hello") == v1.tokens("hello")

    heard = len(hub.heard)
    node.start()
    hello = await hub.wait(Hello, after=heard)
    assert (hello.epoch, hello.rev) == (hub.epoch, hub.rev)
    await hub.ack(hub.entries["acme", "production"], "proven", after=heard)
    assert (node.router_pid, node.engine_pid) == (router, engine)
    assert len((node.state.engine("e0") / "starts.log").read_text().splitlines()) == 1
    assert [call for call in node.engine_calls() if call.startswith("load")] == loads, "what is resident stays"
    waiting = [a for a in hub.of(Ack) if a.state.value == "waiting" and a in hub.heard[heard:]]
    assert not waiting, "a restart of the agent takes nothing out of service"

    second = entry(v2.ref, 2, beneath=(v1.ref,), keys=KEYS)
    await hub.desire(second)
    await hub.ack(second, "proven")


async def test_sigterm_ends_the_agent_alone_and_stop_ends_the_rest(node: Node, hub: FakeHub, v1: Adapter) -> None:
    await serving(hub, v1)
    assert await node.end_agent(signal.SIGTERM) == 0
    assert None not in (node.router_pid, node.engine_pid)
    assert await node.tokens("hello") == v1.tokens("hello")
    done = await asyncio.to_thread(node.command, "stop")
    assert done.returncode == 0, done.stderr
    assert node.pids() == []
    again = await asyncio.to_thread(node.command, "stop")
    assert (again.returncode, again.stdout) == (0, "nothing ran\n")


async def test_stop_ends_a_running_agent_too(node: Node) -> None:
    done = await asyncio.to_thread(node.command, "stop")
    assert done.returncode == 0, done.stderr
    assert [line.split(" (")[0] for line in done.stdout.splitlines()] == ["agent", "router", "engine e0"]
    assert node.pids() == []
    assert node.process is not None
    assert await asyncio.to_thread(node.process.wait, 60) == 0


async def test_a_second_agent_on_the_same_folder_is_refused(node: Node) -> None:
    second = await asyncio.to_thread(node.command, "run")
    assert second.returncode == 1
    assert "already_running" in second.stderr
    assert node.process is not None
    assert f"pid {node.process.pid}" in second.stderr


async def test_without_a_hub_the_node_serves_on_and_is_back_when_it_is(
    node: Node, hub: FakeHub, v1: Adapter, v2: Adapter
) -> None:
    await serving(hub, v1)
    await hub.stop()
    assert await node.tokens("hello") == v1.tokens("hello")
    second = entry(v2.ref, 2, beneath=(v1.ref,), keys=KEYS)
    await hub.desire(second)  # committed while no node is linked
    heard = len(hub.heard)
    await hub.start()
    await hub.wait(Hello, after=heard)
    await hub.ack(second, "proven", after=heard)
    assert await node.tokens("hello") == v2.tokens("hello")


async def test_a_restart_without_a_hub_serves_the_last_table_even_after_the_engine_died_too(
    node: Node, hub: FakeHub, v1: Adapter
) -> None:
    await serving(hub, v1)
    await hub.stop()
    await node.end_agent(signal.SIGKILL)
    for pid in node.pids():
        os.kill(pid, signal.SIGKILL)
    await until(lambda: not node.pids(), "everything ended")
    node.start()
    await until(lambda: _served(node, v1), "the last table is served")


async def test_a_silent_hub_is_given_up_and_called_again(node: Node, hub: FakeHub, v1: Adapter) -> None:
    await serving(hub, v1)
    heard, links = len(hub.heard), hub.links
    hub.beating = False
    await hub.wait(Hello, after=heard)
    assert hub.links > links
    assert await node.tokens("hello") == v1.tokens("hello")
