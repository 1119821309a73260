"""A node's router is restarted or ends: the agent holds its listening socket, and no caller is refused."""

from __future__ import annotations

import asyncio
import os
import signal

import aiohttp
from tests.fleets.waiting import until
from tests.integration.agent.artifacts import Adapter, entry
from tests.integration.agent.fake_hub import FakeHub
from tests.integration.agent.node import CALLER_HASH, Node

from loradeck_agent.host.state_folder import holder_of

KEYS = (CALLER_HASH,)
CALLERS = 8


class Callers:
    """Callers that ask over a new connection each time, until told to stop."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.answered: list[str] = []
        self.wrong: list[str] = []
        self._stopped = False

    async def __aenter__(self) -> Callers:
        self._tasks = [asyncio.create_task(self._run()) for _ in range(CALLERS)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopped = True
        await asyncio.gather(*self._tasks)

    async def some(self, number: int = 30) -> None:
        wanted = len(self.answered) + number
        await until(lambda: len(self.answered) >= wanted, f"{number} more answers")

    async def _run(self) -> None:
        while not self._stopped:
            try:
                status, _, by = await self.node.ask("hello")
                if status != 200:
                    self.wrong.append(f"status {status}")
                self.answered.append(by)
            except (aiohttp.ClientError, OSError) as error:
                self.wrong.append(f"{type(error).__name__}: {error}")
            await asyncio.sleep(0.02)


async def served(hub: FakeHub, v1: Adapter, v2: Adapter) -> None:
    """v2 is served, with v1 beneath it."""
    first = entry(v2.ref, 1, beneath=(v1.ref,), keys=KEYS)
    await hub.desire(first)
    await hub.ack(first, "proven")


async def ended(node: Node, pid: int) -> None:
    """Waits until a router that hands over has ended."""
    await until(lambda: not os.path.exists(f"/proc/{pid}"), "the router before it has ended")
    assert holder_of(node.state.router_drain_lock) is None


async def test_the_command_replaces_the_router_and_refuses_no_connection(
    node: Node, hub: FakeHub, v1: Adapter, v2: Adapter
) -> None:
    await served(hub, v1, v2)
    before = node.router_pid
    assert before is not None
    async with Callers(node) as callers:
        await callers.some()
        done = await asyncio.to_thread(node.command, "restart-router")
        assert done.returncode == 0, done.stderr
        after = node.router_pid
        assert f"router pid {after} (build " in done.stdout
        assert f"has taken over from pid {before}" in done.stdout
        back = entry(v1.ref, 2, beneath=(v2.ref,), keys=KEYS)
        await hub.desire(back)
        await hub.ack(back, "flipped")
        flipped = len(callers.answered) + CALLERS  # those that were under way may be of before
        await callers.some()
        await ended(node, before)
        await callers.some()
    assert callers.wrong == []
    assert set(callers.answered[flipped:]) == {v1.release.id}
    assert node.router_pid == after != before


async def test_an_agent_of_another_build_replaces_the_router_that_it_finds(
    node: Node, hub: FakeHub, v1: Adapter, v2: Adapter
) -> None:
    await served(hub, v1, v2)
    before = node.router_pid
    assert before is not None
    async with Callers(node) as callers:
        await node.end_agent()
        await callers.some()
        assert node.router_pid == before
        node.start(LD_TEST_BUILD="another")
        await until(lambda: node.router_pid not in (None, before), "another router has taken over")
        assert await node.router_build() == "another"
        await ended(node, before)
        await callers.some()
    assert callers.wrong == []


async def test_a_router_that_is_killed_is_followed_by_another_and_no_connection_is_refused(
    node: Node, hub: FakeHub, v1: Adapter, v2: Adapter
) -> None:
    await served(hub, v1, v2)
    before = node.router_pid
    assert before is not None
    os.kill(before, signal.SIGKILL)
    assert (await node.ask("hello"))[0] == 200, "the kernel keeps the connection until there is a router"
    assert node.router_pid != before


async def test_an_agent_that_found_its_router_running_holds_its_sockets_too(
    node: Node, hub: FakeHub, v1: Adapter, v2: Adapter
) -> None:
    await served(hub, v1, v2)
    await node.end_agent()
    heard = len(hub.heard)
    node.start()
    await hub.ack(hub.entries["acme", "production"], "proven", after=heard)
    before = node.router_pid
    assert before is not None
    os.kill(before, signal.SIGKILL)
    assert (await node.ask("hello"))[0] == 200


async def test_a_new_router_that_crashes_leaves_the_old_one_serving_and_the_command_says_so(
    stopped: Node, hub: FakeHub, v1: Adapter, v2: Adapter
) -> None:
    node = stopped
    node.start(LD_TEST_SABOTAGE="router_that_crashes")
    await served(hub, v1, v2)
    before = node.router_pid
    async with Callers(node) as callers:
        done = await asyncio.to_thread(node.command, "restart-router", LD_TEST_PATIENCE_S="4")
        await callers.some()
    assert done.returncode == 1
    assert "not_replaced" in done.stderr
    assert node.router_pid == before
    assert callers.wrong == []


def test_without_an_agent_the_command_says_what_to_start(stopped: Node) -> None:
    done = stopped.command("restart-router")
    assert done.returncode == 3
    assert "loradeck-agent run" in done.stderr


async def test_a_router_that_cannot_start_has_callers_refused_and_not_kept_waiting(
    node: Node, hub: FakeHub, v1: Adapter, v2: Adapter
) -> None:
    await served(hub, v1, v2)
    table = node.state.router / "table.jsonl"
    before = node.router_pid
    assert before is not None
    table.write_bytes(b"damaged\n" + table.read_bytes())
    os.kill(before, signal.SIGKILL)

    async def refused() -> bool:
        try:
            async with asyncio.timeout(0.5):
                _, writer = await asyncio.open_connection("127.0.0.1", node.port)
        except ConnectionRefusedError:
            return True
        except (TimeoutError, OSError):
            return False
        writer.close()
        return False

    await until(refused, "callers are refused")
    table.unlink()
    await until(lambda: node.router_pid, "a router starts once it can")
    status, _, _ = await node.ask("hello")
    assert status in (200, 401)
