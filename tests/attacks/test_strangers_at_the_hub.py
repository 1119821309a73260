"""What strangers may cost the hub: nothing of them is read beyond one head, and not for long."""

from __future__ import annotations

import logging
import re
import ssl
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import httpx
import pytest
from fastapi.routing import APIRoute
from tests.attacks.raw import connected, get, post, refused
from tests.fakes.certificate import certificate
from tests.fakes.leaping_loop import leap
from tests.fleets.linked.hub import Deck, data_folder, running
from tests.fleets.waiting import PATIENCE_S
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from loradeck.hub.access.auth import Allowed
from loradeck.hub.access.routes import Guarded
from loradeck.hub.app import RESOURCES
from loradeck.hub.listeners import GRACE_S
from loradeck.hub.server import LogLine
from loradeck.strangers.protocol import StrangerLimits

WRONG = "authorization: Bearer ld_0123456789abcdef_" + "0" * 64
HEAD_S = StrangerLimits.head_s
UPGRADE = (
    "connection: Upgrade",
    "upgrade: websocket",
    "sec-websocket-version: 13",
    "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
)


async def served(deck: Deck) -> None:
    """A caller with a token is answered on a connection of its own, and so the hub has those that were made before."""
    async with connected(deck.port, get("/healthz", f"authorization: Bearer {await deck.token('viewer')}")) as raw:
        assert (await raw.first_line()).startswith(b"HTTP/1.1 200")


async def test_a_body_without_a_token_is_not_waited_for(deck: Deck) -> None:
    """The attack: `POST /v1/tokens` with 50 MB, which the hub read and parsed before it asked who sent them."""
    assert await refused(deck.port, post("/v1/tokens", body=b"[" * 65536, length=50_000_000)) == (
        401,
        "unauthenticated",
    )
    assert await refused(deck.port, post("/v1/tokens", WRONG, body=b"{")) == (401, "unauthenticated")


async def test_a_body_over_a_connection_whose_token_was_withdrawn_is_not_waited_for(deck: Deck) -> None:
    token = await deck.token("releaser")
    async with connected(deck.port, get("/v1/state", f"authorization: Bearer {token}")) as raw:
        await raw._reader.readuntil(b"\r\n\r\n")
        (record,) = await deck.ok("GET", "tokens")
        await deck.ok("DELETE", f"tokens/{record['id']}")
        await raw.send(post("/v1/jobs", f"authorization: Bearer {token}", body=b"[" * 65536, length=16_000_000))
        got = await raw.until_closed()
    assert b"HTTP/1.1 401" in got
    await deck.ok("POST", "tokens", {"name": "releaser", "role": "releaser"})


@pytest.mark.parametrize("sent", [b"", b"G", b"GET /v1/state HTTP/1.1\r\nhost: hub\r\n"])
async def test_a_header_that_does_not_come_ends_the_connection(deck: Deck, sent: bytes) -> None:
    """The attack: 8,000 half-sent headers, which stayed open for ever."""
    async with connected(deck.port, sent) as raw:
        await served(deck)
        leap(HEAD_S)
        assert await raw.refusal() == (408, "header_too_slow")


async def test_a_header_that_comes_byte_by_byte_gets_no_more_time(deck: Deck) -> None:
    async with connected(deck.port) as raw:
        for byte in get("/v1/state")[:10]:
            with suppress(ConnectionError):
                await raw.send(bytes([byte]))
            await served(deck)
            leap(HEAD_S / 10)
        await raw.until_closed()


@pytest.mark.parametrize(
    "headers",
    [
        ["x: " + "y" * 9000],
        ["x: " + "y" * 300_000],
        [f"x{n}: y" for n in range(200)],
        [f"x{n}: {'y' * 4000}" for n in range(5)],
    ],
    ids=["one long", "one without an end", "many", "large together"],
)
async def test_a_greedy_header_is_told_so(deck: Deck, headers: list[str]) -> None:
    bearer = f"authorization: Bearer {await deck.token('viewer')}"
    for request in (get("/v1/state", *headers), get("/v1/state", bearer, *headers)):
        assert await refused(deck.port, request) == (431, "header_too_large")


async def test_a_websocket_with_a_greedy_header_is_told_so(deck: Deck) -> None:
    """The attack: a handshake with a header over 8 kB, which got no answer and was never closed."""
    request = get("/v1/feed", *UPGRADE, "x: " + "y" * 9000)
    assert await refused(deck.port, request) == (431, "header_too_large")


async def test_a_websocket_without_a_token_is_refused_before_its_frames_are_read(deck: Deck) -> None:
    frame = b"\x81\xff" + (60 << 20).to_bytes(8) + b"\x00\x00\x00\x00" + b"x" * 65536
    for path in ("/v1/feed", "/v1/link"):
        assert await refused(deck.port, get(path, *UPGRADE) + frame) == (401, "unauthenticated")


async def test_what_is_no_http_ends_at_once(deck: Deck) -> None:
    assert await refused(deck.port, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03") == (400, "not_http")


async def test_more_strangers_than_there_may_be_end_the_oldest_and_callers_are_served(deck: Deck) -> None:
    """The attack: 1,300 strangers at a limit of 1,024 files, after which callers' connections were reset."""
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(connected(deck.port, b"GET /"))
        for _ in range(60):
            await stack.enter_async_context(connected(deck.port, b"GET /"))
        await served(deck)
        status, problem = await first.answer()
        assert (status, problem["code"]) == (503, "too_many_connections")


async def test_a_known_caller_outlives_the_time_of_strangers(deck: Deck) -> None:
    bearer = f"authorization: Bearer {await deck.token('viewer')}"
    async with connected(deck.port, get("/healthz", bearer)) as raw:
        await raw._reader.readuntil(b"}")
        leap(2 * HEAD_S)
        await served(deck)
        await raw.send(get("/healthz", bearer))
        assert (await raw.first_line()).startswith(b"HTTP/1.1 200")


async def test_a_body_that_does_not_come_ends_a_known_callers_connection(deck: Deck) -> None:
    token = await deck.token("releaser")
    request = post("/v1/jobs", f"authorization: Bearer {token}", body=b"{", length=1000)
    async with connected(deck.port, request) as raw:
        await served(deck)
        leap(2 * GRACE_S)  # what came of it gives it a little more
        assert await raw.refusal() == (408, "body_too_slow")
    async with connected(deck.port, get("/healthz", f"authorization: Bearer {token}")) as raw:
        await raw._reader.readuntil(b"}")
        await raw.send(b"GET /heal")
        await served(deck)
        leap(2 * GRACE_S)
        assert b"body_too_slow" in await raw.until_closed()


@pytest.mark.parametrize(("role", "most"), [("viewer", 0), ("operator", 1 << 20), ("releaser", 16 << 20)])
async def test_each_role_has_a_cap_on_what_it_sends(deck: Deck, role: str, most: int) -> None:
    bearer = f"authorization: Bearer {await deck.token(role)}"
    path = {"viewer": "/v1/state", "operator": "/v1/rewind", "releaser": "/v1/jobs"}[role]
    if role != "viewer":
        assert await refused(deck.port, post(path, bearer, body=b"{", length=most + 1)) == (413, "too_large")
    else:
        assert await refused(deck.port, get(path, bearer, "content-length: 1") + b"{") == (413, "too_large")
    chunks = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
    head = get(path, bearer, "transfer-encoding: chunked", "content-type: application/json")
    if role != "viewer":
        sent = head.replace(b"GET", b"POST", 1) + chunks * (most // (1 << 20)) + b"1\r\n \r\n"
        assert await refused(deck.port, sent) == (413, "too_large")


def test_every_call_checks_its_callers_role_before_it_reads_a_body() -> None:
    """A resource that forgets its `route_class` would read bodies first."""
    routes = [route for resource in RESOURCES for route in resource.router.routes if isinstance(route, APIRoute)]
    assert len(routes) > 60
    unguarded = {route.path for route in routes if not isinstance(route, Guarded)}
    anybodys = {r.path for r in routes if not any(isinstance(d.call, Allowed) for d in r.dependant.dependencies)}
    assert (unguarded, anybodys) == (set(), {"/healthz", "/readyz"})


async def test_a_role_is_refused_before_its_body_is_waited_for(deck: Deck) -> None:
    bearer = f"authorization: Bearer {await deck.token('operator')}"
    async with connected(deck.port, post("/v1/jobs", bearer, body=b"{", length=100_000)) as raw:
        assert (await raw.first_line()).startswith(b"HTTP/1.1 403")


async def test_a_nodes_first_message_and_a_consoles_have_a_cap(deck: Deck) -> None:
    """The attack: a hello with a label of 64 MB."""
    for role, node, path in (("agent", "n1", "link"), ("viewer", None, "feed?since=0:0")):
        headers = {"authorization": f"Bearer {await deck.token(role, node)}"}
        async with connect(f"ws://127.0.0.1:{deck.port}/v1/{path}", additional_headers=headers) as socket:
            with suppress(ConnectionClosed):
                await socket.send("x" * (5 << 20))
            await socket.wait_closed()
            assert socket.close_code == 1009
    assert not deck.hub.fleet.nodes


async def test_failed_logins_are_logged_counted_and_slowed_down(deck: Deck, caplog: pytest.LogCaptureFixture) -> None:
    answers = [await refused(deck.port, get(f"/\x1b[2J{n}", WRONG)) for n in range(25)]
    assert answers[:20] == [(401, "unauthenticated")] * 20
    assert answers[20:] == [(429, "too_many_failed_logins")] * 5
    async with connected(deck.port, get("/", WRONG)) as raw:
        assert re.search(rb"retry-after: [1-9]\d?\r", await raw.until_closed())
    (line,) = [line for line in caplog.messages if "failed login" in line]
    assert line == r"failed login from 127.0.0.1: /\x1b[2J0"
    await served(deck)
    metrics = (await (await deck.as_role("viewer")).get(f"http://127.0.0.1:{deck.port}/metrics")).text
    assert 'loradeck_refused_total{code="unauthenticated"} 20.0' in metrics
    assert 'loradeck_refused_total{code="too_many_failed_logins"} 6.0' in metrics


async def test_nobody_gives_a_failed_login_another_address(deck: Deck, caplog: pytest.LogCaptureFixture) -> None:
    """The attack: uvicorn takes the address from `x-forwarded-for` where the peer is on the same host."""
    async with connected(deck.port, get("/healthz", f"authorization: Bearer {await deck.token('viewer')}")) as raw:
        await raw._reader.readuntil(b"}")
        await raw.send(get("/v1/state", WRONG, "x-forwarded-for: 192.0.2.1"))
        assert b"HTTP/1.1 401" in await raw.until_closed()
    assert "failed login from 127.0.0.1: /v1/state" in caplog.messages


def test_no_control_character_reaches_the_hubs_log() -> None:
    """The attack: a node's version with OSC 52, which writes the clipboard of whoever reads the log."""
    entry = logging.makeLogRecord({"msg": "hello version=%s", "args": ("1\x1b]52;c;AAAA\x07\n\x9b2J\u2028é",)})
    assert LogLine("%(message)s").format(entry) == r"hello version=1\x1b]52;c;AAAA\x07\n\x9b2J\u2028" + "é"


async def test_a_failed_websocket_is_a_failed_login(deck: Deck, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InvalidStatus) as refusal:
        await connect(f"ws://127.0.0.1:{deck.port}/v1/link", additional_headers={"authorization": "Bearer x"})
    assert refusal.value.response.status_code == 401
    assert "failed login from 127.0.0.1: /v1/link" in caplog.messages
    assert not [r for r in caplog.records if r.levelname == "ERROR"]


async def test_a_hub_with_strangers_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not wait for them, or it would wait for an hour here."""
    monkeypatch.setattr("loradeck.hub.server.END_S", 3600)
    async with AsyncExitStack() as stack, data_folder() as data, running(data) as deck:
        for _ in range(5):
            await stack.enter_async_context(connected(deck.port, b"GET /"))
        await served(deck)


async def test_handshakes_that_do_not_come_end_and_callers_are_served(tmp_path: Path) -> None:
    cert, private = certificate(tmp_path)
    limits = StrangerLimits(head_s=PATIENCE_S, strangers=20)
    async with (
        data_folder() as data,
        running(data, limits=limits, cert=cert, private=private) as deck,
        AsyncExitStack() as s,
    ):
        token = await deck.token("viewer")
        silent = [await s.enter_async_context(connected(deck.port)) for _ in range(30)]
        for raw in silent[:10]:
            assert await raw.until_closed() == b"", "there are too many"
        trust, bearer = ssl.create_default_context(cafile=str(cert)), {"authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(verify=trust, headers=bearer, timeout=PATIENCE_S) as client:
            assert (await client.get(f"https://127.0.0.1:{deck.port}/healthz")).status_code == 200
            wrong = await client.get(f"https://127.0.0.1:{deck.port}/healthz", headers={"authorization": "Bearer x"})
            assert wrong.json()["code"] == "unauthenticated"
        agent = {"authorization": f"Bearer {await deck.token('agent', 'n1')}"}
        async with connect(f"wss://127.0.0.1:{deck.port}/v1/link", additional_headers=agent, ssl=trust) as link:
            await link.send("no hello")
            await link.wait_closed()
            assert link.close_code == 4400
        leap(PATIENCE_S)
        for raw in silent[10:]:
            assert await raw.until_closed() == b"", "their time is over"
