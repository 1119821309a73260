"""Rows under keys at a hub: sealed once registered, gone with their key, and not brought back by a backup."""

from __future__ import annotations

import shutil
from pathlib import Path
from unittest.mock import AsyncMock, Mock

import pytest
from tests.fakes.hub_in_process import running, until
from tests.integration.hub.test_erasure import DIGEST, ROW, execution, plan
from tests.integration.hub.test_ledger import dataset, items, row, training

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
            patch.setattr(deck.hub.erasures, "_drop_erased", AsyncMock())
            await deck.ok("POST", "erasures", execution(await plan(deck, rows=[DIGEST])))
    key = data / "keys" / "versions" / held
    assert key.stat().st_size
    async with running(data):
        await until(lambda: not key.stat().st_size, "the key is destroyed")

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
    (data / "keys" / "erasures.jsonl").write_text("somebody has edited this")  # no reason to be without R
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
            assert (await deck.local.post("erasures", json=sent)).status_code == 500
        key = data / "keys" / "versions" / held
        assert key.stat().st_size, "no key goes whose erasure is not listed"
        assert (await deck.ok("POST", "erasures", sent))["done"]
        assert not key.stat().st_size
    restored(made, data)
    async with running(data) as deck:
        (stated,) = await deck.ok("GET", "attestations?kind=erasure")
        assert (stated["subject"], stated["body"]["reason"]) == (held, "ticket\u20289")
        await deck.ok("POST", "jobs", training(await dataset(deck, [row(3)])))
