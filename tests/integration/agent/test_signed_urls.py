"""Large files come from the object store that the hub sends an agent to, which learns nothing of the agent."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import cast

import pytest
from aiohttp import web
from tests.integration.agent.fake_hub import FakeHub

from loradeck_agent.host.config import AgentConfig
from loradeck_agent.host.errors import Unreachable
from loradeck_agent.host.identity import Login
from loradeck_agent.uplink.hub_api import HubApi

DATA = bytes(range(256)) * 4096
SHA = hashlib.sha256(DATA).hexdigest()
TOKEN = "token-of-the-node"


class Store:
    """An object store: what it was asked, and how it answers."""

    def __init__(self) -> None:
        self.asked: list[web.BaseRequest] = []
        self.status = 200
        self.breaks_off = False
        self.url = ""

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append(request)
        if self.breaks_off:
            response = web.StreamResponse(headers={"content-length": str(len(DATA))})
            await response.prepare(request)
            await response.write(DATA[:70_000])
            assert request.transport is not None
            request.transport.close()
            return response
        return web.Response(status=self.status, body=DATA if self.status == 200 else b"<Error/>")


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    made = Store()
    runner = web.ServerRunner(web.Server(made.answer))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


@pytest.fixture
async def hub() -> AsyncIterator[FakeHub]:
    made = FakeHub(TOKEN, "n1")
    made.blobs[SHA] = DATA
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def api(hub: FakeHub) -> AsyncIterator[HubApi]:
    login = cast(Login, SimpleNamespace(headers={"authorization": f"Bearer {TOKEN}"}, tls=None, server=None))
    made = HubApi(cast(AgentConfig, SimpleNamespace(hub=hub.url)), lambda: login)
    yield made
    made.close()


async def fetched(api: HubApi) -> bytes:
    got: list[bytes] = []
    await api.blob(SHA, got.append)
    return b"".join(got)


async def test_a_file_comes_from_the_store_which_is_shown_no_credentials(
    api: HubApi, hub: FakeHub, store: Store
) -> None:
    hub.elsewhere = store.url
    assert await fetched(api) == DATA
    (asked,) = store.asked
    assert asked.path_qs == f"/{SHA}?signature=secret"
    assert asked.headers["host"] == store.url.removeprefix("http://")
    assert TOKEN not in str(dict(asked.headers))


@pytest.mark.parametrize("why", ["refuses", "is not there", "has another scheme"])
async def test_the_hub_gives_what_the_store_does_not(api: HubApi, hub: FakeHub, store: Store, why: str) -> None:
    store.status = 403
    hub.elsewhere = {"refuses": store.url, "is not there": "http://127.0.0.1:9", "has another scheme": "ftp://x"}[why]
    assert await fetched(api) == DATA


async def test_a_hub_with_tls_sends_nobody_to_an_address_without(api: HubApi, hub: FakeHub, store: Store) -> None:
    api.use("https://hub.example:1")
    assert not await api._from_store(f"{store.url}/{SHA}?signature=secret", lambda _: None)
    assert store.asked == []


async def test_a_store_that_breaks_off_is_an_error_without_the_signature(
    api: HubApi, hub: FakeHub, store: Store
) -> None:
    hub.elsewhere, store.breaks_off = store.url, True
    with pytest.raises(Unreachable) as caught:
        await fetched(api)
    assert "secret" not in repr(caught.value.args) + caught.value.sentence


async def test_a_hub_that_sends_nobody_elsewhere_gives_the_file_itself(api: HubApi, store: Store) -> None:
    assert await fetched(api) == DATA
    assert store.asked == []
