"""A real hub with one tenant that was promoted twice, and two nodes that do as they are told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import Deck, data_folder, running
from websockets.exceptions import ConnectionClosed

from loradeck.client.config import Context


@dataclass
class Site:
    """A hub, its two nodes, and the releases of acme from the first to the live one."""

    hub: Deck
    agents: list[LinkedAgent]
    releases: list[str]

    @property
    def here(self) -> Context:
        """Over the hub's own socket."""
        return Context(name="here", socket=self.hub.data / "hub.sock")

    async def with_role(self, role: str) -> Context:
        """Over TCP, with a token of a role."""
        file = self.hub.data / f"{role}.token"
        file.write_text(await self.hub.token(role))
        file.chmod(0o600)
        return Context(name=role, url=f"http://127.0.0.1:{self.hub.port}", token_file=file)

    @property
    def generation(self) -> int:
        return self.hub.hub.log.state.pointers["acme", "production"].generation

    @property
    def live(self) -> str | None:
        return self.hub.hub.log.state.pointers["acme", "production"].release

    async def kinds(self) -> list[str]:
        """What happened to acme/production since the three promotes, oldest first."""
        events = await self.hub.ok("GET", "events?tenant=acme&route=production&limit=200")
        moves = [event["kind"] for event in reversed(events) if event["kind"] not in ("tenant_create", "route")]
        assert moves[:3] == ["promote"] * 3
        return moves[3:]


async def _report(agents: list[LinkedAgent]) -> None:
    """Nodes say every second that they are there, and that they serve."""
    counts = {"admitted": 0, "finished": 0, "checked": 0}
    while True:
        counts = {name: n + 20 for name, n in counts.items()}
        for agent in agents:
            if agent.entries:
                with contextlib.suppress(AssertionError, ConnectionClosed):
                    await agent.report(agent.served(**counts, bad=0))
        await asyncio.sleep(1)


@pytest.fixture
async def data() -> AsyncIterator[Path]:
    async with data_folder() as path:
        yield path


@pytest.fixture
async def site(data: Path) -> AsyncIterator[Site]:
    async with running(data) as hub:
        agents = [await LinkedAgent(hub, node).join() for node in ("n1", "n2")]
        await hub.tenant(min_replicas=2)
        releases = [await hub.release(seed=seed) for seed in (1, 2, 3)]
        for release in releases:
            await hub.promote(release)
        reports = asyncio.create_task(_report(agents))
        try:
            yield Site(hub, agents, releases)
        finally:
            reports.cancel()
            for agent in agents:
                await agent.leave()
