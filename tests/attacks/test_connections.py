"""One tenant's idle connections at a router: they end, and no other tenant is kept out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from tests.attacks.raw import Raw, connected, get, post
from tests.attacks.test_strangers_at_the_router import BODY
from tests.fleets.linked.hub import data_folder
from tests.fleets.waiting import until
from tests.integration.router.running import KEY, Running, release
from tests.integration.router.running import unchecked as entry
from tests.integration.router.upstream import Upstream

FILES = 200
"""Files that the router's process may open. Half of them are for connections of callers."""

BETA = "authorization: Bearer beta-key"


@pytest.fixture
async def served() -> AsyncIterator[tuple[Running, Upstream]]:
    """A router with room for few connections, which serves acme and beta, and its engine."""
    async with AsyncExitStack() as stack:
        path = await stack.enter_async_context(data_folder())
        router = Running(path)
        stack.push_async_callback(router.close)
        await router.spawn(most_files=FILES)
        await router.until_up()
        engine = Upstream("e0", str(path / "e0.sock"))
        await engine.start()
        stack.push_async_callback(engine.stop)
        v1, other = release("v1"), release("v1", "beta")
        await router.post("/control/hub", {"connected": True})
        await router.engines(("e0", str(path / "e0.sock"), [v1, other]))
        await router.table(entry(v1), entry(other, tenant="beta"))
        yield router, engine


async def kept_open(stack: AsyncExitStack, router: Running, n: int) -> list[Raw]:
    """Connections with beta's key on which one request was answered."""
    made = []
    for _ in range(n):
        raw = await stack.enter_async_context(connected(router.port, get("/v1/models", BETA)))
        line = await raw.first_line()
        assert line.startswith(b"HTTP/1.1 200"), line
        made.append(raw)
    return made


async def acme_is_answered(router: Running) -> None:
    ask = post("/v1/chat/completions", f"authorization: Bearer {KEY}", body=BODY)
    async with connected(router.port, ask) as raw:
        assert (await raw.first_line()).startswith(b"HTTP/1.1 200")


async def test_a_tenant_that_keeps_more_connections_than_there_is_room_for_loses_its_idlest_and_keeps_nobody_out(
    served: tuple[Running, Upstream],
) -> None:
    router, _ = served
    async with AsyncExitStack() as stack:
        held = await kept_open(stack, router, 2 * FILES)
        for _ in range(5):
            await acme_is_answered(router)
        for raw in held[:FILES]:
            assert b"200" not in await raw.until_closed(), "the idlest have ended"
        await held[-1].send(get("/v1/models", BETA))
        stats = await router.get("/control/stats")
        assert stats["trouble"].startswith("there is no room for more connections: beta holds ")
    assert router.errors.read_text().count("there is no room for more connections") == 1


async def test_an_answer_that_is_under_way_is_not_ended_for_it(served: tuple[Running, Upstream]) -> None:
    router, engine = served
    async with AsyncExitStack() as stack:
        engine.going.clear()
        ask = post("/v1/chat/completions", BETA, body=BODY.replace(b"acme", b"beta"))
        asked = await stack.enter_async_context(connected(router.port, ask))
        await until(lambda: engine.seen, "it is under way")
        await kept_open(stack, router, FILES)
        engine.going.set()
        assert (await asked.first_line()).startswith(b"HTTP/1.1 200")
        await acme_is_answered(router)
