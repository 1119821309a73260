"""Flags on real processes: what killed engines and one broken caller do to a good release."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
from collections.abc import Iterator
from itertools import product
from typing import Any

import openai
import pytest
from tests.fleets.processes.fleet import TENANT, Material, fleet_at, lay, promote, restore, row, told
from tests.fleets.waiting import PATIENCE_S

from incident.fleet import Fleet, wait_for
from incident.incident import Cast
from incident.traffic import Answer, Callers
from loradeck_agent.host.state_folder import StateFolder, holder_of

AT_ONCE = 24
"""Requests that are under way on each node when its engine is killed."""


@pytest.fixture(scope="module")
def laid(material: Material) -> Iterator[tuple[Fleet, Cast, str]]:
    with fleet_at(material.base, tls=True) as fleet:
        yield fleet, *lay(fleet, material)


@pytest.fixture
def scene(laid: tuple[Fleet, Cast, str]) -> Iterator[tuple[Fleet, Cast, str]]:
    yield laid
    fleet, cast, _ = laid
    restore(fleet, cast)


async def ask(fleet: Fleet, callers: Callers, cast: Cast, n: int) -> list[Answer]:
    """So many callers ask each node at once."""
    asked = [
        callers.ask(node.name, TENANT, cast.prompts[number % len(cast.prompts)], user=f"caller-{number}")
        for node in fleet.nodes
        for number in range(n)
    ]
    return await asyncio.gather(*asked)


def kill_engines(fleet: Fleet) -> None:
    for node in fleet.nodes:
        lock = StateFolder(node.state).engine_lock("e0")
        os.kill(wait_for(f"holder of {lock}", lambda lock=lock: holder_of(lock), PATIENCE_S), signal.SIGKILL)


@pytest.mark.timeout(400)
async def test_engines_that_are_killed_under_load_blame_no_release_and_r_goes_where_it_would_have_gone(
    scene: tuple[Fleet, Cast, str],
) -> None:
    fleet, cast, key = scene
    looks: list[dict[str, Any]] = []
    routers = {node.name: node.url for node in fleet.nodes}
    async with Callers(routers, {TENANT: key}, max_tokens=12, ca=fleet.authority) as callers:
        await ask(fleet, callers, cast, AT_ONCE)
        under_way = asyncio.create_task(ask(fleet, callers, cast, AT_ONCE))
        await asyncio.sleep(0.3)
        await asyncio.to_thread(kill_engines, fleet)
        failed = [answer for answer in await under_way if not answer.ok]
        for _ in range(15):
            looks.append(await asyncio.to_thread(row, fleet))
            await asyncio.sleep(1)
        await asyncio.to_thread(fleet.wait_until_up)
        await ask(fleet, callers, cast, AT_ONCE)
    assert len(failed) >= 10, "they were killed under load"
    assert any("BAD" in look["flags"] for look in looks), "so many failed requests are seen" + told(fleet)
    verdicts = {look["cause"]["verdict"] for look in looks}
    assert "release" not in verdicts
    assert "engine" in verdicts, (verdicts, told(fleet))
    await asyncio.to_thread(promote, fleet, cast.releases["v3"])
    preview = row(fleet)["preview"]
    assert (preview["target"]["id"], preview["asks"], preview["skipped"]) == (cast.releases["v2"], None, [])
    fleet.cli("rollback", TENANT, "--yes", "--wait", "proven", "--timeout", "60")


async def test_one_caller_whose_requests_no_release_could_answer_well_is_named(scene: tuple[Fleet, Cast, str]) -> None:
    fleet, cast, key = scene
    routers = {node.name: node.url for node in fleet.nodes}
    trusted = ssl.create_default_context(cafile=fleet.authority)
    async with (
        Callers(routers, {TENANT: key}, max_tokens=4, ca=fleet.authority) as callers,
        openai.DefaultAsyncHttpxClient(verify=trusted) as client,
    ):
        broken = [
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, http_client=client, max_retries=0)
            for url in routers.values()
        ]
        for turn in range(12):
            await ask(fleet, callers, cast, 8)
            for integration, number in product(broken, range(4)):
                await integration.chat.completions.create(
                    model=TENANT,
                    messages=[{"role": "user", "content": f"w{turn} w{number}"}],
                    max_tokens=1,
                    stop=["w", " "],  # every answer is empty
                    user="broken",
                )
        now = row(fleet)
        for _ in range(20):
            if now["cause"]["verdict"] == "callers":
                break
            await asyncio.sleep(0.5)
            now = await asyncio.to_thread(row, fleet)
    assert now["cause"]["verdict"] == "callers", (now["cause"], told(fleet))
    assert now["cause"]["who"].startswith("one caller makes 100% of ")
