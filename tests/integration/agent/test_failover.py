"""Two hubs over one PostgreSQL database: an agent and a client with both addresses go on as the active one goes."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from tests.fakes.postgres_server import servers
from tests.fleets.host import short_folder
from tests.fleets.linked.hub import SOON, Deck, key
from tests.fleets.processes.hub import HubProcess
from tests.fleets.waiting import until
from tests.integration.agent.artifacts import CANARIES
from tests.integration.agent.node import Node
from tests.integration.agent.test_two_hubs import ACME, promoted, rolled_back
from tests.integration.agent.test_with_a_hub import registered
from tests.integration.tui.terminal import console

from incident.incident import clear_the_way
from loradeck.client.api import HubApi
from loradeck.client.config import Context
from loradeck.client.errors import ApiError, ClientError
from loradeck.rules.moves.rollbacks import rollback_request
from loradeck.schemas.state import LeaseStatus
from loradeck.schemas.tenant import TenantCreate

HUNG_S = 90.0
"""How long R may take after a hub hangs. What it takes is measured by the bench, where nothing runs beside it."""


@dataclass
class Fleet:
    """Two hubs over one database, a node that knows both, and the releases of acme from the first to the live one."""

    hubs: tuple[HubProcess, HubProcess]
    node: Node
    token: Path
    releases: list[str]


@dataclass
class Pair:
    active: HubProcess
    other: HubProcess
    names: tuple[str, str]
    context: Context
    api: HubApi
    releases: list[str]

    async def switched(self) -> None:
        """R with both addresses, until the other hub has it flipped."""
        assert await rolled_back(self.api, "flipped") == self.releases.pop()
        assert self.api.where == self.other.url


@pytest.fixture(scope="module")
def fleet(base: Path) -> Iterator[Fleet]:
    with servers() as (server,), short_folder() as one, short_folder() as other, short_folder() as folder:
        server.start()
        hubs = [HubProcess(data, "--store", server.url, "--name", name) for data, name in ((one, "a"), (other, "b"))]
        (one / "artifacts").mkdir()
        (other / "artifacts").symlink_to(one / "artifacts")  # files are shared by other means than the database
        first, second = hubs
        node = None
        try:
            first.start()
            releases, tokens = asyncio.run(_laid(first, base))
            token = folder / "person"
            token.touch(0o600)
            token.write_text(tokens["releaser"])
            node = Node(folder, base, [hub.url for hub in hubs], tokens["agent"])
            assert "standby" in second.start()
            node.start()
            yield Fleet((first, second), node, token, releases)
        finally:
            if node is not None:
                node.close()
            for hub in hubs:
                hub.end()


async def _laid(hub: HubProcess, base: Path) -> tuple[list[str], dict[str, str]]:
    """Registers acme and its releases. Returns these, and tokens of a person and of the node."""
    deck = Deck(hub.data, cast(Any, None), hub.port)
    try:
        await deck.ok("POST", "tenants", TenantCreate(name="acme").model_dump(mode="json"))
        canaries = [[dict(turn) for turn in turns] for turns in CANARIES]
        await deck.ok("PUT", "tenants/acme/routes/production", {**SOON, "canaries": canaries})
        releases = [await registered(deck, base, seed) for seed in (1, 2, 3)]
        return releases, {"releaser": await deck.token("releaser"), "agent": await deck.token("agent", "gpu-01")}
    finally:
        await deck.close()


@pytest.fixture
async def pair(fleet: Fleet) -> AsyncIterator[Pair]:
    """One hub is active and the other stands by, the node is linked, and acme is on its third release."""
    for hub in fleet.hubs:
        if hub.process.poll() is not None:
            await asyncio.to_thread(hub.start)
    active, standby = await until(lambda: _active_first(fleet.hubs), "one hub is active and the other stands by")
    context = Context(name="t", url=standby.url, others=(active.url,), token_file=fleet.token)
    async with HubApi.to(context) as api:
        await until(lambda: _is_linked(api), "the node is linked")
        live = (await api.row(*ACME)).pointer.release
        for release in fleet.releases[fleet.releases.index(live) + 1 if live else 0 :]:
            await clear_the_way(api, ACME[0], release)
            assert (await promoted(api, release)).reached in ("flipped", "proven")
        pointer = (await api.row(*ACME)).pointer
        assert [pointer.release, *pointer.beneath][:3] == fleet.releases[::-1]
        assert api.where == active.url
        names = ("a", "b") if active is fleet.hubs[0] else ("b", "a")
        yield Pair(active, standby, names, context, api, fleet.releases[:-1])


async def _active_first(hubs: tuple[HubProcess, HubProcess]) -> tuple[HubProcess, HubProcess] | None:
    """The hubs, once one is active and the other one says that it stands by."""
    first, second = [await _is_active(hub) for hub in hubs]
    return None if None in (first, second) or first is second else (hubs if first else hubs[::-1])


async def _is_active(hub: HubProcess) -> bool | None:
    """None: it does not say."""
    try:
        async with hub.api() as api:
            return (await api.lease()).active
    except ClientError:
        return None


async def _is_linked(api: HubApi) -> bool:
    return [node.linked for node in await api.nodes()] == [True]


async def test_a_hub_that_is_killed_is_succeeded(pair: Pair) -> None:
    await asyncio.to_thread(pair.active.end, signal.SIGKILL)
    await pair.switched()
    assert "standby" in await asyncio.to_thread(pair.active.start)


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
        await asyncio.to_thread(pair.active.said, "hub standby")
        lease = await until(lambda: _standing_by(old), "it stands by", 60)
        assert (lease.holder, lease.address, lease.lag) == (pair.names[1], pair.other.url, 0)
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
    ended = asyncio.create_task(asyncio.to_thread(pair.active.end, signal.SIGTERM))
    await pair.switched()
    assert await ended == 0
