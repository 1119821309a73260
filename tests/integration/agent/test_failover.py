"""Two hubs over one PostgreSQL database: an agent and a client with both addresses go on as the active one goes."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from tests.fakes import hub_in_process
from tests.fakes.hub_in_process import SOON, Deck, key
from tests.fakes.hub_process import HubProcess
from tests.fakes.postgres_server import PostgresServer, servers
from tests.integration.agent.artifacts import CANARIES
from tests.integration.agent.node import Node, until
from tests.integration.agent.test_two_hubs import ACME, promoted, rolled_back
from tests.integration.agent.test_with_a_hub import registered
from tests.integration.tui.terminal import console

from loradeck.client.api import HubApi
from loradeck.client.config import Context
from loradeck.client.errors import ApiError, ClientError
from loradeck.rules.moves.rollbacks import rollback_request
from loradeck.schemas.state import LeaseStatus
from loradeck.schemas.tenant import TenantCreate

HUNG_S = 90.0
"""How long R may take after a hub hangs. What it takes is measured by the bench, where nothing runs beside it."""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with servers() as (made,):
        made.start()
        yield made


@dataclass
class Pair:
    active: HubProcess
    other: HubProcess
    node: Node
    context: Context
    api: HubApi
    releases: list[str]

    async def switched(self) -> None:
        """R with both addresses, until the other hub has it flipped."""
        assert await rolled_back(self.api, "flipped") == self.releases.pop()
        assert self.api.where == self.other.url


@pytest.fixture
async def pair(server: PostgresServer, folder: Path, base: Path) -> AsyncIterator[Pair]:
    name = f"db{time.monotonic_ns()}"
    server.execute(f"CREATE DATABASE {name}")
    url = server.url.replace("/postgres?", f"/{name}?")
    async with hub_in_process.folder() as one, hub_in_process.folder() as other:
        hubs = [HubProcess(data, "--store", url, "--name", name) for data, name in ((one, "a"), (other, "b"))]
        active, standby = hubs
        (one / "artifacts").mkdir()
        (other / "artifacts").symlink_to(one / "artifacts")  # files are shared by other means than the database
        node = None
        try:
            await active.start()
            deck = Deck(one, cast(Any, None), active.port)
            await deck.ok("POST", "tenants", TenantCreate(name="acme").model_dump(mode="json"))
            canaries = [[dict(turn) for turn in turns] for turns in CANARIES]
            await deck.ok("PUT", "tenants/acme/routes/production", {**SOON, "canaries": canaries})
            releases = [await registered(deck, base, seed) for seed in (1, 2, 3)]
            token = folder / "person"
            token.touch(0o600)
            token.write_text(await deck.token("releaser"))
            node = Node(folder, base, [hub.url for hub in hubs], await deck.token("agent", "gpu-01"))
            await deck.close()
            assert "standby" in await standby.start()
            node.start()
            context = Context(name="t", url=standby.url, others=(active.url,), token_file=token)
            async with HubApi.to(context) as api:
                await until(lambda: api.nodes(), "the node is linked")
                for release in releases:
                    assert (await promoted(api, release)).reached in ("flipped", "proven")
                assert api.where == active.url
                yield Pair(active, standby, node, context, api, releases[:-1])
        finally:
            if node is not None:
                node.close()
            for hub in hubs:
                await hub.end()


async def test_a_hub_that_is_killed_is_succeeded(pair: Pair) -> None:
    await pair.active.end(signal.SIGKILL)
    await pair.switched()
    assert "standby" in await pair.active.start()


async def test_a_hub_that_hangs_is_succeeded_and_commits_nothing_when_it_wakes(pair: Pair) -> None:
    async with pair.active.api() as old:
        stale = rollback_request((await old.row(*ACME)).preview, key=key(), reason="a test")
        pair.active.send(signal.SIGSTOP)
        try:
            await pair.switched()
            sent = asyncio.create_task(old.send(*ACME, stale))
            await asyncio.sleep(0.2)  # so that it lies in the socket of the stopped hub; a later one is refused as well
        finally:
            pair.active.send(signal.SIGCONT)
        with pytest.raises(ApiError) as refused:
            await sent
        assert refused.value.code == "not_active"
        await pair.active.said("hub standby")
        lease = await until(lambda: _standing_by(old), "it stands by", 60)
        assert (lease.holder, lease.address, lease.lag) == ("b", pair.other.url, 0)
    assert await rolled_back(pair.api, "flipped") == pair.releases.pop()


async def test_a_console_keeps_its_place_and_its_move_while_the_active_hub_is_away(pair: Pair) -> None:
    async with console(pair.context) as terminal:
        await terminal.shows("hub ok", "> acme", "R ARMED")
        pair.active.send(signal.SIGSTOP)
        try:
            terminal.type("R")  # to a hub that does not answer
            await terminal.shows("BACK ON", "FLIPPED 1/1", seconds=HUNG_S)
            await terminal.shows("hub ok", "> acme")
        finally:
            pair.active.send(signal.SIGCONT)
        # The hub that wakes is asked first. It says nothing of what it knew.
        row = await pair.api.row(*ACME)
        assert row.pointer.release == pair.releases[-1]
        terminal.type("q")
        assert await terminal.ended() == 0


async def _standing_by(api: HubApi) -> LeaseStatus | None:
    try:
        lease = await api.lease()
    except ClientError:
        return None
    return None if lease.active else lease


async def test_a_hub_that_is_ended_is_succeeded_while_it_ends(pair: Pair) -> None:
    ended = asyncio.create_task(pair.active.end(signal.SIGTERM))
    await pair.switched()
    assert await ended == 0
