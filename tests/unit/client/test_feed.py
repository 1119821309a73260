"""The feed follower against a small hub on a Unix socket: what it yields, and what it says of the link."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from pathlib import Path

import pytest
from websockets.asyncio.server import ServerConnection, unix_serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from loradeck.client.backoff import Backoff
from loradeck.client.config import Context
from loradeck.client.feed import FIRST_WAIT_S, LONGEST_WAIT_S, Feed, FeedItem, FeedLink, LinkChange
from loradeck.client.state_list import Listed
from loradeck.schemas.feed import FeedReset, FeedStatus
from loradeck.schemas.ids import Role
from loradeck.schemas.log import GENESIS
from loradeck.schemas.problem import Problem
from loradeck.schemas.state import HubState, HubStatus, Me

STATUS = HubStatus(
    hub="h", version="1", epoch=3, rev=7, hash=GENESIS, at_ms=0, started_ms=0, refusing=None, production=False
)
STATE = HubState(
    status=STATUS, me=Me(actor="op", role=Role.VIEWER, local=True), tenants=(), nodes=(), jobs=(), events=()
)
Session = Callable[[ServerConnection], Awaitable[None]]


class SmallHub:
    """Lists one state, and runs the next of `sessions` for each feed that is opened."""

    def __init__(self) -> None:
        self.sessions: list[Session] = []
        self.opened: list[str] = []
        self.lists = 0
        self.refusal: Problem | None = None

    async def feed(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        self.opened.append(connection.request.path)
        session = self.sessions.pop(0) if self.sessions else quiet
        await session(connection)

    def answer(self, connection: ServerConnection, request: Request) -> Response | None:
        if self.refusal is not None:
            return _answer(self.refusal.status, self.refusal.model_dump_json())
        if request.path == "/v1/state":
            self.lists += 1
            return _answer(200, STATE.model_dump_json())
        return None


def _answer(status: int, body: str) -> Response:
    data = body.encode()
    headers = Headers({"content-length": str(len(data)), "content-type": "application/json", "connection": "close"})
    return Response(status, HTTPStatus(status).phrase, headers, data)


async def quiet(connection: ServerConnection) -> None:
    await connection.wait_closed()


def says(*messages: str) -> Session:
    """Sends messages, then stays silent."""

    async def session(connection: ServerConnection) -> None:
        for message in messages:
            await connection.send(message)
        await connection.wait_closed()

    return session


def drops() -> Session:
    """Breaks the connection without a goodbye."""

    async def session(connection: ServerConnection) -> None:
        connection.transport.abort()

    return session


@pytest.fixture
async def small_hub(folder: Path) -> AsyncIterator[tuple[SmallHub, Context]]:
    hub = SmallHub()
    async with unix_serve(hub.feed, str(folder / "s"), process_request=hub.answer, compression=None):
        yield hub, Context(name="t", socket=folder / "s")


async def take(feed: Feed, count: int) -> list[FeedItem]:
    """The first items of a feed, within ten seconds."""
    items: list[FeedItem] = []
    async with asyncio.timeout(60), contextlib.aclosing(feed.follow()) as stream:
        async for item in stream:
            items.append(item)
            if len(items) == count:
                break
    return items


def links(items: list[FeedItem]) -> list[FeedLink]:
    return [item.state for item in items if isinstance(item, LinkChange)]


def status(rev: int) -> str:
    return FeedStatus(status=STATUS.model_copy(update={"rev": rev})).model_dump_json()


def whole(item: FeedItem) -> HubState:
    """What was listed, with all its rows."""
    assert isinstance(item, Listed)
    return HubState(
        status=item.status,
        me=item.me,
        tenants=tuple(item.tenants),
        nodes=tuple(item.nodes),
        jobs=item.jobs,
        events=item.events,
    )


async def test_it_lists_then_watches_from_the_lists_cursor(small_hub: tuple[SmallHub, Context]) -> None:
    hub, context = small_hub
    hub.sessions = [says(status(8), status(9))]
    items = await take(Feed(context), 5)
    assert links(items) == [FeedLink.CONNECTING, FeedLink.UP]
    assert whole(items[2]) == STATE
    assert [item.status.rev for item in items if isinstance(item, FeedStatus)] == [8, 9]
    assert hub.opened == ["/v1/feed?since=3:7&seq=0"]


async def test_a_broken_link_is_said_to_be_lost_and_listed_again(small_hub: tuple[SmallHub, Context]) -> None:
    hub, context = small_hub
    hub.sessions = [drops(), quiet]
    items = await take(Feed(context, backoff=Backoff(FIRST_WAIT_S, LONGEST_WAIT_S, random.Random(1).uniform)), 6)
    assert links(items) == [FeedLink.CONNECTING, FeedLink.UP, FeedLink.LOST, FeedLink.UP]
    lost = next(item for item in items if isinstance(item, LinkChange) and item.state is FeedLink.LOST)
    assert lost.why
    assert hub.lists == 2


async def test_a_silent_link_is_lost(small_hub: tuple[SmallHub, Context]) -> None:
    _, context = small_hub
    items = await take(Feed(context, silence_s=0.05), 4)
    assert links(items) == [FeedLink.CONNECTING, FeedLink.UP, FeedLink.LOST]
    assert isinstance(items[3], LinkChange)
    assert "nothing heard for 0.05 s" in items[3].why


async def test_a_reset_lists_again_without_calling_the_link_lost(small_hub: tuple[SmallHub, Context]) -> None:
    hub, context = small_hub
    hub.sessions = [says(FeedReset(why="too old").model_dump_json()), quiet]
    items = await take(Feed(context), 5)
    assert links(items) == [FeedLink.CONNECTING, FeedLink.UP, FeedLink.UP]
    assert whole(items[2]) == whole(items[4]) == STATE


async def test_a_kind_of_message_that_is_not_known_is_passed_over(small_hub: tuple[SmallHub, Context]) -> None:
    hub, context = small_hub
    hub.sessions = [says(json.dumps({"type": "weather", "sky": "blue"}), status(8))]
    items = await take(Feed(context), 4)
    assert isinstance(items[3], FeedStatus)


async def test_a_message_that_is_malformed_loses_the_link_and_names_the_field(
    small_hub: tuple[SmallHub, Context],
) -> None:
    hub, context = small_hub
    hub.sessions = [says(json.dumps({"type": "tenants", "rows": "none"}))]
    items = await take(Feed(context), 4)
    assert isinstance(items[3], LinkChange)
    assert items[3].state is FeedLink.LOST
    assert "rows" in items[3].why


async def test_a_refused_token_is_told_apart_from_a_lost_link(small_hub: tuple[SmallHub, Context]) -> None:
    hub, context = small_hub
    hub.refusal = Problem(status=401, code="unauthenticated", title="no valid token", fix="get one")
    items = await take(Feed(context), 2)
    assert isinstance(items[1], LinkChange)
    assert (items[1].state, items[1].why, items[1].fix) == (FeedLink.REFUSED, "no valid token", "get one")
    assert hub.opened == []


async def test_a_hub_that_is_not_there_is_lost(tmp_path: Path) -> None:
    feed = Feed(Context(name="t", socket=tmp_path / "none"))
    items = await take(feed, 2)
    assert links(items) == [FeedLink.CONNECTING, FeedLink.LOST]


async def test_the_rows_on_the_screen_are_said_again_after_a_reconnect(small_hub: tuple[SmallHub, Context]) -> None:
    hub, context = small_hub
    said: list[object] = []

    async def first(connection: ServerConnection) -> None:
        said.append(json.loads(await connection.recv()))
        connection.transport.abort()

    async def second(connection: ServerConnection) -> None:
        said.append(json.loads(await connection.recv()))
        await connection.send(status(9))
        await connection.wait_closed()

    hub.sessions = [first, second]
    feed = Feed(context)
    async with asyncio.timeout(60), contextlib.aclosing(feed.follow()) as stream:
        async for item in stream:
            if isinstance(item, Listed) and not said:
                await feed.show(("acme/production",))
            if isinstance(item, FeedStatus):
                break
    assert said == [{"type": "show", "rows": ["acme/production"], "nodes": None}] * 2


async def test_a_token_file_that_becomes_unsafe_stops_the_next_connection(
    small_hub: tuple[SmallHub, Context], tmp_path: Path
) -> None:
    hub, context = small_hub
    token = tmp_path / "token"
    token.write_text("ld_x_y")
    token.chmod(0o600)
    hub.sessions = [drops()]
    feed = Feed(Context(name="t", socket=context.socket, token_file=token))
    async with asyncio.timeout(60), contextlib.aclosing(feed.follow()) as stream:
        whys = []
        async for item in stream:
            if isinstance(item, LinkChange) and item.state is FeedLink.LOST:
                token.chmod(0o644)
                whys.append(item.why)
                if len(whys) == 2:
                    break
    assert "can be read by others" in whys[1]
    assert hub.lists == 1
