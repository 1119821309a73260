"""Calls to several hubs of which one is active: it is found, followed, and named where there is none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from loradeck.client import transport
from loradeck.client.config import Context
from loradeck.client.connect import Endpoint, Hubs
from loradeck.client.errors import ApiError, HubUnreachable
from loradeck.client.transport import AnswerLost, Transport, http_client

A, B, C = "https://a", "https://b", "https://c"


class Fleet:
    """Hubs by their addresses: each answers, stands by and perhaps names the active one, or is away."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        token = tmp_path / "token"
        token.write_text("secret")
        token.chmod(0o600)
        self.context = Context(name="t", url=A, others=(B, C), token_file=token)
        self.said: dict[str, Callable[[], httpx.Response]] = {}
        self.asked: list[str] = []
        self.hangs = ""
        monkeypatch.setattr(transport, "http_client", self.client)
        monkeypatch.setattr(transport, "FAILOVER_S", 60.0)
        monkeypatch.setattr(transport, "AROUND_S", 0.01)

    def client(self, point: Endpoint) -> httpx.AsyncClient:
        async def answer(request: httpx.Request) -> httpx.Response:
            if f"https://{request.url.host}" == self.hangs:
                await asyncio.Event().wait()
            self.asked.append(f"https://{request.url.host}")
            return self.said[self.asked[-1]]()

        http = http_client(point)
        http._transport = httpx.MockTransport(answer)
        return http

    def transport(self) -> Transport:
        hubs = Hubs(self.context)
        return Transport(hubs.endpoint(), hubs=hubs)


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fleet:
    return Fleet(monkeypatch, tmp_path)


def active() -> httpx.Response:
    return httpx.Response(200, json={"ok": True})


def stands_by(named: str = "") -> Callable[[], httpx.Response]:
    document = {"status": 503, "code": "not_active", "title": "stands by", "context": {"address": named}}
    return lambda: httpx.Response(503, json=document)


def away() -> httpx.Response:
    raise httpx.ConnectError("refused")


def broken() -> httpx.Response:
    raise httpx.ReadError("reset")


async def test_a_hub_that_hangs_is_left_once_another_one_is_active(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "PATIENCE_S", 0.01)
    lease = {"hub": "c", "holder": "c", "address": C, "left_s": 3, "epoch": 2, "rev": 1, "lag": 0, "read_s": 0}
    leases = {B: False, C: True}
    fleet.hangs = A
    fleet.said = {B: lambda: said(B), C: lambda: said(C)}

    def said(address: str) -> httpx.Response:
        return httpx.Response(200, json={**lease, "active": leases[address]})

    made = fleet.transport()
    with pytest.raises(AnswerLost):
        await made.request("POST", "x")
    assert made.parse(dict, await made.request("GET", "x"))["active"]
    assert made.where == C
    await made.aclose()
    made = fleet.transport()
    assert await made.request("GET", "x"), "what may be repeated is"
    await made.aclose()


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_the_hub_that_is_named_is_asked_at_once_and_from_then_on(fleet: Fleet, method: str) -> None:
    fleet.said = {A: stands_by(C), B: away, C: active}
    made = fleet.transport()
    assert await made.request(method, "x")
    assert await made.request(method, "x")
    assert (fleet.asked, made.where) == ([A, C, C], C)
    await made.aclose()


async def test_where_none_is_named_each_is_asked_in_its_turn_until_one_is_active(fleet: Fleet) -> None:
    rounds = 0

    def at_last() -> httpx.Response:
        nonlocal rounds
        rounds += 1
        return active() if rounds == 3 else stands_by()()

    fleet.said = {A: away, B: at_last, C: stands_by("https://elsewhere")}
    made = fleet.transport()
    assert await made.request("POST", "x")
    assert fleet.asked == [A, B, C] * 2 + [A, B]
    await made.aclose()


async def test_a_request_that_may_have_arrived_is_not_sent_elsewhere_and_the_next_one_is(fleet: Fleet) -> None:
    fleet.said = {A: broken, B: active, C: away}
    made = fleet.transport()
    with pytest.raises(AnswerLost):
        await made.request("POST", "x")
    assert fleet.asked == [A]
    assert await made.request("POST", "x")
    assert fleet.asked == [A, B]
    await made.aclose()


async def test_what_may_be_repeated_is_asked_for_until_a_hub_is_active_behind_proxies_that_break_off(
    fleet: Fleet,
) -> None:
    rounds = 0

    def at_last() -> httpx.Response:
        nonlocal rounds
        rounds += 1
        return active() if rounds == 3 else stands_by()()

    fleet.said = {A: broken, B: at_last, C: broken}  # a proxy takes the connection of a hub that is away
    made = fleet.transport()
    assert await made.request("GET", "x")
    assert fleet.asked == [A, B, C] * 2 + [A, B]
    await made.aclose()


async def test_where_none_is_active_all_are_named_with_what_they_said(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = [0.0]
    monkeypatch.setattr(transport, "time", SimpleNamespace(monotonic=lambda: sum(passed)))

    def at_the_end() -> httpx.Response:
        passed.append(transport.FAILOVER_S + 1)
        return away()

    fleet.said = {A: away, B: stands_by(), C: at_the_end}
    made = fleet.transport()
    with pytest.raises(HubUnreachable, match="none of the hubs was active") as error:
        await made.request("POST", "x")
    assert all(address in error.value.detail for address in (A, B, C))
    assert fleet.asked == [A, B, C]
    await made.aclose()


async def test_another_refusal_is_not_asked_for_elsewhere(fleet: Fleet) -> None:
    fleet.said = {A: lambda: httpx.Response(409, json={"status": 409, "code": "held", "title": "held"})}
    made = fleet.transport()
    with pytest.raises(ApiError, match="held"):
        await made.request("POST", "x")
    assert fleet.asked == [A]
    await made.aclose()


async def test_a_hub_alone_that_stands_by_says_so(fleet: Fleet) -> None:
    fleet.context = Context(name="t", url=A, token_file=fleet.context.token_file)
    fleet.said = {A: stands_by(B)}
    made = fleet.transport()
    with pytest.raises(ApiError, match="stands by"):
        await made.request("POST", "x")
    assert fleet.asked == [A]
    await made.aclose()
