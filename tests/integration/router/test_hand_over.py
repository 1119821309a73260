"""One router takes over from another, in processes of their own: nothing is refused, fails or is answered late."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from tests.faults.record import Found
from tests.fleets.host import free_port
from tests.fleets.waiting import until
from tests.integration.router.running import KEY, Running, release
from tests.integration.router.running import unchecked as entry
from tests.integration.router.upstream import Upstream

from loradeck.schemas.log import GENESIS
from loradeck.schemas.table import Streams, TableEntry
from loradeck_agent.host.errors import AgentError
from loradeck_agent.host.state_folder import StateFolder, holder_of, open_lock
from loradeck_agent.router import serve
from loradeck_agent.router.client import RouterControl
from loradeck_agent.router.handover import DRAIN_LOCK, DRAIN_SOCKET
from loradeck_agent.router.serve import Router
from loradeck_agent.router.wire import Acks, ByRoute, TableUpdate

RELEASES = [release(f"v{n}") for n in range(200)]
GENERATION = {f"e0:{ref.engine_name}": n for n, ref in enumerate(RELEASES)}
CALLERS = 24


class Node:
    """A router whose listening socket the test holds, as the agent does, with the agent's own client of its control."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.folder = StateFolder(running.state.parent)
        self.control = RouterControl(self.folder)
        self.rev = 0

    async def give(self, *entries: TableEntry) -> Acks:
        self.rev += 1
        return await self.control.table(TableUpdate(epoch=1, rev=self.rev, hash=GENESIS, entries=entries))

    @property
    def holder(self) -> int | None:
        """Pid of the router that has the right to admit."""
        return holder_of(self.folder.router_lock)

    async def until_holder(self, pid: int) -> None:
        """Waits until it has, and answers."""
        await until(lambda: self.holder == pid)
        async with asyncio.timeout(60):
            while True:  # it has the lock a moment before it has the control socket
                try:
                    assert (await self.control.state()).pid == pid
                    return
                except AgentError:
                    await asyncio.sleep(0.02)


@pytest.fixture
async def node(stopped: Running, engine: Upstream) -> AsyncIterator[Node]:
    """Serves the first release."""
    stopped.hold()
    await stopped.start()
    made = Node(stopped)
    await stopped.engines(("e0", engine.socket, RELEASES))
    await made.give(entry(RELEASES[1], 1))
    yield made
    made.control.close()


class Callers:
    """Callers that go on until told to stop, most of them over a new connection for each request."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.acked = self.sent = 1
        self.answered = self.streams = self.connections = 0
        self.wrong: list[str] = []
        self._stopped = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Callers:
        self._tasks = [asyncio.create_task(self._run(keeps=n % 6 == 0, stream=n % 3 == 0)) for n in range(CALLERS)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopped = True
        await asyncio.gather(*self._tasks)

    async def some(self, number: int = 60) -> None:
        """Waits for so many more answers."""
        before = self.answered
        await until(lambda: self.answered >= before + number)

    async def flip(self, to: int) -> None:
        self.sent = to
        (ack,) = (await self.node.give(entry(RELEASES[to], to))).acks
        assert (ack.state.value, ack.generation) == ("flipped", to)
        self.acked = to

    async def _run(self, *, keeps: bool, stream: bool) -> None:
        connector = aiohttp.TCPConnector(limit=1, force_close=not keeps)
        async with aiohttp.ClientSession(connector=connector) as session:
            while not self._stopped:
                floor = self.acked
                try:
                    await self._ask(session, stream, floor)
                except (aiohttp.ClientError, OSError) as error:
                    self.wrong.append(f"{type(error).__name__}: {error}")
                self.answered += 1
                self.streams += stream
                self.connections += not keeps
                await asyncio.sleep(0.02)

    async def _ask(self, session: aiohttp.ClientSession, stream: bool, floor: int) -> None:
        wish: dict[str, Any] = {"delay": 0.02 if stream else 0.002, "events": 8}
        body = {"model": "acme", "messages": [], "stream": stream, "test": wish}
        url, headers = f"{self.node.running.url}/v1/chat/completions", {"Authorization": f"Bearer {KEY}"}
        async with session.post(url, json=body, headers=headers) as answer:
            raw = (await answer.read()).decode()
        if answer.status != 200 or (stream and "[DONE]" not in raw):
            self.wrong.append(f"status {answer.status}: {raw[-300:]}")
        elif not floor <= (by := int(answer.headers["x-loradeck-generation"])) <= self.sent:
            self.wrong.append(f"generation {by} answered between {floor} and {self.sent}")


async def test_under_traffic_and_flips_nothing_is_refused_fails_or_is_answered_late(node: Node) -> None:
    async with Callers(node) as callers:
        await callers.some()
        old, new = await node.running.succeed()
        to = 1
        while node.holder != new.pid or to < 8:  # flips before, in and after the moment of the hand-over
            to += 1
            await callers.flip(to)
            await callers.some(4)
            assert to < len(RELEASES) - 20, node.running.errors.read_text()
        for _ in range(10):
            to += 1
            await callers.flip(to)
            await callers.some(10)
        assert await asyncio.wait_for(old.wait(), 60) == 0
        await callers.some()
        assert new.returncode is None
    held = (await node.control.state()).entries[0].generation
    late = sum("answered between" in wrong for wrong in callers.wrong)
    Found(moves=to - 1, lost=to - held, answers=callers.answered, late=late).keep()
    assert held == to
    assert callers.wrong == []
    assert callers.streams > 20
    assert callers.connections > 200
    assert holder_of(node.folder.router_drain_lock) is None
    assert (await node.control.state()).drains is None


async def test_a_request_over_a_connection_that_was_kept_is_answered_by_the_new_router(node: Node) -> None:
    assert (await node.running.ask()).text == f"e0:{RELEASES[1].engine_name}"
    _, new = await node.running.succeed()
    await node.until_holder(new.pid)
    await node.give(entry(RELEASES[2], 2))
    kept = await node.running.ask()  # the session has its connection to the old one
    assert (kept.status, kept.text) == (200, f"e0:{RELEASES[2].engine_name}")
    assert kept.headers["connection"] == "close"
    assert (await node.running.ask(key="nobody's")).status == 401
    streamed = await node.running.ask(stream=True)
    assert streamed.text == f"e0:{RELEASES[2].engine_name}"


@contextlib.asynccontextmanager
async def _long_stream(node: Node, engine: Upstream) -> AsyncIterator[asyncio.Task[str]]:
    """An answer that goes on until it is cut."""
    seen = len(engine.seen)
    answer = asyncio.create_task(_read(node))
    await until(lambda: len(engine.seen) > seen)
    yield answer
    answer.cancel()
    await asyncio.gather(answer, return_exceptions=True)


async def _read(node: Node) -> str:
    body = {"model": "acme", "messages": [], "stream": True, "test": {"events": 10_000, "delay": 0.01}}
    headers = {"Authorization": f"Bearer {KEY}"}
    raw = b""
    async with aiohttp.ClientSession() as session:
        with contextlib.suppress(aiohttp.ClientError):
            async with session.post(f"{node.running.url}/v1/chat/completions", json=body, headers=headers) as answer:
                async for chunk in answer.content.iter_any():
                    raw += chunk
    return raw.decode()


async def test_the_old_router_goes_on_with_its_answers_and_its_streams_are_counted(
    node: Node, engine: Upstream
) -> None:
    async with _long_stream(node, engine):
        old, new = await node.running.succeed()
        await node.until_holder(new.pid)
        state = await node.control.state()
        assert (state.pid, state.drains, state.build) == (new.pid, old.pid, "new")
        rows = {row.release: row.streams for row in (await node.control.stats()).traffic}
        assert rows == {RELEASES[1].id: 1}, "a release that still answers is in use"
        await node.give(entry(RELEASES[2], 2))
        await asyncio.sleep(0)
        assert old.returncode is None


async def test_a_flip_that_cuts_is_acknowledged_when_the_old_router_has_cut_too(node: Node, engine: Upstream) -> None:
    await node.give(entry(RELEASES[1], 1, streams=Streams.CUT))
    async with _long_stream(node, engine) as answer:
        old, new = await node.running.succeed()
        await node.until_holder(new.pid)
        (ack,) = (await node.give(entry(RELEASES[2], 2, streams=Streams.CUT))).acks
        assert ack.state.value == "flipped"
        await until(lambda: engine.dropped > 0)
        ended = await asyncio.wait_for(answer, 60)
        assert json.loads(ended.strip().rpartition("data: ")[2])["error"]["code"] == "release_left"
        assert old.returncode is None


async def test_an_old_router_that_does_not_cut_is_ended_before_the_flip_is_acknowledged(
    node: Node, engine: Upstream
) -> None:
    await node.give(entry(RELEASES[1], 1, streams=Streams.CUT))
    async with _long_stream(node, engine) as answer:
        old, new = await node.running.succeed()
        await node.until_holder(new.pid)
        os.kill(old.pid, signal.SIGSTOP)
        (ack,) = (await node.give(entry(RELEASES[2], 2, streams=Streams.CUT))).acks
        assert ack.state.value == "flipped"
        assert await asyncio.wait_for(old.wait(), 60) == -signal.SIGKILL
        await asyncio.wait_for(answer, 60)


async def test_an_old_router_that_says_that_it_still_answers_is_ended_too(stopped: Running, engine: Upstream) -> None:
    stopped.hold()
    await stopped.spawn(module="tests.integration.router.does_not_cut")
    await stopped.until_up()
    node = Node(stopped)
    await stopped.engines(("e0", engine.socket, RELEASES))
    await node.give(entry(RELEASES[1], 1, streams=Streams.CUT))
    async with _long_stream(node, engine) as answer:
        old, new = await stopped.succeed()
        await node.until_holder(new.pid)
        (ack,) = (await node.give(entry(RELEASES[2], 2, streams=Streams.CUT))).acks
        assert ack.state.value == "flipped"
        assert await asyncio.wait_for(old.wait(), 60) == -signal.SIGKILL
        await asyncio.wait_for(answer, 60)
    node.control.close()


async def test_a_router_that_begins_beside_one_that_drains_has_it_cut_before_it_acknowledges_what_is_in_the_table(
    stopped: Running, engine: Upstream
) -> None:
    """The one between them may have ended after the flip and before the cut."""
    await stopped.start()
    await stopped.engines(("e0", engine.socket, RELEASES))
    await stopped.table(entry(RELEASES[1], 1, streams=Streams.CUT), entry(RELEASES[1], 1, route="other"))
    await stopped.kill()
    told: list[ByRoute] = []

    async def cut(request: web.Request) -> web.Response:
        told.append(ByRoute.model_validate_json(await request.read()))
        return web.json_response({"routes": []})

    drains = web.Application()
    drains.router.add_post("/control/drain/cut", cut)
    lock = open_lock(stopped.state / DRAIN_LOCK)
    fcntl.flock(lock, fcntl.LOCK_EX)
    runner = web.AppRunner(drains)
    await runner.setup()
    try:
        await web.UnixSite(runner, str(stopped.state / DRAIN_SOCKET)).start()
        await stopped.start()
        (ack,) = await stopped.table(entry(RELEASES[1], 1, streams=Streams.CUT))
        assert ack["state"] == "flipped"
        assert told == [ByRoute(routes=((("acme", "production"), (RELEASES[1].id,)),))]
    finally:
        await stopped.kill()
        await runner.cleanup()
        os.close(lock)


async def test_a_new_router_that_crashes_at_its_start_leaves_the_old_one_serving(node: Node, tmp_path: Path) -> None:
    async with Callers(node) as callers:
        await callers.some()
        old, new = await node.running.succeed("--tls-cert", str(tmp_path / "none"))
        assert await new.wait() == 1
        await callers.flip(2)
        await callers.some()
        assert node.holder == old.pid
    assert callers.wrong == []


async def test_a_new_router_that_is_killed_before_it_takes_the_lock_is_followed_by_one_that_does(node: Node) -> None:
    async with Callers(node) as callers:
        await callers.some()
        old, new = await node.running.succeed(module="tests.integration.router.dies_taking_over")
        assert await new.wait() == -signal.SIGKILL
        assert (node.holder, old.returncode) == (None, None)
        await node.running.spawn()  # as the agent does, with the same sockets
        third = node.running.process
        assert third is not None
        await node.until_holder(third.pid)
        await callers.flip(2)
        await callers.some()
        assert (await node.control.state()).drains == old.pid
    assert callers.wrong == []


async def test_a_new_router_takes_over_from_one_that_is_killed_while_it_is_asked(node: Node) -> None:
    assert (await node.running.ask()).status == 200
    old, new = await node.running.succeed()
    os.kill(old.pid, signal.SIGSTOP)
    await node.running.hang_up()
    waiting = asyncio.create_task(node.running.ask())
    await asyncio.sleep(0.5)  # it may ask before or after: either way the old one hands nothing over
    if node.holder == old.pid:
        old.kill()
    await node.until_holder(new.pid)
    assert (await asyncio.wait_for(waiting, 60)).status == 200


async def test_the_lock_of_a_router_that_is_killed_while_it_is_asked_is_waited_for(tmp_path: Path) -> None:
    """The kernel may cut the connections of a process that was killed before it lets the table's lock go."""
    lock = open_lock(tmp_path / "router.lock")
    fcntl.flock(lock, fcntl.LOCK_EX)

    def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        asyncio.get_running_loop().call_later(0.1, os.close, lock)

    async with await asyncio.start_unix_server(hang_up, tmp_path / "router.sock"):
        new = Router(tmp_path, takes_over=True)
        await new.start("127.0.0.1", free_port())
        assert holder_of(tmp_path / "router.lock") == os.getpid()
        await new.stop()


async def test_an_old_router_that_wakes_up_too_late_hands_nothing_over(node: Node) -> None:
    assert node.running.process is not None
    os.kill(node.running.process.pid, signal.SIGSTOP)
    old, new = await node.running.succeed()
    assert await asyncio.wait_for(new.wait(), 60) == 1
    os.kill(old.pid, signal.SIGCONT)
    assert (await node.running.ask()).status == 200
    assert node.holder == old.pid
    assert (await node.control.state()).pid == old.pid


async def test_while_one_drains_another_hand_over_is_refused(node: Node, engine: Upstream) -> None:
    async with _long_stream(node, engine):
        _, second = await node.running.succeed()
        await node.until_holder(second.pid)
        _, third = await node.running.succeed()
        assert await third.wait() == 1
        assert "still ends what it admitted" in node.running.errors.read_text()
        assert node.holder == second.pid
        assert (await node.running.ask()).status == 200


async def test_what_is_in_memory_alone_is_not_handed_over(router: Running) -> None:
    assert router.here is not None
    router.here.switch._table.trouble = "the disk is full"
    with pytest.raises(AgentError, match="in memory alone"):
        await serve.ask_to_hand_over(router.state)
    assert (await router.get("/control/state"))["pid"] == os.getpid()
