"""Which store a hub has, the move from a SQLite file to a PostgreSQL database or back, and the restore drill.

A drill tries what a backup would bring back, in a folder that is removed afterwards.
"""

import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from loradeck.artifacts.blobs.folder import FolderBlobs
from loradeck.artifacts.blobs.store import SEALED_HEAD, SEALED_MARK, Blobs
from loradeck.store.copying import copy_tables
from loradeck.store.interface import Doc, LeaseHeld, StoreError
from loradeck.store.log_audit import AuditCheck, LogAudit, LogReport
from loradeck.store.sql_log import Store
from loradeck.store.sqlite import SqliteStore

SQLITE = SqliteStore.version
"""The name and version of the program of a store in a file."""


def open_store(where: str, *, degrades: bool = False) -> Store:
    """Opens the store at the path of a SQLite file, or at `postgresql://USER@HOST:PORT/DATABASE`.

    `degrades`: go on with one copy where a standby is gone; see `PostgresStore`.

    Raises:
        StoreError: see `SqliteStore` and `PostgresStore`.
        ModuleNotFoundError: psycopg is missing.
    """
    if where.startswith(("postgresql://", "postgres://")):
        from loradeck.store.postgres import PostgresStore  # psycopg is in the extra `postgres`

        return PostgresStore(where, degrades=degrades)
    return SqliteStore(where)


@contextmanager
def no_hubs_store(where: str) -> Iterator[Store]:
    """Opens a store that is there, for as long as the block lasts.

    Raises: LeaseHeld: a hub has it open. StoreError: there is none, or see `open_store`.
    """
    if "://" not in where and not Path(where).is_file():
        raise StoreError(f"there is no database at {where}")
    with closing(open_store(where)) as store:
        head = store.read_head()
        if store.database.shared and head.is_held:
            raise LeaseHeld(head.lease, head.remaining_s)
        yield store


def migrate(source: str, target: str) -> LogReport:
    """Copies a store to an empty one, and checks both: the chain of the log, what it folds to, and the audit trail.

    Raises: StoreError: the target has a log, a check failed, or a hub has the source open. The source was not changed.
    """
    with no_hubs_store(source) as old:
        report = verified(old, source)
        with closing(open_store(target)) as new:
            with old.database.reading() as before, new.database.transaction() as after:
                copy_tables(before, after)
            if verified(new, target) != report:
                raise StoreError(f"the log in {target} is not the one in {source}: do not use it")
    return report


def verified(store: Store, where: str) -> LogReport:
    """Checks the chain of a store's log, what it folds to, and its audit trail. Raises: StoreError."""
    log = LogAudit()
    while (report := log.step(store)) is None:
        pass
    trail = AuditCheck(log.anchors)
    while (found := trail.step(store)) is None:
        pass
    if report.broken is not None:
        raise StoreError(f"the log in {where} is broken at rev {report.broken.rev}: {report.broken.why}")
    if found.broken is not None:
        raise StoreError(f"the audit trail in {where} is broken: {found.broken}")
    return report


FILES_OF = (Doc.ADAPTER, Doc.DATASET, Doc.SUITE)
"""Documents whose files are at the hub."""


@dataclass(frozen=True, kw_only=True)
class Drilled:
    """What a backup holds: the log up to `rev`, and `files` that it names, of which some are `missing` beside it."""

    rev: int
    hash: str
    files: int
    missing: tuple[str, ...]


def drill(backup: Path) -> Drilled:
    """Restores a copy of a backup, and verifies the log's chain, what it folds to, the audit trail, and that the blobs
    that it names lie in `artifacts/` beside it.

    Raises: StoreError: it cannot be opened, or a check of the database failed.
    """
    if not backup.is_file():
        raise StoreError(f"there is no backup at {backup}")
    with TemporaryDirectory(prefix="loradeck-drill-") as folder:
        copy = Path(folder) / "hub.db"
        shutil.copyfile(backup, copy)
        with closing(SqliteStore(copy)) as store:
            report = verified(store, str(backup))
            named = {file["sha256"] for kind in FILES_OF for doc in store.registry(kind) for file in _files(doc.body)}
    beside = backup.parent / "artifacts"
    there = set(_lying(FolderBlobs(beside), named)) if beside.is_dir() else set[str]()
    return Drilled(rev=report.rev, hash=report.hash, files=len(named), missing=tuple(sorted(named - there)))


def _lying(blobs: Blobs, named: set[str]) -> Iterator[str]:
    """The blobs that lie in a store, those that lie there sealed too; whether there are keys for these is not known."""
    for sha256 in blobs.listed():
        head = b"" if sha256 in named else next(blobs.open(sha256, 0, SEALED_HEAD), b"")
        yield head[len(SEALED_MARK) :].hex() if head.startswith(SEALED_MARK) else sha256


def _files(body: dict[str, Any]) -> list[dict[str, str]]:
    return list(body.get("manifest", body)["files"])
