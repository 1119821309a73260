"""Rows under keys at a hub: sealed once registered, gone with their key, and not brought back by a backup."""

from __future__ import annotations

import asyncio
import os
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import Deck, key, running
from tests.fleets.waiting import until
from tests.integration.hub.test_erasure import DIGEST, ROW, execution, plan
from tests.integration.hub.test_ledger import dataset, items, row, training

from loradeck.artifacts import BadArtifact
from loradeck.hub.process import HubProcess
from loradeck.schemas.protocol import ROWS
from loradeck.store.drill import drill


def holding(folder: Path, text: bytes) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file() and text in path.read_bytes()]


def restored(made: Path, data: Path) -> None:
    shutil.copy(made, data / "hub.db")
    for name in ("hub.db-wal", "hub.db-shm"):
        (data / name).unlink(missing_ok=True)


async def test_a_backup_does_not_bring_erased_rows_back_and_a_hub_that_was_killed_destroys_their_key_at_its_start(
    data: Path, tmp_path: Path
) -> None:
    backup = tmp_path / "backup"
    async with running(data, backup_to=backup, backup_every_s=3600) as deck:
        await deck.tenant()
        await deck.base()
        suite = await deck.ok("POST", "suites", (await items(deck, [row(5) | {"id": "i1"}])).model_dump(mode="json"))
        held = await dataset(deck, [row(1), ROW])
        assert holding(data / "artifacts", b"Ann Example") == holding(data / "artifacts", b'"i1"') == []
        (file,) = deck.hub.catalogue.datasets[held].files
        assert b"Ann Example" in (await deck.local.get(f"blobs/{file.sha256}")).content
        assert (await plan(deck, containing="ann ex")).rows == (DIGEST,)
        backups = deck.hub.backups
        assert backups is not None
        await until(lambda: backups.last_ms, "the first one is made at once")
        made = await backups.make()
        assert (drill(made).missing, holding(backup, b"Ann Example")) == ((), [])
        with pytest.MonkeyPatch.context() as patch:  # nothing of the process runs after the statement
            patch.setattr(deck.hub.erasures, "drop_erased", AsyncMock())
            await deck.ok("POST", "erasures", execution(await plan(deck, rows=[DIGEST])))
    key = data / "keys" / "versions" / held
    assert key.stat().st_size
    async with running(data) as deck:
        garbage = deck.hub.garbage
        await until(lambda: file.sha256 in garbage._gone, "the rows are removed: a thread would go on with it below")
        assert not key.stat().st_size

    restored(made, data)
    shutil.copytree(backup / "artifacts", data / "artifacts", dirs_exist_ok=True)
    async with running(data) as deck:
        (stated,) = await deck.ok("GET", "attestations?kind=erasure")
        assert (stated["subject"], stated["body"]["rows"]) == (held, [DIGEST])
        await deck.refused(409, "erased_row", "POST", "jobs", training(held))
        await deck.refused(404, "unknown_blob", "GET", f"blobs/{file.sha256}")
        (there,) = deck.hub.catalogue.suites[suite["digest"]].files
        assert b'"i1"' in (await deck.local.get(f"blobs/{there.sha256}")).content

        await deck.ok("POST", "tenants/acme/offboard", {"reason": "contract ended"})
        await deck.refused(404, "unknown_blob", "GET", f"blobs/{there.sha256}")
        assert not (data / "keys" / "tenants" / "acme.key").stat().st_size


async def test_rows_of_a_hub_of_before_keys_are_sealed_at_its_start_and_go_from_backups(
    data: Path, tmp_path: Path
) -> None:
    backup = tmp_path / "backup"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("loradeck.artifacts.blobs.keyed.KeyedBlobs.seal", lambda *_: None)
        async with running(data, backup_to=backup, backup_every_s=3600) as deck:
            await deck.tenant()
            await dataset(deck, [ROW])
            assert deck.hub.backups is not None
            await deck.hub.backups.make()
    assert (len(holding(data / "artifacts", b"Ann Example")), len(holding(backup, b"Ann Example"))) == (1, 1)
    async with running(data, backup_to=backup, backup_every_s=3600) as deck:
        await until(lambda: not holding(data / "artifacts", b"Ann Example"), "sealed")
        assert (await plan(deck, containing="ann ex")).rows == (DIGEST,)
        assert deck.hub.backups is not None
        made = await deck.hub.backups.make()
        assert (holding(backup, b"Ann Example"), drill(made).missing) == ([], ())


async def test_a_log_from_before_the_rows_gets_their_erasures_again_whatever_the_reason_says(
    data: Path, tmp_path: Path
) -> None:
    async with running(data, backup_to=tmp_path / "backup", backup_every_s=3600) as deck:
        await deck.tenant()
        await deck.tenant("bolt")
        await deck.base()
        backups = deck.hub.backups
        assert backups is not None
        await until(lambda: backups.last_ms, "the first one is made at once")
        made = await backups.make()
        held = await dataset(deck, [ROW])
        await dataset(deck, [ROW, row(2)], tenant="bolt")
        found = await plan(deck, rows=[DIGEST], tenants=["acme"])
        sent = execution(found, tenants=["acme"], reason="ticket\u20289\x85")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("loradeck.hub.data.erasure_list.replace_durably", Mock(side_effect=OSError(28, "full")))
            answer = await deck.local.post("erasures", json=sent)
            assert (answer.status_code, answer.json()["code"]) == (503, "erasures_unread")
        key = data / "keys" / "versions" / held
        assert key.stat().st_size, "no key goes whose erasure is not listed"
        assert (await deck.ok("POST", "erasures", sent))["done"]
        assert not key.stat().st_size
    restored(made, data)
    async with running(data) as deck:
        (stated,) = await deck.ok("GET", "attestations?kind=erasure")
        assert (stated["subject"], stated["body"]["reason"]) == (held, "ticket\u20289")
        await deck.ok("POST", "jobs", training(await dataset(deck, [row(3)])))


async def backed_up(deck: Deck) -> Path:
    backups = deck.hub.backups
    assert backups is not None
    await until(lambda: backups.last_ms, "the first one is made at once")
    return await backups.make()


async def test_a_tenant_that_was_offboarded_after_the_backup_is_offboarded_again(data: Path, tmp_path: Path) -> None:
    async with running(data, backup_to=tmp_path / "backup", backup_every_s=3600) as deck:
        await deck.tenant()
        await deck.tenant("bolt")
        made = await backed_up(deck)
        await deck.ok("POST", "tenants/acme/offboard", {"reason": "contract ended"})
    restored(made, data)
    async with running(data) as deck:
        offboarded = {one["name"]: one["offboarded"] for one in await deck.ok("GET", "tenants")}
        assert offboarded == {"acme": True, "bolt": False}
        (event,) = [e for e in await deck.ok("GET", "events") if e["kind"] == "tenant_offboard"]
        assert (event["actor"], "older" in event["reason"]) == ("erasures", True)


async def test_while_the_list_of_erasures_cannot_be_read_nothing_of_a_restored_log_is_promoted_or_trained_and_r_works(
    data: Path, tmp_path: Path
) -> None:
    async with running(data, backup_to=tmp_path / "backup", backup_every_s=3600) as deck:
        agent = await LinkedAgent(deck, "n1").join()
        await deck.tenant()
        one, two = await deck.release(seed=1), await deck.release(seed=2)
        for release in (one, two):
            await deck.promote(release)
        held = await dataset(deck, [ROW])
        made = await backed_up(deck)
        await deck.ok("POST", "erasures", execution(await plan(deck, rows=[DIGEST])))
        await agent.leave()
    restored(made, data)
    listed = data / "keys" / "erasures.jsonl"
    kept = listed.read_bytes()
    for damaged in (b"somebody has edited this", b"\xff"):
        listed.write_bytes(damaged)
        async with running(data) as deck:
            agent = await LinkedAgent(deck, "n1").join()
            generation = deck.hub.log.state.route("acme", "production")[2].generation
            asks = {"release": one, "expected_generation": generation, "idempotency_key": key()}
            promote = "tenants/acme/routes/production/promote"

            async def is_read(promote: str = promote, asks: dict[str, Any] = asks) -> bool:
                problem = await deck.refused(503, "erasures_unread", "POST", promote, asks)
                assert (str(listed) in problem.detail, "folder of keys" in problem.fix) == (True, True)
                return "it was not read yet" not in problem.detail

            await until(is_read, "the hub has looked at the list")
            await deck.refused(503, "erasures_unread", "POST", "jobs", training(held))
            if damaged == b"\xff":
                await deck.rollback()
                listed.write_bytes(kept)
                await until(lambda: held in deck.hub.facts.erased, "it is stated again, without a start")
                await deck.refused(409, "erased_row", "POST", "jobs", training(held))
            await agent.leave()


async def test_a_list_of_erasures_that_somebody_is_still_copying_back_is_not_taken_for_the_whole_list(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(data, backup_to=tmp_path / "backup", backup_every_s=3600) as deck:
        await deck.tenant()
        await deck.base()
        held = await dataset(deck, [ROW])
        made = await backed_up(deck)
        await deck.ok("POST", "erasures", execution(await plan(deck, rows=[DIGEST])))
    restored(made, data)
    listed = data / "keys" / "erasures.jsonl"
    kept = listed.read_bytes()
    listed.write_bytes(b"\xff")
    monkeypatch.setattr("loradeck.hub.hub.LIST_S", 3600)  # the test itself looks
    async with running(data) as deck:
        erasures = deck.hub.erasure_list
        await erasures.settle()
        listed.write_bytes(b"")  # how a copy begins
        await erasures.settle()
        await deck.refused(503, "erasures_unread", "POST", "jobs", training(held))
        listed.write_bytes(kept)
        await erasures.settle()
        await deck.refused(503, "erasures_unread", "POST", "jobs", training(held))
        await erasures.settle()
        assert held in deck.hub.facts.erased
        await deck.refused(409, "erased_row", "POST", "jobs", training(held))


async def test_a_folder_of_keys_that_does_not_answer_holds_up_no_start_and_no_r(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(data) as deck:
        agent = await LinkedAgent(deck, "n1").join()
        await deck.tenant()
        one, two = await deck.release(seed=1), await deck.release(seed=2)
        for release in (one, two):
            await deck.promote(release)
        await agent.leave()
    monkeypatch.setattr("loradeck.artifacts.blobs.row_keys.ANSWER_S", 2)
    monkeypatch.setattr("loradeck.hub.data.erasure_list.START_S", 0.1)
    listed = data / "keys" / "erasures.jsonl"
    os.mkfifo(listed)
    async with running(data) as deck:
        agent = await LinkedAgent(deck, "n1").join()
        await deck.rollback()
        asks = {"release": two, "idempotency_key": key()}
        asks["expected_generation"] = deck.hub.log.state.route("acme", "production")[2].generation
        path = "tenants/acme/routes/production/promote"
        problem = await deck.refused(503, "erasures_unread", "POST", path, asks | {"override": True, "reason": "test"})
        assert problem.detail
        end = os.open(listed, os.O_RDWR | os.O_NONBLOCK)
        listed.unlink()
        os.close(end)
        await until(lambda: not deck.hub.erasure_list._trouble, "it is read once the mount answers")
        await agent.leave()


def test_a_hub_with_another_folder_of_keys_is_refused_at_its_start_and_both_are_named(
    data: Path, tmp_path: Path
) -> None:
    async def start(**options: Path) -> None:
        async with running(data, **options):
            pass

    asyncio.run(start())
    first = (data / "keys" / "id").read_text()
    with pytest.raises(BadArtifact) as caught:
        asyncio.run(start(keys=tmp_path / "other"))
    assert (caught.value.code, first in caught.value.detail) == ("other_keys", True)
    assert str(tmp_path / "other") in caught.value.detail
    (data / "hub.db").unlink()
    asyncio.run(start())  # a hub that has lost its database begins anew in its own folder
    assert (data / "keys" / "id").read_text() != first
    shutil.rmtree(data / "keys")
    asyncio.run(start())  # and one that has lost its keys goes on without the rows


async def test_a_takeover_that_finds_another_databases_folder_of_keys_does_nothing_in_it_and_r_works(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared"
    async with running(data, keys=shared) as deck:
        agent = await LinkedAgent(deck, "n1").join()
        await deck.tenant()
        one, two = await deck.release(seed=1), await deck.release(seed=2)
        for release in (one, two):
            await deck.promote(release)
        await agent.leave()
    ours = (shared / "id").read_text()
    monkeypatch.setattr(HubProcess, "_check_keys", lambda *_: (shared / "id").write_text("another a far:/keys"))
    async with running(data, keys=shared) as deck:
        agent = await LinkedAgent(deck, "n1").join()
        before = sorted(path.name for path in shared.rglob("*"))
        await deck.rollback()
        asks = {"release": two, "idempotency_key": key(), "override": True, "reason": "test"}
        asks["expected_generation"] = deck.hub.log.state.route("acme", "production")[2].generation
        path = "tenants/acme/routes/production/promote"
        problem = await deck.refused(503, "erasures_unread", "POST", path, asks)
        assert ("another a far:/keys" in problem.detail, ours in problem.detail) == (True, True)
        sent = await deck.local.put(f"blobs/{sha256(b'rows').hexdigest()}", content=b"rows", headers={ROWS: "1"})
        assert (sent.status_code, sent.json()["code"]) == (503, "other_keys")
        assert sorted(path.name for path in shared.rglob("*")) == before
        await agent.leave()
