"""A backup that is restored revives nobody, and a clock that was wrong once locks nobody out.

Of a hub whose database is older than what was done since, the folders `keys` and `tls` are the newest ones: they lie in
no backup.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import Deck, data_folder, lose, restore, running
from tests.fleets.linked.member import Member
from tests.fleets.waiting import until
from websockets.exceptions import InvalidStatus

from loradeck.hub.access.authority import Authority
from loradeck.rules.clocks import DAY_MS
from loradeck.schemas.moves import MoveResult


@pytest.fixture
async def data() -> AsyncIterator[Path]:
    """A hub's folder."""
    async with data_folder() as made:
        yield made


@asynccontextmanager
async def restored(data: Path, backup: Path) -> AsyncIterator[Deck]:
    """A hub that gets a backup of its database and has kept its folders."""
    assert (data / "keys").is_dir()
    restore(data, backup)
    async with running(data, nodes=True) as deck:
        yield deck


async def copied(deck: Deck) -> Path:
    """A backup of a running hub's database."""
    path = deck.data / "copy.db"
    await deck.ok("POST", "backup", {"path": str(path)})
    return path


async def outcome(member: Member) -> str:
    """What becomes of a node's first attempts to link: "linked", or what it is refused with."""
    link = member.link()
    task = asyncio.create_task(link.run())
    try:
        await until(lambda: link.connected or link.status.error, "the hub answers")
        return "linked" if link.connected else str(link.status.error)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


# ---- revocations -------------------------------------------------------------------------------------------------


async def test_a_node_that_was_not_revoked_links_after_a_restore(data: Path, tmp_path: Path) -> None:
    async with running(data, nodes=True) as deck:
        await Member(deck, tmp_path).join()
        backup = await copied(deck)
    async with restored(data, backup) as deck:
        assert await outcome(Member(deck, tmp_path)) == "linked"


async def test_a_node_that_was_revoked_after_a_backup_stays_revoked_when_that_is_restored(
    data: Path, tmp_path: Path
) -> None:
    async with running(data, nodes=True) as deck:
        for name in ("n1", "n2"):
            await Member(deck, tmp_path, name).join()
        backup = await copied(deck)
        await deck.ok("POST", "nodes/n1/revoke")
        assert "certificate_revoked" in await outcome(Member(deck, tmp_path))
    async with restored(data, backup) as deck:
        assert await outcome(Member(deck, tmp_path, "n2")) == "linked"
        assert "certificate_revoked" in await outcome(Member(deck, tmp_path))


async def test_a_node_that_was_revoked_stays_revoked_when_the_database_is_lost(data: Path, tmp_path: Path) -> None:
    async with running(data, nodes=True) as deck:
        await Member(deck, tmp_path).join()
        await deck.ok("POST", "nodes/n1/revoke")
    lose(data)
    async with running(data, nodes=True) as deck:
        assert "certificate_revoked" in await outcome(Member(deck, tmp_path))


async def test_a_key_that_a_node_had_before_it_joined_anew_is_not_good_again_after_a_restore(
    data: Path, tmp_path: Path
) -> None:
    """The thief's copy of the node's folder is why it joined anew."""
    async with running(data, nodes=True) as deck:
        await Member(deck, tmp_path).join()
        backup = await copied(deck)
        shutil.copytree(tmp_path / "n1", tmp_path / "thief" / "n1")
        await Member(deck, tmp_path).join()
        assert "certificate_revoked" in await outcome(Member(deck, tmp_path / "thief"))
    async with restored(data, backup) as deck:
        assert "certificate_revoked" in await outcome(Member(deck, tmp_path / "thief"))
        assert await outcome(Member(deck, tmp_path)) == "linked"


@pytest.mark.parametrize("role", ["viewer", "operator", "releaser"])
async def test_a_persons_token_that_was_revoked_after_a_backup_opens_nothing_when_that_is_restored(
    data: Path, role: str
) -> None:
    async with running(data, nodes=True) as deck:
        made = await deck.ok("POST", "tokens", {"name": "ann", "role": role})
        assert (await deck.with_token(made["token"]).get("state")).status_code == 200
        backup = await copied(deck)
        await deck.ok("DELETE", f"tokens/{made['id']}")
    async with restored(data, backup) as deck:
        await deck.refused(401, "unauthenticated", "GET", "state", client=deck.with_token(made["token"]))


async def test_an_agents_token_that_was_revoked_after_a_backup_links_nobody_when_that_is_restored(data: Path) -> None:
    async with running(data, nodes=True) as deck:
        made = await deck.ok("POST", "tokens", {"name": "n1", "role": "agent", "node": "n1"})
        backup = await copied(deck)
        await deck.ok("DELETE", f"tokens/{made['id']}")
    async with restored(data, backup) as deck:
        with pytest.raises(InvalidStatus) as refusal:
            await LinkedAgent(deck, "n1").join(made["token"])
        assert refusal.value.response.status_code == 401
        assert not deck.hub.fleet.nodes


async def test_a_join_token_that_was_used_after_a_backup_lets_nobody_in_when_that_is_restored(
    data: Path, tmp_path: Path
) -> None:
    async with running(data, nodes=True) as deck:
        token = await Member(deck, tmp_path).invited()
        backup = await copied(deck)
        await Member(deck, tmp_path).join(token)
    async with restored(data, backup) as deck:
        with pytest.raises(Exception, match="join_token_used"):
            await Member(deck, tmp_path / "thief").join(token)


# ---- clocks ------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def ahead(data: Path, days: int) -> AsyncIterator[Deck]:
    """A hub that runs while its host's clock is wrong."""
    with pytest.MonkeyPatch.context() as patch:
        now, now_ns = time.time, time.time_ns
        patch.setattr(time, "time", lambda: now() + days * DAY_MS / 1000)
        patch.setattr(time, "time_ns", lambda: now_ns() + days * DAY_MS * 1_000_000)
        async with running(data, nodes=True) as deck:
            yield deck


async def test_a_node_links_to_a_hub_that_was_started_while_its_clock_was_a_day_ahead(
    data: Path, tmp_path: Path
) -> None:
    async with running(data, nodes=True) as deck:
        await Member(deck, tmp_path).join()
    async with ahead(data, 1):
        pass
    async with running(data, nodes=True) as deck:
        assert await outcome(Member(deck, tmp_path)) == "linked"


async def test_a_node_links_to_a_hub_that_was_started_while_its_clock_was_100_days_ahead(
    data: Path, tmp_path: Path
) -> None:
    async with running(data, nodes=True) as deck:
        await Member(deck, tmp_path).join()
    before = Authority(data).served()
    async with ahead(data, 100):
        await until(lambda: Authority(data).served() != before, "the hub has renewed its certificate")
    async with running(data, nodes=True) as deck:
        assert await outcome(Member(deck, tmp_path)) == "linked"


async def test_a_node_whose_certificate_is_of_a_hub_with_a_clock_100_days_ahead_links_when_that_is_right(
    data: Path, tmp_path: Path
) -> None:
    async with running(data, nodes=True) as deck:
        node = Member(deck, tmp_path)
        await node.join()
        members = deck.hub.membership
        assert members is not None
        kept = members._now_ms
        members._now_ms = lambda: kept() + 100 * DAY_MS
        node.identity.keep(await node.hub.renew())
        members._now_ms = kept
        assert await outcome(Member(deck, tmp_path)) == "linked"
    async with running(data, nodes=True) as deck:
        assert await outcome(Member(deck, tmp_path)) == "linked"


@pytest.mark.parametrize("days", [1, 100])
async def test_r_and_a_token_work_at_a_hub_whose_clock_was_ahead_and_is_right(data: Path, days: int) -> None:
    """Its log has moves of the future then."""
    async with ahead(data, days) as deck:
        await deck.tenant()
        token = await deck.token("operator")
        agent = await LinkedAgent(deck, "n1").join()
        one, two = await deck.release(seed=1), await deck.release(seed=2)
        for release in (one, two):
            await deck.promote(release)
        await agent.leave()
    async with running(data, nodes=True) as deck:
        await agent.rejoin(deck)
        body = await deck.rollback_body()
        path = "tenants/acme/routes/production/rollback?wait=proven&timeout=60"
        moved = MoveResult.model_validate(await deck.ok("POST", path, body, client=deck.with_token(token)))
        assert moved.events[0].to_release == one
        assert (await deck.ok("GET", "audit/verify"))["ok"]
        await agent.leave()
