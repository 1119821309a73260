"""Strangers and a hub in a process of its own, with limits of its own."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress

from tests.attacks.raw import Raw, connected, get, post
from tests.fleets.processes.hub import HubProcess, hub_with_a_tenant


async def served(hub: HubProcess) -> None:
    """A caller with a token is answered on a connection of its own."""
    async with connected(hub.port, get("/healthz", f"authorization: Bearer {hub.token('viewer')}")) as raw:
        assert (await raw.first_line()).startswith(b"HTTP/1.1 200")


async def test_50_mb_without_a_token_cost_the_hub_no_memory() -> None:
    """The attack: 50 MB stopped the hub for 14.8 s, and 100 MB took 2.8 GB."""
    with hub_with_a_tenant() as hub:
        await served(hub)
        trusted, before = hub.trusted(), hub.memory()
        body = b"[" + b"{}," * (50_000_000 // 3) + b"{}]"

        async def attack() -> None:
            async with connected(hub.port) as raw:
                with suppress(ConnectionError):  # it is dropped before it has sent all
                    await raw.send(post("/v1/tokens", body=body))

        await asyncio.gather(*(attack() for _ in range(4)))
        await served(hub)
        assert hub.memory() - before < 20_000_000
        assert hub.trusted() == trusted


async def test_at_its_limit_of_files_a_hub_serves_callers_beside_1_300_strangers() -> None:
    """The attack: at a limit of 1,024 files, after which callers' connections were reset."""
    with hub_with_a_tenant(most_files=1024) as hub:
        await served(hub)
        trusted = hub.trusted()
        async with AsyncExitStack() as stack:
            strangers: list[Raw] = []
            for number in range(1300):
                strangers.append(await stack.enter_async_context(connected(hub.port, b"GET /")))
                if number % 100 == 0:
                    await served(hub)
            await served(hub)
            assert hub.trusted() == trusted
