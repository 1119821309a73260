"""What strangers may cost a router: callers with a tenant's key are served beside any number of them."""

from __future__ import annotations

import json
import resource
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.attacks.raw import Raw, connected, get, post, refused
from tests.fakes.leaping_loop import leap
from tests.fleets.linked.hub import data_folder
from tests.integration.router.running import KEY, Running, release
from tests.integration.router.running import unchecked as entry
from tests.integration.router.upstream import Upstream

from loradeck.strangers.protocol import StrangerLimits

BODY = json.dumps({"model": "acme", "messages": [{"role": "user", "content": "hello"}]}).encode()
WRONG = "authorization: Bearer no-such-key"
HEAD_S = StrangerLimits.head_s


async def _filled(router: Running, path: Path, stack: AsyncExitStack) -> None:
    engine = Upstream("e0", str(path / "e0.sock"))
    await engine.start()
    stack.push_async_callback(engine.stop)
    v1 = release("v1")
    await router.post("/control/hub", {"connected": True})
    await router.engines(("e0", str(path / "e0.sock"), [v1]))
    await router.table(entry(v1))


@pytest.fixture
async def router() -> AsyncIterator[Running]:
    """A router with one tenant, that few strangers may be connected to at once. Its table stays as it is."""
    async with AsyncExitStack() as stack:
        path = await stack.enter_async_context(data_folder())
        router = Running(path)
        stack.push_async_callback(router.close)
        await router.start_here(StrangerLimits(strangers=50))
        await _filled(router, path, stack)
        before = await router.get("/control/state")
        yield router
        assert await router.get("/control/state") == before


async def served(port: int) -> None:
    """A caller with acme's key is answered on a connection of its own, and so the router has those made before."""
    async with connected(port, post("/v1/chat/completions", f"authorization: Bearer {KEY}", body=BODY)) as raw:
        assert (await raw.first_line()).startswith(b"HTTP/1.1 200")


async def test_a_body_without_a_key_is_not_waited_for(router: Running) -> None:
    attack = post("/v1/chat/completions", WRONG, body=b"[" * 65536, length=4_000_000)
    assert await refused(router.port, attack) == (401, "bad_key")
    await served(router.port)


@pytest.mark.parametrize("sent", [b"", b"P", b"POST /v1/chat/completions HTTP/1.1\r\nhost: r\r\n"])
async def test_a_header_that_does_not_come_ends_the_connection(router: Running, sent: bytes) -> None:
    """The attack: 3,000 half-sent headers, which stayed open for ever."""
    async with connected(router.port, sent) as raw:
        await served(router.port)
        leap(HEAD_S)
        assert await raw.refusal() == (408, "header_too_slow")


async def test_a_greedy_header_is_told_so(router: Running) -> None:
    for headers in (["x: " + "y" * 9000], [f"x{n}: y" for n in range(200)], ["x: " + "y" * 300_000]):
        request = get("/v1/models", f"authorization: Bearer {KEY}", *headers)
        assert await refused(router.port, request) == (431, "header_too_large")


async def test_more_strangers_than_there_may_be_end_the_oldest_and_callers_are_served(router: Running) -> None:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(connected(router.port, b"GET /"))
        for _ in range(60):
            await stack.enter_async_context(connected(router.port, b"GET /"))
        await served(router.port)
        status, document = await first.answer()
        assert (status, document["error"]["code"]) == (503, "too_many_connections")


async def test_a_known_caller_outlives_the_time_of_strangers(router: Running) -> None:
    request = get("/v1/models", f"authorization: Bearer {KEY}")
    async with connected(router.port, request) as raw:
        await raw._reader.readuntil(b"}]}")
        leap(2 * HEAD_S)
        await served(router.port)
        await raw.send(request)
        assert (await raw.first_line()).startswith(b"HTTP/1.1 200")


async def test_failed_logins_are_logged_and_slowed_down(router: Running, caplog: pytest.LogCaptureFixture) -> None:
    answers = [await refused(router.port, get("/v1/models", WRONG)) for _ in range(25)]
    assert answers == [(401, "bad_key")] * 20 + [(429, "too_many_failed_logins")] * 5
    assert [line for line in caplog.messages if "failed login" in line] == ["failed login from 127.0.0.1: /v1/models"]
    await served(router.port)


async def test_whoever_asks_whether_it_lives_needs_no_key(router: Running) -> None:
    async with connected(router.port, get("/healthz")) as raw:
        assert await raw.answer() == (200, {"status": "ok"})


async def test_at_its_limit_of_files_a_router_serves_callers_beside_1_300_strangers() -> None:
    """The attack: at a limit of 1,024 files, after which callers' connections were reset. In a process of its own."""
    async with AsyncExitStack() as stack:
        path = await stack.enter_async_context(data_folder())
        router = Running(path)
        stack.push_async_callback(router.close)
        await router.spawn(most_files=1024)
        await router.until_up()
        await _filled(router, path, stack)
        strangers: list[Raw] = []
        for number in range(1300):
            strangers.append(await stack.enter_async_context(connected(router.port, b"GET /")))
            if number % 100 == 0:
                await served(router.port)
        await served(router.port)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 3000, "this test needs as many files of its own"
