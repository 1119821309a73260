"""People who sign in at a provider, and what is left of it while the provider is silent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import pytest
from tests.fakes.sign_in_provider import FakeProvider, fake_provider
from tests.fleets.linked.hub import Deck, data_folder, key, running, to_the_end
from tests.fleets.waiting import until
from websockets.asyncio.client import connect

from loradeck.hub.hub import Hub
from loradeck.rules.access import SILENCE_MS
from loradeck.rules.clocks import HOUR_MS
from loradeck.schemas.feed import FeedReset

ROUTE = "tenants/acme/routes/production"


@dataclass
class People:
    deck: Deck
    provider: FakeProvider

    def client(self, token: str | None = None) -> httpx.AsyncClient:
        return self.deck.with_token(token or self.provider.token())

    async def silence(self, after_ms: int) -> None:
        """The provider stops answering, and the hub's clock goes on."""
        await self.provider.stop()
        await until(lambda: not _answers(self.deck.hub), "the hub has heard the silence")
        put_on(self.deck.hub, after_ms)


def put_on(hub: Hub, ms: int) -> None:
    now = hub.clock.now_ms()
    hub.clock.now_ms = lambda: now + ms


def _answers(hub: Hub) -> bool:
    assert hub.sign_ins is not None
    return bool(hub.sign_ins._answers)


@pytest.fixture
async def people() -> AsyncIterator[People]:
    async with data_folder() as data, fake_provider() as provider, running(data, oidc=provider.settings()) as deck:
        await deck.tenant()
        await until(lambda: _answers(deck.hub), "the provider has answered")
        yield People(deck, provider)


async def hold(client: httpx.AsyncClient, held: bool = True) -> httpx.Response:
    return await client.post(f"{ROUTE}/hold", json={"held": held, "expected_generation": 0, "idempotency_key": key()})


async def test_an_event_has_the_name_and_the_subject_of_who_signed_in(people: People) -> None:
    answer = await hold(people.client())
    (event,) = answer.json()["events"]
    assert (event["actor"], event["token"], event["role"]) == ("Ann", "oidc:s-1", "operator")


async def test_a_feed_ends_with_the_last_token_of_its_person_and_not_before(people: People) -> None:
    token = people.provider.token()
    async with connect(
        f"ws://127.0.0.1:{people.deck.port}/v1/feed?since=0:0", additional_headers={"authorization": f"Bearer {token}"}
    ) as socket:
        later = people.client(people.provider.token(exp=int(time.time()) + 3 * 3600))
        assert (await later.get("me")).status_code == 200
        put_on(people.deck.hub, 2 * HOUR_MS)
        assert (await people.client(token).get("me")).status_code == 401
        await people.deck.hub._tick()
        assert not any(s.reset for s in people.deck.hub.changes.subscribers)
        put_on(people.deck.hub, 2 * HOUR_MS)
        await people.deck.hub._tick()
        messages, _ = await to_the_end(socket)
    assert isinstance(messages[-1], FeedReset)


async def test_while_the_provider_is_silent_what_puts_back_is_left_and_nothing_else(people: People) -> None:
    client = people.client()
    assert (await client.get("me")).status_code == 200
    await people.silence(2 * HOUR_MS)
    assert (await client.get("me")).json()["backward"] is True
    assert (await hold(client)).status_code == 200
    for path, code in (("rollback", "nothing_live"), ("fallback", "nothing_live")):
        body = {"expected_generation": 0, "idempotency_key": key()}
        assert (await client.post(f"{ROUTE}/{path}", json=body)).json()["code"] != "provider_silent", code
    assert (await hold(client, held=False)).json()["code"] == "provider_silent"
    for method, path in (("POST", f"{ROUTE}/undo"), ("POST", f"{ROUTE}/promote"), ("POST", "rewind"), ("PUT", ROUTE)):
        refused = await client.request(method, path, json={})
        assert (refused.status_code, refused.json()["code"]) == (403, "provider_silent")
    await people.deck.hub.audit.flush()
    lines = await people.deck.ok("GET", "audit")
    assert "signed in before the provider fell silent" in {line["detail"] for line in lines}
    assert any(line["call"] == "provider" and "does not answer" in line["detail"] for line in lines)


async def test_a_day_of_silence_ends_it(people: People) -> None:
    client = people.client()
    assert (await client.get("me")).status_code == 200
    await people.silence(SILENCE_MS + HOUR_MS)
    assert (await client.get("me")).status_code == 401


async def test_an_answer_of_the_provider_ends_it_at_once(people: People) -> None:
    client = people.client()
    assert (await client.get("me")).status_code == 200
    await people.silence(2 * HOUR_MS)
    assert (await client.get("me")).status_code == 200
    await people.provider.start()
    await until(lambda: _answers(people.deck.hub), "the provider has answered again")
    assert (await client.get("me")).status_code == 401


async def test_a_token_that_was_never_seen_while_it_was_valid_is_none_in_a_silence(people: People) -> None:
    client = people.client()
    await people.silence(2 * HOUR_MS)
    assert (await client.get("me")).status_code == 401


async def test_a_sign_out_is_for_good_in_a_silence_too(people: People) -> None:
    client = people.client()
    assert (await client.delete("me/sign-in")).status_code == 204
    await people.silence(2 * HOUR_MS)
    assert (await client.get("me")).status_code == 401


async def test_a_hub_that_starts_while_the_provider_is_silent_knows_who_was_signed_in() -> None:
    async with data_folder() as data, fake_provider() as provider:
        token, settings = provider.token(), provider.settings()
        async with running(data, oidc=settings) as deck:
            await deck.tenant()
            await until(lambda: _answers(deck.hub), "the provider has answered")
            assert (await deck.with_token(token).get("me")).status_code == 200
        await provider.stop()
        async with running(data, oidc=settings) as deck:
            assert deck.hub.sign_ins is not None
            assert (await deck.with_token(token).get("me")).json() == {
                "actor": "Ann",
                "role": "operator",
                "local": False,
            }
            await until(lambda: deck.hub.sign_ins and deck.hub.sign_ins._answers is False, "the hub has asked")
            put_on(deck.hub, 2 * HOUR_MS)
            assert (await deck.with_token(token).get("me")).json()["backward"] is True
        await provider.start()


async def test_what_signs_in_over_and_over_is_not_kept_for_ever(people: People) -> None:
    now = int(time.time())
    for n in range(10):
        token = people.provider.token(exp=now + 60 + n)
        assert (await people.client(token).get("me")).status_code == 200
    put_on(people.deck.hub, HOUR_MS)
    await asyncio.sleep(0)
    token = people.provider.token(exp=now + 3 * 3600)
    assert (await people.client(token).get("me")).status_code == 200
    assert people.deck.hub.sign_ins is not None
    assert len(people.deck.hub.sign_ins.take_unsaved().records) == 5
