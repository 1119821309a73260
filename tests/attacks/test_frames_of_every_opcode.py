"""Frames that are no messages, on a node's link and on a console's feed: their connection ends, and others are served.

The hub runs in a process of its own and each attack is made of bytes, since no client's library would send them.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import httpx
import pytest
from tests.attacks.raw import Raw, connected, get
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.processes.hub import HubProcess, hub_with_a_tenant
from websockets.frames import Close, Frame, Opcode

from loradeck.rules.serving.link_bounds import BURST_BYTES, FRAME_BYTES

MOST_FRAMES = BURST_BYTES // FRAME_BYTES
"""Frames that a connection may send at once."""

FLOOD = 200_000
"""Frames that an attack has: a hub that reads them all is busy with them for seconds."""

GROWTH_BYTES = 50 << 20


def sent(opcode: Opcode, data: bytes = b"", *, fin: bool = True) -> bytes:
    """A frame as a client sends it."""
    return Frame(opcode, data, fin=fin).serialize(mask=True)


KINDS = {
    "empty pings": (b"", sent(Opcode.PING)),
    "full pings": (b"", sent(Opcode.PING, b"p" * 125)),
    "pongs": (b"", sent(Opcode.PONG)),
    "continuations": (sent(Opcode.TEXT, fin=False), sent(Opcode.CONT, fin=False)),
    "binary messages": (b"", sent(Opcode.BINARY, b'{"type":"heartbeat"}')),
}
"""What an attack begins with, and the frame that it goes on with."""

SHOW = sent(Opcode.TEXT, b'{"rows":null}')

PLACES = ("link", "feed")

_nodes = (f"n{number}" for number in itertools.count(1))


@pytest.fixture(scope="module")
def hub() -> Iterator[HubProcess]:
    with hub_with_a_tenant() as hub:
        yield hub


def agent_token(hub: HubProcess, node: str) -> str:
    """A token of a node."""
    token: str = hub.local("POST", "tokens", {"name": node, "role": "agent", "node": node})["token"]
    return token


@asynccontextmanager
async def opened(hub: HubProcess, place: str) -> AsyncIterator[Raw]:
    """A link of a new node that has said hello, or a feed, and that has had its first frame."""
    node = next(_nodes)
    token = agent_token(hub, node) if place == "link" else hub.token("viewer")
    async with opened_by(hub, place, token, node) as raw:
        yield raw


@asynccontextmanager
async def opened_by(hub: HubProcess, place: str, token: str, node: str = "") -> AsyncIterator[Raw]:
    """The same by a token; its hello is a node's."""
    headers = (
        f"authorization: Bearer {token}",
        "upgrade: websocket",
        "connection: Upgrade",
        "sec-websocket-version: 13",
        "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
    )
    status = hub.local("GET", "state")["status"]
    path = "/v1/link" if place == "link" else f"/v1/feed?since={status['epoch']}:{status['rev']}"
    async with connected(hub.port, get(path, *headers)) as raw:
        assert await raw.first_line() == b"HTTP/1.1 101 Switching Protocols\r\n"
        await raw._reader.readuntil(b"\r\n\r\n")
        if place == "link":
            await raw.send(sent(Opcode.TEXT, LinkedAgent(None, node).hello().model_dump_json().encode()))
        await raw._reader.readexactly(2)
        yield raw


async def flood(raw: Raw, frame: bytes) -> None:
    """Sends an attack until it is all sent, or the other end has closed."""
    with suppress(ConnectionError):
        for _ in range(100):
            await raw.send(frame * (FLOOD // 100))


def cut(hub: HubProcess) -> float:
    """How many connections the hub has closed for their frames."""
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(hub.socket), verify=False), timeout=60) as client:
        text = client.get("http://hub/metrics").text
    return sum(float(n) for n in re.findall(r'^loradeck_refused_total\{code="too_many_frames"\} (\S+)$', text, re.M))


async def is_served(hub: HubProcess) -> bool:
    """Whether another caller is answered."""
    async with httpx.AsyncClient(timeout=60) as client:
        bearer = {"authorization": f"Bearer {hub.token('operator')}"}
        return (await client.get(f"{hub.url}/v1/me", headers=bearer)).is_success


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
async def test_a_flood_of_frames_ends_its_connection_and_others_are_served(
    hub: HubProcess, place: str, kind: str
) -> None:
    assert await is_served(hub)
    before, closed, (beginning, frame) = hub.memory(), cut(hub), KINDS[kind]
    async with opened(hub, place) as raw:
        await raw.send(beginning)
        flooding = asyncio.create_task(flood(raw, frame))
        answers = await raw.until_closed()
        assert await is_served(hub)
        await flooding
    pong = Frame(Opcode.PONG, b"p" * 125 if kind == "full pings" else b"").serialize(mask=False)
    assert "pings" not in kind or answers.count(pong) <= 2 * MOST_FRAMES
    assert cut(hub) == closed + 1
    assert hub.memory() - before < GROWTH_BYTES


async def test_a_flood_of_a_feeds_messages_ends_it(hub: HubProcess) -> None:
    closed = cut(hub)
    async with opened(hub, "feed") as raw:
        flooding = asyncio.create_task(flood(raw, SHOW))
        await raw.until_closed()
        assert await is_served(hub)
        await flooding
    assert cut(hub) == closed + 1


@pytest.mark.parametrize("place", PLACES)
async def test_pings_of_a_peer_that_reads_no_pong_are_not_answered_without_bound(hub: HubProcess, place: str) -> None:
    before = hub.memory()
    async with opened(hub, place) as raw:
        raw._writer.transport.pause_reading()
        await flood(raw, KINDS["full pings"][1])
        assert await is_served(hub)
        raw._writer.transport.resume_reading()
        await raw.until_closed()
    assert hub.memory() - before < GROWTH_BYTES


@pytest.mark.parametrize("place", PLACES)
async def test_a_ping_and_a_message_in_parts_are_read_as_ever(hub: HubProcess, place: str) -> None:
    text = b'{"type":"heartbeat"}' if place == "link" else b'{"rows":null}'
    parts = [sent(Opcode.TEXT, text[:5], fin=False), sent(Opcode.CONT, text[5:])]
    async with opened(hub, place) as raw:
        await raw.send(b"".join([*parts, sent(Opcode.PING, b"are you there"), *parts]))
        async with asyncio.timeout(60):
            await raw._reader.readuntil(b"are you there")


async def test_who_was_closed_for_frames_is_logged_in_few_lines() -> None:
    with hub_with_a_tenant() as hub:
        tokens = {"link": agent_token(hub, "n1"), "feed": hub.token("viewer")}
        for place, token in tokens.items():
            for _ in range(10):
                with suppress(AssertionError):  # a link is refused after some
                    async with opened_by(hub, place, token, "n1") as raw:
                        await flood(raw, KINDS["empty pings"][1])
                        await raw.until_closed()
        lines = [line for line in hub.log().splitlines() if "more frames" in line]
        assert sorted(line.rpartition(" of ")[2].split()[0] for line in lines) == ["n1", "viewer"]
        assert "Traceback" not in hub.log()


async def test_the_close_code_says_that_it_was_too_much(hub: HubProcess) -> None:
    async with opened(hub, "feed") as raw:
        await raw.send(KINDS["pongs"][1] * (2 * MOST_FRAMES))
        answers = await raw.until_closed()
    assert answers.endswith(Frame(Opcode.CLOSE, Close(1008, "too_many_frames").serialize()).serialize(mask=False))
