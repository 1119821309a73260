"""Hubs as people start them, over a PostgreSQL cluster whose primary is killed."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from tests.fakes.postgres_server import PostgresServer, fail_over
from tests.fleets.processes.hub import HubProcess
from tests.fleets.processes.several_hubs import PASSING
from tests.services.test_postgres import cluster, url_of

from loradeck.client.errors import ApiError, ClientError, HubUnreachable, OutcomeUnknown
from loradeck.schemas.tenant import TenantCreate

__all__ = ["cluster"]


async def create(hub: HubProcess, name: str) -> None:
    """Create a tenant, however often it takes."""
    async with asyncio.timeout(60):
        while True:
            try:
                async with hub.api() as api:
                    await api.create_tenant(TenantCreate(name=name))
                return
            except (HubUnreachable, OutcomeUnknown):
                await asyncio.sleep(0.05)
            except ApiError as error:
                if error.code == "exists":
                    return
                if error.code not in PASSING:
                    raise
                await asyncio.sleep(0.05)


async def answer(hub: HubProcess, name: str) -> str:
    """The code that the creation of a tenant is answered with; "" where it is acknowledged."""
    try:
        async with hub.api() as api:
            await api.create_tenant(TenantCreate(name=name))
    except ClientError as error:
        return error.code
    return ""


async def tenants(hub: HubProcess) -> list[str]:
    async with hub.api() as api:
        return [tenant.name for tenant in await api.tenants()]


async def test_hubs_outlive_their_primary_and_one_another_and_lose_nothing(
    cluster: list[PostgresServer], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hubs = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir(mode=0o700)
        hubs.append(HubProcess(tmp_path / name, "--store", url_of(cluster), "--name", name))
    first, second = hubs
    try:
        assert "ready" in await asyncio.to_thread(first.start)
        assert "standby" in await asyncio.to_thread(second.start)
        expected = [f"t{number}" for number in range(8)]
        for name in expected[:4]:
            await create(first, name)
        await asyncio.to_thread(fail_over, cluster)
        promoted = time.monotonic()
        async with asyncio.timeout(60):
            hub = await active(hubs)
        await create(hub, expected[4])
        with capsys.disabled():
            print(f"\n{time.monotonic() - promoted:.1f} s from a new primary to the next commit")
        for name in expected[5:7]:
            await create(hub, name)
        await asyncio.to_thread(hub.end)
        killed = time.monotonic()
        other = second if hub is first else first
        await asyncio.to_thread(other.said, r"loradeck hub ready")
        await create(other, expected[7])
        with capsys.disabled():
            print(f"{time.monotonic() - killed:.1f} s from a killed hub to the next commit")
        assert await tenants(other) == expected
        async with other.api() as api:
            assert (await api.verify_audit()).ok
    finally:
        for hub in hubs:
            await asyncio.to_thread(hub.end)


async def test_without_standbys_a_hub_refuses_and_serves_again_by_itself_once_one_is_back(
    cluster: list[PostgresServer], tmp_path: Path
) -> None:
    hub = HubProcess(tmp_path, "--store", url_of(cluster))
    try:
        await asyncio.to_thread(hub.start)
        await create(hub, "t0")
        for standby in cluster[1:]:
            standby.kill()
        assert await answer(hub, "t1") == "outcome_unknown"
        async with asyncio.timeout(60):
            while await answer(hub, "t1") != "not_active":
                pass
        cluster[1].start()
        await create(hub, "t1")
        assert await tenants(hub) == ["t0", "t1"]
    finally:
        await asyncio.to_thread(hub.end)


async def active(hubs: list[HubProcess]) -> HubProcess:
    """The hub that takes moves, once one does."""
    while True:
        for hub in hubs:
            try:
                async with hub.api() as api:
                    if (await api.lease()).active:
                        return hub
            except (ApiError, HubUnreachable):
                pass
        await asyncio.sleep(0.05)
