"""Backups of a hub that serves: moves are made meanwhile, blobs come along, and a drill tells what one brings back."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.fleets.linked.hub import Deck, running
from tests.fleets.waiting import until
from tests.integration.hub.conftest import Join

from loradeck.store.drill import drill
from loradeck.store.interface import StoreError
from loradeck.store.sql_log import Store


async def test_moves_are_made_during_a_backup_and_none_waits_for_it(
    deck: Deck, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await deck.tenant()
    await deck.hub.store(lambda s: s.set_meta("large", "x" * (8 << 20)))
    copy, begun, made, over = Store.backup, threading.Event(), list[Any](), time.monotonic() + 60

    def held(self: Store, path: str, between: Callable[[], None]) -> None:
        def slowly() -> None:
            between()
            begun.set()
            while len(made) < 10 and time.monotonic() < over:
                time.sleep(0.001)
                between()

        copy(self, path, slowly)

    monkeypatch.setattr(Store, "backup", held)
    backup = asyncio.create_task(deck.ok("POST", "backup", {"path": str(data / "copy.db")}))
    assert await asyncio.to_thread(begun.wait, 60)
    for _ in range(10):
        made.append(await deck.ok("POST", "tenants/acme/keys"))
    assert time.monotonic() < over, "they were made while it was written"
    rev = (await backup)["rev"]
    assert drill(data / "copy.db").rev >= rev
    assert [name for name in os.listdir(data) if name.startswith("copy")] == ["copy.db"]


async def test_a_hub_makes_backups_by_the_clock_with_new_blobs_and_shows_when_none_was_made(
    data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "backups"
    async with running(data, backup_to=folder, backup_every_s=1.0) as deck:
        backups = deck.hub.backups
        assert backups is not None
        await deck.tenant()
        await deck.release()
        await until(lambda: backups.last_ms, "the first one is made at once")
        first = backups.last_ms
        assert deck.hub.status.now().last_backup_ms == first
        await deck.release(seed=2)
        await backups.make()
        newest = folder / max(name for name in os.listdir(folder) if name.startswith("hub-"))
        drilled = drill(newest)
        assert (drilled.rev, drilled.missing) == (deck.hub.log.state.rev, ())
        assert drilled.files == 3
        for _ in range(8):
            await backups.make()
        assert len([name for name in os.listdir(folder) if name.startswith("hub-")]) <= 8
        folder.rename(tmp_path / "away")
        folder.write_text("something is in the way")
        await until(lambda: deck.hub.status.now().backup_late, "the status says so", 60)
        assert "loradeck_backup_late 1.0" in (await deck.local.get("http://hub/metrics")).text


async def test_a_drill_finds_a_changed_log_and_a_missing_blob(deck: Deck, data: Path, join: Join) -> None:
    await join("n1")
    await deck.tenant()
    await deck.promote(await deck.release())
    backup = data / "b" / "hub.db"
    backup.parent.mkdir()
    await deck.ok("POST", "backup", {"path": str(backup)})
    assert len(drill(backup).missing) == 2, "no blobs lie beside it"
    with pytest.raises(StoreError, match="no backup"):
        drill(data / "none.db")
    with closing(sqlite3.connect(backup)) as connection, connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute("UPDATE events SET body = json_set(body, '$.reason', 'changed') WHERE rev = 2")
    with pytest.raises(StoreError, match="broken at rev 2"):
        drill(backup)
