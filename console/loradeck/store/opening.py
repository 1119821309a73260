"""Which store a hub has, a SQLite file of its own or a PostgreSQL database; and the move from one to the other."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from loradeck.store.copying import copy_tables
from loradeck.store.interface import LeaseHeld, StoreError
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
