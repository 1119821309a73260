"""Scenes on a disk that fails when told to. Run by the tests with `faults.c` preloaded.

    python faulty_disk.py SCENE DATABASE

Prints what happened as one JSON object; the test judges it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from drafts import move
from whole_log import verify_log

from loradeck.store.interface import Committed, StoreError
from loradeck.store.sqlite import SqliteStore


def disk(fault: str) -> None:
    Path(os.environ["LORADECK_FAULT"]).write_text(fault)


def syncs() -> int:
    counted = Path(os.environ["LORADECK_SYNCS"])
    return counted.stat().st_size if counted.exists() else 0


def outcome(store: SqliteStore, generation: int, key: str) -> str:
    """Commit one move: 'committed', 'replayed', or the code of what was raised."""
    try:
        committed: Committed = store.commit([move(to=generation, generation=generation)], key=key)
    except StoreError as error:
        return error.code
    return "replayed" if committed.replayed else "committed"


def attempt(call: Any) -> str:
    try:
        call()
    except StoreError as error:
        return error.code
    return "ok"


def opened(database: str) -> SqliteStore:
    store = SqliteStore(database)
    store.take_lease("hub-a")
    return store


def one_sync_a_commit(database: str) -> dict[str, Any]:
    store = opened(database)
    before = syncs()
    for generation in range(1, 101):
        store.commit([move(to=generation, generation=generation)], key=f"key-{generation:04}")
    counted = syncs() - before
    before = syncs()
    store.commit([move("bob", to=n, generation=n) for n in range(1, 101)], key="key-bulk")
    store.commit([], key="key-0001")
    return {"for_100_commits": counted, "for_one_commit_of_100": syncs() - before}


def failed_sync(database: str, fault: str) -> dict[str, Any]:
    store = opened(database)
    store.commit([move(to=1)], key="key-0001")
    disk(fault)
    told: dict[str, Any] = {"commit": outcome(store, 2, "key-0002")}
    told["later_commit"] = outcome(store, 3, "key-0003")
    told["lookup"] = attempt(lambda: store.lookup("key-0002"))
    told["reopen_while_failing"] = attempt(store.reopen)
    told["lookup_while_failing"] = attempt(lambda: store.lookup("key-0002"))
    disk("-")
    store.reopen()
    told["durable"] = store.lookup("key-0002") is not None
    told["rev"] = store.snapshot().rev
    told["again"] = outcome(store, 2, "key-0002")
    told["next"] = outcome(store, 3, "key-0003")
    told["verified"] = verify_log(store).ok
    told["final_rev"] = store.snapshot().rev
    store.close()
    told["rev_after_restart"] = SqliteStore(database).snapshot().rev
    return told


def sync_fails(database: str) -> dict[str, Any]:
    return failed_sync(database, "s")


def sync_fails_after_its_work(database: str) -> dict[str, Any]:
    return failed_sync(database, "d")


def disk_full(database: str) -> dict[str, Any]:
    store = opened(database)
    store.commit([move(to=1)], key="key-0001")
    before = store.snapshot()
    disk("w")
    told: dict[str, Any] = {"commit": [outcome(store, 2, "key-0002") for _ in range(3)]}
    told["meta"] = attempt(lambda: store.set_meta("a", "b"))
    told["unchanged"] = store.snapshot() == before and store.lookup("key-0002") is None and store.meta("a") is None
    disk("-")
    told["with_room"] = outcome(store, 2, "key-0002")
    told["verified"] = verify_log(store).ok
    store.close()
    reopened = SqliteStore(database)
    told["rev_after_restart"] = reopened.snapshot().rev
    told["verified_after_restart"] = verify_log(reopened).ok
    return told


SCENES = {scene.__name__: scene for scene in (one_sync_a_commit, sync_fails, sync_fails_after_its_work, disk_full)}

if __name__ == "__main__":
    print(json.dumps(SCENES[sys.argv[1]](sys.argv[2])))
