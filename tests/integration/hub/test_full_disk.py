"""A hub on a full disk: uploads end first, then forward moves wait; R and a restart live on the reserve."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.disks import fill, small_disk
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import Deck, data_folder, key, running
from tests.fleets.waiting import until

from loradeck.hub.log.disk_reserve import DISK_FULL
from loradeck.schemas.moves import PromoteRequest

ACME = ("acme", "production")
PROMOTE = "tenants/acme/routes/production/promote"


@pytest.fixture
async def disk() -> AsyncIterator[Path]:
    async with data_folder() as path:
        with small_disk(path / "d", "64m", 4000) as made:
            yield made


async def _ready(deck: Deck) -> dict[str, object]:
    found: dict[str, object] = (await deck.local.get("http://hub/readyz")).json()
    return found


async def _promotion(deck: Deck, release: str) -> dict[str, object]:
    pointer = deck.hub.log.state.pointers[ACME]
    request = PromoteRequest(release=release, expected_generation=pointer.generation, idempotency_key=key())
    return request.model_dump(mode="json")


async def test_R_and_a_restart_live_on_the_reserve_of_a_full_disk(disk: Path) -> None:
    async with running(disk) as deck:
        agent = await LinkedAgent(deck).join()
        await deck.tenant()
        releases = [await deck.release(seed=seed) for seed in (1, 2, 3)]
        for release in releases:
            await deck.promote(release)

        ballast = fill(disk)
        content = b"too much"
        answer = await deck.local.put(f"blobs/{hashlib.sha256(content).hexdigest()}", content=content)
        assert (answer.status_code, answer.json()["code"]) == (507, DISK_FULL)
        assert (await _ready(deck))["refusing"] is None

        await deck.rollback()
        assert deck.hub.log.state.pointers[ACME].release == releases[1]
        # Notes are taken until the write-ahead log has to grow: then a piece of the reserve is given up.
        for _ in range(2000):
            if deck.hub.moves_allowed.waiting:
                break
            await deck.ok("POST", "tenants/acme/keys")
            fill(disk)
        assert (await _ready(deck)) | {"epoch": 0, "rev": 0} == {
            "ready": True,
            "refusing": None,
            "waiting": DISK_FULL,
            "epoch": 0,
            "rev": 0,
        }
        await deck.refused(507, DISK_FULL, "POST", PROMOTE, await _promotion(deck, releases[2]))
        assert "loradeck_disk_full 1.0" in (await deck.local.get("http://hub/metrics")).text
        await deck.ok("POST", "tenants/acme/routes/production/fallback", await _fallback(deck))
        await agent.leave()

    fill(disk)
    async with running(disk) as deck:
        agent = await LinkedAgent(deck).join()
        await until(lambda: deck.hub.startup.over, "the hub has settled")
        assert deck.hub.moves_allowed.waiting == DISK_FULL
        assert deck.hub.moves_allowed.refusing is None
        ballast.unlink()
        await until(lambda: deck.hub.moves_allowed.waiting is None, "it takes its reserve back")
        assert (await _ready(deck))["waiting"] is None
        assert (disk / "reserve").stat().st_size == os.statvfs(disk).f_blocks * os.statvfs(disk).f_frsize // 64
        await agent.leave()


async def test_a_hub_whose_reserve_is_used_up_refuses_and_says_so_until_there_is_room(disk: Path) -> None:
    async with running(disk) as deck:
        reserve = deck.hub.store.reserve
        assert reserve is not None
        await deck.tenant()
        ballast = fill(disk)
        while reserve.give():
            fill(disk)
        await until(lambda: deck.hub.status.now().refusing == DISK_FULL, "status says so")
        assert (await _ready(deck))["ready"] is False
        ballast.unlink()
        await until(lambda: deck.hub.status.now().refusing is None, "it heals alone")
        await deck.ok("POST", "tenants/acme/keys")


async def _fallback(deck: Deck) -> dict[str, object]:
    return {
        "expected_generation": deck.hub.log.state.pointers[ACME].generation,
        "idempotency_key": key(),
        "reason": "the disk is full",
    }
