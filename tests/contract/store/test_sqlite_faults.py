"""SQLite on a disk that fails: an exact outcome, and nothing half done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.compiler import shared_library
from tests.contract.store.drafts import move
from tests.contract.store.whole_log import verify_log

from loradeck.store.interface import DiskFull
from loradeck.store.sqlite import SqliteStore

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`faults.c`, compiled."""
    return shared_library(HERE / "faults.c", tmp_path_factory.mktemp("faults") / "faults.so")


def play(scene: str, shim: Path, folder: Path) -> dict[str, Any]:
    env = os.environ | {
        "LD_PRELOAD": str(shim),
        "LORADECK_FAULT": str(folder / "fault"),
        "LORADECK_SYNCS": str(folder / "syncs"),
    }
    command = [sys.executable, str(HERE / "faulty_disk.py"), scene, str(folder / "hub" / "hub.db")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_a_commit_costs_one_sync_however_many_events_it_holds(shim: Path, tmp_path: Path) -> None:
    told = play("one_sync_a_commit", shim, tmp_path)
    assert told == {"for_100_commits": 100, "for_one_commit_of_100": 1}


@pytest.mark.parametrize("scene", ["sync_fails", "sync_fails_after_its_work"])
def test_after_a_failed_sync_the_outcome_is_unknown_until_the_key_is_looked_up(
    scene: str, shim: Path, tmp_path: Path
) -> None:
    told = play(scene, shim, tmp_path)
    unknown = "outcome_unknown"
    assert [told[step] for step in ("commit", "later_commit", "lookup")] == [unknown] * 3
    assert [told[step] for step in ("reopen_while_failing", "lookup_while_failing")] == [unknown] * 2
    # Whichever it was, the look-up says the same as the log, and the same key ends up moving exactly once.
    assert told["rev"] == (2 if told["durable"] else 1)
    assert told["again"] == ("replayed" if told["durable"] else "committed")
    assert (told["next"], told["verified"], told["final_rev"], told["rev_after_restart"]) == ("committed", True, 3, 3)


def test_a_full_disk_changes_nothing_and_moves_go_on_once_there_is_room(shim: Path, tmp_path: Path) -> None:
    told = play("disk_full", shim, tmp_path)
    assert told == {
        "commit": ["disk_full"] * 3,
        "meta": "disk_full",
        "unchanged": True,
        "with_room": "committed",
        "verified": True,
        "rev_after_restart": 2,
        "verified_after_restart": True,
    }


def test_a_full_database_changes_nothing_and_moves_go_on_once_there_is_room(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "hub.db")
    store.take_lease("hub-a")
    store.commit([move(to=1)], key="key-0001")
    before = store.snapshot()
    with store.database.reading() as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")
    drafts = [move(f"t{n}", to=n) for n in range(200)]
    with pytest.raises(DiskFull):
        store.commit(drafts, key="key-0002")
    assert store.snapshot() == before
    assert store.lookup("key-0002") is None
    with store.database.reading() as connection:
        connection.execute("PRAGMA max_page_count = 1000000")
    assert store.commit(drafts, key="key-0002").rev == 201
    assert verify_log(store).ok
    store.close()


def test_a_write_that_fails_inside_the_commit_is_an_unknown_outcome(tmp_path: Path) -> None:
    # A limit on file sizes makes the kernel refuse the write with EFBIG: a real I/O error, without a shim.
    script = (
        "import resource, sys, json\n"
        f"sys.path.insert(0, {str(HERE)!r})\n"
        "from faulty_disk import *\n"
        "store = opened(sys.argv[1])\n"
        "store.commit([move(to=1)], key='key-0001')\n"
        "hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))\n"
        "told = {'commit': outcome(store, 2, 'key-0002')}\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))\n"
        "store.reopen()\n"
        "told['durable'] = store.lookup('key-0002') is not None\n"
        "told['again'] = outcome(store, 2, 'key-0002')\n"
        "told['rev'] = store.snapshot().rev\n"
        "print(json.dumps(told))\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "hub.db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["commit"] == "outcome_unknown"
    assert told["again"] == ("replayed" if told["durable"] else "committed")
    assert told["rev"] == 2
