"""Which store a hub has, a SQLite file of its own or a PostgreSQL database; and the move from one to the other."""

from pathlib import Path

from loradeck.store.audit_check import AuditCheck
from loradeck.store.copying import copy_tables
from loradeck.store.interface import LeaseHeld, StoreError
from loradeck.store.log_audit import LogAudit, LogReport
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


def migrate(source: str, target: str) -> LogReport:
    """Copies a store to an empty one, and checks both: the chain of the log, what it folds to, and the audit trail.

    Raises: StoreError: the target has a log, a check failed, or a hub has the source open. The source was not changed.
    """
    if "://" not in source and not Path(source).is_file():
        raise StoreError(f"there is no database at {source}")
    old = open_store(source)
    try:
        head = old.read_head()
        if old.database.shared and head.is_held:
            raise LeaseHeld(head.lease, head.remaining_s)
        report = verified(old, source)
        new = open_store(target)
        try:
            with old.database.reading() as before, new.database.transaction() as after:
                copy_tables(before, after)
            if verified(new, target) != report:
                raise StoreError(f"the log in {target} is not the one in {source}: do not use it")
        finally:
            new.close()
    finally:
        old.close()
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
