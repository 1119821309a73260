"""An agent with a link to two hub processes, of which the second one runs on a copy of the first one's database."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.fleets.linked.hub import data_folder, key, running
from tests.fleets.processes.hub import HubProcess
from tests.fleets.waiting import until
from tests.integration.agent.artifacts import CANARIES
from tests.integration.agent.node import Node
from tests.integration.agent.test_with_a_hub import ACME, registered

from loradeck.client.api import HubApi
from loradeck.client.calls import Wait
from loradeck.rules.moves.rollbacks import rollback_request
from loradeck.schemas.moves import MoveResult, PromoteRequest


@dataclass
class Pair:
    first: HubProcess
    second: HubProcess
    node: Node
    releases: list[str]

    async def serves(self, release: str) -> None:
        """Until the node's router has the release in force."""

        async def look() -> bool:
            state = await self.node.router_state()
            return any(entry.key == ACME and entry.current and entry.current.id == release for entry in state.entries)

        await until(look, f"the node serves {release[:12]}")

    async def follows(self, hub: HubProcess) -> None:
        def look() -> bool:
            told = self.node.command("status", "--json")
            link = json.loads(told.stdout)["agent"]["link"] or {}
            return bool(link.get("connected")) and link["hub"] == hub.url and not link["refused"]

        try:
            await until(look, f"the agent follows {hub.url}", 60)
        except AssertionError:
            print(self.node.log_text()[-3000:], hub.log()[-2000:], self.node.command("status", "--json").stdout[:800])
            raise


@pytest.fixture
async def pair(folder: Path, base: Path) -> AsyncIterator[Pair]:
    async with data_folder() as one, data_folder() as other:
        async with running(one) as deck:
            await deck.tenant(canaries=[[dict(turn) for turn in turns] for turns in CANARIES])
            releases = [await registered(deck, base, seed) for seed in (1, 2, 3, 4)]
            token = await deck.token("agent", "gpu-01")
        first, second = HubProcess(one), HubProcess(other)
        node = Node(folder, base, [first.url, second.url], token)
        await asyncio.to_thread(first.start)
        node.start()
        try:
            yield Pair(first, second, node, releases)
        finally:
            node.close()
            for hub in (first, second):
                await asyncio.to_thread(hub.end)


async def promoted(api: HubApi, release: str) -> MoveResult:
    generation = (await api.row(*ACME)).pointer.generation
    request = PromoteRequest(release=release, expected_generation=generation, idempotency_key=key())
    return await api.send(*ACME, request, wait="flipped", timeout=60)


async def rolled_back(api: HubApi, wait: Wait) -> str:
    """R; returns the release that it went to."""
    request = rollback_request((await api.row(*ACME)).preview, key=key(), reason="a test")
    result = await api.send(*ACME, request, wait=wait, timeout=60)
    assert result.reached == wait or (wait, result.reached) == ("flipped", "proven"), "an answer may be further already"
    return result.events[0].to_release or ""


async def test_the_agent_follows_the_newest_hub_and_no_other_one_moves_it(pair: Pair) -> None:
    first, second, (v1, v2, v3, v4) = pair.first, pair.second, pair.releases
    async with first.api() as there:
        await until(lambda: there.nodes(), "the node is linked")
        for release in pair.releases:
            assert (await promoted(there, release)).reached in ("flipped", "proven")
        await pair.serves(v4)
        await there.backup(str(second.data / "hub.db"))
        shutil.copy(first.data / "hub.key", second.data)
        shutil.copytree(first.data / "artifacts", second.data / "artifacts", dirs_exist_ok=True)
        await asyncio.to_thread(second.start)
        await pair.follows(second)
        assert await rolled_back(there, "committed") == v3
        async with second.api() as here:
            assert [await rolled_back(here, "flipped") for _ in range(2)] == [v3, v2]
        await pair.serves(v2)
        await asyncio.to_thread(second.end)
        assert (await there.row(*ACME)).pointer.release == v3
        await pair.serves(v2)
    await asyncio.to_thread(second.start)
    await pair.follows(second)
    async with second.api() as here:
        assert await rolled_back(here, "flipped") == v1
    await pair.serves(v1)
