"""A hub whose only synchronous standby is gone, and whose operator has chosen to go on with one copy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.contract.store.drafts import move
from tests.fakes.postgres_server import PostgresServer, servers
from tests.fleets.processes.hub import HubProcess
from tests.services.test_postgres_hubs import answer, create

from loradeck.client.api import HubApi
from loradeck.client.idempotency import new_key
from loradeck.schemas.moves import HoldRequest
from loradeck.schemas.route import RouteConfig
from loradeck.store.interface import OutcomeUnknown
from loradeck.store.postgres import PostgresStore


@pytest.fixture
def pair() -> Iterator[tuple[PostgresServer, PostgresServer]]:
    """A primary and its one standby, which must have each commit."""
    with servers(2) as (primary, standby):
        primary.start()
        standby.copy_of(primary, "s1")
        standby.start()
        primary.execute("ALTER SYSTEM SET synchronous_standby_names = 's1'", "SELECT pg_reload_conf()")
        until(primary, "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'", 1)
        yield primary, standby


def until(server: PostgresServer, query: str, count: int) -> None:
    """Waits until a server counts so many. What a standby has on its disk it shows a moment later."""
    deadline = time.monotonic() + 60
    while (found := server.execute(query)) != [(count,)]:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def test_a_wait_cut_short_is_unknown_and_later_commits_are_made_alone_until_the_standby_has_all(
    pair: tuple[PostgresServer, PostgresServer],
) -> None:
    primary, standby = pair
    store = PostgresStore(primary.url, commit_s=1.0, degrades=True)
    store.take_lease("hub-a", ttl_s=60)
    store.commit([move()], key="key-0001")
    standby.kill()
    with pytest.raises(OutcomeUnknown, match="on one server only"):
        store.commit([move(to=2, generation=2)], key="key-0002")
    store.reopen()
    assert store.one_copy
    found = store.lookup("key-0002")
    assert found is not None
    assert store.commit([move(to=3, generation=3)], key="key-0003").rev == 3, "one that waits ends as unknown"
    standby.start()
    deadline = time.monotonic() + 60
    while store.one_copy:
        assert time.monotonic() < deadline
        store.read_head()
        time.sleep(0.05)
    assert store.commit([move(to=4, generation=4)], key="key-0004").rev == 4
    until(standby, "SELECT count(*) FROM loradeck.events", 4)
    store.close()


async def test_ways_back_are_made_and_say_so_forward_moves_are_refused_with_the_reason_and_the_hub_goes_on_by_itself(
    pair: tuple[PostgresServer, PostgresServer], tmp_path: Path
) -> None:
    primary, standby = pair
    hub = HubProcess(tmp_path, "--store", primary.url, "--without-standby", "degrade")
    try:
        await asyncio.to_thread(hub.start)
        await create(hub, "t0")
        async with hub.api() as api:
            await api.set_route("t0", "production", RouteConfig())
            standby.kill()
            await waits(api, "one_copy")
            assert await answer(hub, "t1") == "one_copy"
            row = await api.row("t0", "production")
            request = HoldRequest(
                expected_generation=row.pointer.generation, held=True, idempotency_key=new_key(), reason="a test"
            )
            held = await api.send("t0", "production", request)
            assert (held.copies, [event.payload for event in held.events]) == (1, [{"copies": 1}])
            lease = await api.lease()
            assert lease.active
            standby.start()
            await waits(api, None)
            assert await answer(hub, "t1") == ""
            assert [event.one_copy for event in await api.events(tenant="t0")] == [True, False, False]
            assert (await api.verify_audit()).ok
        await asyncio.to_thread(until, standby, "SELECT count(*) FROM loradeck.tenants", 2)
    finally:
        await asyncio.to_thread(hub.end)


async def waits(api: HubApi, code: str | None) -> None:
    """Waits until forward moves wait for this, or for nothing."""
    async with asyncio.timeout(60):
        while True:
            if (await api.state()).status.waiting == code:
                return
            await asyncio.sleep(0.05)


async def test_a_hub_that_starts_while_the_standby_is_gone_serves_with_one_copy(
    pair: tuple[PostgresServer, PostgresServer], tmp_path: Path
) -> None:
    primary, standby = pair
    PostgresStore(primary.url).close()  # the schema
    standby.kill()
    hub = HubProcess(tmp_path, "--store", primary.url, "--without-standby", "degrade")
    try:
        await asyncio.to_thread(hub.start)
        await asyncio.to_thread(hub.said, "loradeck hub ready")
        assert await answer(hub, "t0") == "one_copy"
    finally:
        await asyncio.to_thread(hub.end)
