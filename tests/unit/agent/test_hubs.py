"""Links to several hubs, against real WebSocket servers: one is followed, and what the others say is passed over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from tests.fleets.waiting import until
from websockets.asyncio.server import Server, ServerConnection, serve

from loradeck.client.backoff import Backoff
from loradeck.schemas.ids import Wire
from loradeck.schemas.link import Bookmark, Desired, Hello, Resync, Welcome
from loradeck.schemas.log import GENESIS
from loradeck.schemas.protocol import PROTOCOL
from loradeck_agent.host.config import AgentConfig
from loradeck_agent.host.identity import Login
from loradeck_agent.uplink.link import HubLinks

HELLO = Hello(node="gpu-01", boot="b", version="0", epoch=0, rev=0, hash=GENESIS, replicas=())
ASKS = Resync(why="a test")


class Hub:
    """A hub that greets whoever links, and says what it is told to."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self.socket: ServerConnection | None = None
        self.welcome: Welcome | None = None
        self.heard: list[str] = []

    def is_at(self, epoch: int, refuse: str | None = None) -> None:
        self.welcome = Welcome(protocol=PROTOCOL, epoch=epoch, rev=1, hash=GENESIS, refuse=refuse)

    async def say(self, message: Wire) -> None:
        assert self.socket is not None
        await self.socket.send(message.model_dump_json())

    async def leave(self) -> None:
        assert self.socket is not None
        self.welcome = None
        await self.socket.close()


@asynccontextmanager
async def listening() -> AsyncIterator[Hub]:
    async def serves(socket: ServerConnection) -> None:
        await socket.recv()
        if hub.welcome is None:
            return
        hub.socket = socket
        await hub.say(hub.welcome)
        async for text in socket:
            hub.heard.append(str(text))

    async with serve(serves, "127.0.0.1", 0) as server:
        hub = Hub(server)
        yield hub


class Ends:
    """An agent's links, and what their owner was given."""

    def __init__(self, hubs: list[Hub], folder: Path) -> None:
        path, urls = folder / "agent.toml", ", ".join(f'"{hub.url}"' for hub in hubs)
        path.write_text(
            f'node = "gpu-01"\nhub = [{urls}]\ntoken = "t"\nstate = "s"\n[router]\nlisten = "127.0.0.1:1"\n'
        )
        self.handled: list[Wire] = []
        self.changes: list[bool] = []
        self.chosen: list[str] = []
        self.noted: list[str] = []
        self.links = HubLinks(
            AgentConfig.load(path),
            lambda: Login.of_token("secret"),
            hello=self._hello,
            handle=self._handle,
            changed=self._changed,
            chose=self.chosen.append,
            noted=lambda: self.noted.append(self.links.hub),
            backoff=Backoff(0.01, 0.02),
        )

    async def _hello(self) -> Hello:
        return HELLO

    async def _handle(self, message: Wire) -> None:
        self.handled.append(message)

    async def _changed(self, connected: bool) -> None:
        self.changes.append(connected)

    async def handles(self, message: Wire) -> None:
        await until(lambda: message in self.handled, "it was handled")

    async def follows(self, hub: Hub | None) -> None:
        await until(lambda: (self.links.hub if self.links.connected else None) == (hub and hub.url), "it follows it")


@pytest.fixture
async def hubs() -> AsyncIterator[list[Hub]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(listening()) for _ in range(2)]


@pytest.fixture
async def ends(hubs: list[Hub], tmp_path: Path) -> AsyncIterator[Ends]:
    made = Ends(hubs, tmp_path)
    task = asyncio.create_task(made.links.run())
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def mark(epoch: int, rev: int) -> Bookmark:
    return Bookmark(epoch=epoch, rev=rev, hash=GENESIS)


async def test_a_hub_that_takes_over_is_followed_and_the_one_before_is_passed_over(hubs: list[Hub], ends: Ends) -> None:
    first, second = hubs
    first.is_at(1)
    await ends.follows(first)
    second.is_at(2)
    await ends.follows(second)
    await first.say(mark(1, 5))
    await second.say(mark(2, 6))
    await ends.handles(mark(2, 6))
    assert mark(1, 5) not in ends.handled
    assert await ends.links.send(ASKS)
    await until(lambda: ASKS.model_dump_json() in second.heard, "the second hub heard it")
    assert ASKS.model_dump_json() not in first.heard
    assert (ends.changes, ends.chosen) == ([True, True], [first.url, second.url])
    assert ends.noted[-1] == second.url, "what the node's status shows"


async def test_when_the_hub_that_is_followed_is_gone_another_one_is(hubs: list[Hub], ends: Ends) -> None:
    first, second = hubs
    first.is_at(1)
    second.is_at(2)
    await ends.follows(second)
    await until(lambda: first.socket, "the first hub has a link")
    await second.leave()
    await ends.follows(first)
    await first.leave()
    await ends.follows(None)
    assert ends.changes[-1] is False
    assert not await ends.links.send(ASKS)


async def test_a_hub_that_lacks_what_the_node_has_seen_is_not_followed_until_it_has_recovered(
    hubs: list[Hub], ends: Ends
) -> None:
    first, second = hubs
    first.is_at(1)
    second.is_at(7, refuse="log_behind")
    await ends.follows(first)
    await until(lambda: second.socket, "the second hub has a link")
    whole = Desired(epoch=8, rev=9, hash=GENESIS, prev_rev=0, full=True, entries=(), table=GENESIS)
    await second.say(whole.model_copy(update={"epoch": 7}))
    await first.say(mark(1, 4))
    await ends.handles(mark(1, 4))
    assert ends.links.hub == first.url
    await second.say(whole)
    await ends.follows(second)
    await ends.handles(whole)


async def test_where_all_hubs_lack_it_the_newest_is_shown_with_its_refusal(hubs: list[Hub], ends: Ends) -> None:
    for epoch, hub in enumerate(hubs, start=3):
        hub.is_at(epoch, refuse="log_behind")
    await ends.follows(hubs[1])
    assert ends.links.status.refused == "log_behind"


async def test_a_hub_that_stands_by_is_not_followed_until_it_is_active(hubs: list[Hub], ends: Ends) -> None:
    first, second = hubs
    second.is_at(3, refuse="not_active")
    await until(lambda: second.socket, "the second hub has a link")
    await second.say(mark(4, 5))
    first.is_at(2)
    await ends.follows(first)
    await first.leave()
    await ends.follows(None)
    await second.leave()
    second.is_at(5)
    await ends.follows(second)
    assert ends.chosen == [first.url, second.url]
