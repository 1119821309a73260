"""The store in one SQLite file, for a hub that has its database to itself.

The file is opened, locked, migrated, and changed only in whole transactions.

Durability: WAL with `synchronous=FULL`, one fdatasync a commit. `locking_mode=EXCLUSIVE` keeps every other program out
of the file while it is open; a flock beside the file tells a second hub why it cannot start.

SQLite 3.7.0 to 3.51.2 have the WAL-reset bug: two connections that write and checkpoint at once can corrupt a database
(https://sqlite.org/wal.html#walresetbug). With this lock there is no second connection, so that any version will do.
Where there is a wheel of pysqlite3, a fixed one is installed all the same.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loradeck.artifacts.staging import fsync_folder, private_folder
from loradeck.store.interface import DiskFull, OutcomeUnknown, StoreError, Unusable
from loradeck.store.migrations import Schema, newest
from loradeck.store.sql_database import SqlDatabase, wait_for
from loradeck.store.sql_log import Store
from loradeck.store.sqlite_utils_tables import Tables, sqlite3

if TYPE_CHECKING:
    from sqlite3 import Connection

SQLITE_VERSION: str = sqlite3.sqlite_version

APPLICATION_ID = 0x4C44434B  # "LDCK" in the file's header
BUSY_S = 2.0
CHECKPOINT_PAGES = 4000
"""Pages of 4 KiB in the WAL from which a commit also moves them into the database: about once in 500 moves."""

BACKUP_PAGES = 64
"""Pages of 4 KiB that are copied in one step of a backup: a move waits for no more."""

BACKUP_SYNCS = 16
"""Steps of a backup after which what they have written is synced."""

_FULL = 13
_BUSY = 5
_CORRUPT = frozenset({11, 26})  # SQLITE_CORRUPT, SQLITE_NOTADB


def wall_ms() -> int:
    """The wall clock, in milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000


class Database(SqlDatabase):
    """The database file and its one connection. The lock keeps every other process out.

    Raises:
        Unusable: a newer schema, another hub, or a file that is not a database of Loradeck.
        DiskFull: there is no room to open it.
    """

    field = "json_extract(body, '$.{}')"

    def __init__(self, path: Path, clock_ms: Callable[[], int]) -> None:
        super().__init__()
        self.path = path.absolute()
        self._clock_ms = clock_ms
        self._lock: int | None = _take_lock(self.path)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    # -- transactions ------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Runs the block as one transaction: all of it becomes durable, or nothing. An exception in the block rolls it
        back.

        Raises:
            DiskFull: rolled back.
            OutcomeUnknown: the commit failed in a way that may have left it durable; `reopen()` first.
            StoreError: SQLite refused a statement; rolled back.
        """
        with self._mutex, _explained():
            connection = self._ready()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                self._roll_back(connection)
                raise
            self._commit(connection)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Yields the connection for reads; writers wait meanwhile.

        Raises:
            OutcomeUnknown: a commit failed and the store was not reopened since.
            Unusable: the store is closed.
        """
        with self._mutex, _explained():
            yield self._ready()

    def _ready(self) -> Connection:
        if self._suspect:
            raise OutcomeUnknown("a commit failed and its outcome is not known yet: reopen the store, then look it up")
        if self._connection is None:
            raise Unusable("the store is closed")
        connection: Connection = self._connection
        return connection

    def _commit(self, connection: Connection) -> None:
        try:
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            # Out of room is certain: the frame that would commit is the last one written, and it was not.
            # Anything else (fsync above all) may have reached the disk all the same.
            if _code(error) == _FULL:
                self._roll_back(connection)
                raise
            self._suspect = True
            raise OutcomeUnknown(
                f"the commit failed ({error}) and may be durable or not: look it up by its key"
            ) from error

    def _roll_back(self, connection: Connection) -> None:
        if not connection.in_transaction:
            return  # SQLite rolls back by itself on some errors
        try:
            connection.execute("ROLLBACK")
        except sqlite3.Error:
            # Nothing was committed, but this connection is of no use any more; the first error is the one to report.
            self._suspect = True

    # -- opening -----------------------------------------------------------------------------------------

    def close(self) -> None:
        """Closes the file and gives up the lock. It cannot be opened again."""
        with self._mutex:
            self._disconnect()
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    def _open(self) -> None:
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self.path.chmod(0o600)  # a copy put back from a backup often is not
        fsync_folder(self.path.parent)
        with _explained():
            # `isolation_level=None`: we say BEGIN and COMMIT, the driver never does.
            connection: Connection = sqlite3.connect(
                self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False, cached_statements=256
            )
            try:
                connection.create_function("clock_ms", 0, self._clock_ms)
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
        self._connection = connection

    def _prepare(self, connection: Connection) -> None:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # before the WAL is touched: then it needs no -shm
        schema = Schema(_tables(connection))
        ours = _number(connection, "application_id") == APPLICATION_ID
        if not ours and (schema.user_version or _number(connection, "schema_version")):
            raise Unusable(f"{self.path} is another program's database. Give Loradeck a folder of its own.")
        if unknown := schema.unknown():
            raise Unusable(
                f"{self.path} has {unknown}, which this Loradeck does not know. Start the newer Loradeck that wrote "
                f"it, have that one take it back (loradeck hub migrate --from {self.path} --down {newest()}), or "
                "restore a copy from before the upgrade."
            )
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise Unusable(f"{self.path} cannot be put in WAL mode (it stays in {mode!r}).")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA secure_delete = ON")  # what was removed is in no free page, nor in a backup
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        # What a crash or a failed fsync left in the WAL may be in the page cache only, and a second fsync of the
        # same file would not write it again. Moved into the database and synced there, it is durable.
        _, in_wal, moved = connection.execute("PRAGMA wal_checkpoint(FULL)").fetchone()
        if in_wal != moved:
            raise StoreError(f"the WAL of {self.path} could not be moved into it: {moved} of {in_wal} pages")
        schema.migrate(APPLICATION_ID)

    def take_back(self, steps: Sequence[tuple[str, str]]) -> None:
        """Takes migrations back; see `SqlDatabase.take_back`."""
        with self.transaction() as connection:
            Schema(_tables(connection)).take_back(steps)

    def backup(self, path: Path, between: Callable[[], None] = lambda: None) -> None:
        """Writes a consistent copy to `path`, 0600, durable when this returns.

        `between` is called after each 256 KiB, and while the disk takes what was written. It may use this database:
        SQLite writes what changes by the same connection to the copy too, so that the backup is of its last moment.

        Raises: StoreError: the file exists; a backup never replaces one.
        """
        if path.exists():
            raise StoreError(f"{path} exists: a backup never replaces a file")
        staging = path.with_name(path.name + ".part")
        staging.unlink(missing_ok=True)
        os.close(os.open(staging, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        try:
            with self.reading() as connection, ThreadPoolExecutor(1) as syncing, staging.open("rb") as file:

                def stepped(status: int, remaining: int, total: int) -> None:
                    between()
                    steps = (total - remaining) // BACKUP_PAGES
                    if steps % BACKUP_SYNCS == 0:  # else the sync of a move would wait for all of it
                        wait_for(syncing.submit(os.fdatasync, file.fileno()), between)

                copy = sqlite3.connect(staging, isolation_level=None)
                try:
                    copy.execute("PRAGMA synchronous = OFF")
                    connection.backup(copy, pages=BACKUP_PAGES, progress=stepped)
                    copy.execute("PRAGMA journal_mode = DELETE")  # one file, complete without a -wal
                finally:
                    copy.close()
                wait_for(syncing.submit(publish, staging, path), between)
        finally:
            staging.unlink(missing_ok=True)


def publish(staging: Path, path: Path) -> None:
    """Gives a finished file its name, durably. Raises: FileExistsError: the name was taken meanwhile."""
    with staging.open("rb") as file:
        os.fsync(file.fileno())
    os.link(staging, path)  # unlike rename, never replaces a file
    fsync_folder(path.parent)


def _take_lock(path: Path) -> int:
    """Takes the lock file beside the database, for as long as this process has it open.

    Raises: Unusable: another hub holds it, or others can write in the folder.
    """
    private_folder(path.parent)
    if path.parent.stat().st_mode & 0o022:
        raise Unusable(f"others may write in {path.parent}, and so replace the database: chmod 700 {path.parent}")
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock, 32, 0).decode(errors="replace").strip()
        os.close(lock)
        raise Unusable(
            f"{path} is in use by another hub (process {holder or 'unknown'}). One hub a database."
        ) from None
    with suppress(OSError):  # on a full disk: the id only serves the message above
        os.pwrite(lock, f"{os.getpid():<20}\n".encode(), 0)
    return lock


@contextmanager
def _explained() -> Iterator[None]:
    """Translates SQLite's errors in the block into StoreErrors. Use it only where nothing has been committed."""
    try:
        yield
    except sqlite3.Error as error:
        code = _code(error)
        if code == _FULL:
            raise DiskFull(
                "there is no room on the store's disk; nothing was changed. Make room and try again."
            ) from error
        if code in _CORRUPT:
            raise Unusable(f"the file is damaged or not a database ({error}). Restore a copy.") from error
        if code == _BUSY:
            raise Unusable(f"another program has the database open ({error}). Close it and try again.") from error
        raise StoreError(f"the database refused: {error}; nothing was changed") from error


def _tables(connection: Connection) -> Any:
    return Tables(connection, recursive_triggers=False, execute_plugins=False)


def _code(error: Exception) -> int:
    """Primary result code of SQLite; 0 if the driver itself raised the error."""
    return int(getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF


def _number(connection: Connection, pragma: str) -> int:
    return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])


class SqliteStore(Store):
    """The `Store` in one SQLite file.

    Args:
        path: the database; created with its folder (0700) if missing.
        clock_ms: wall clock, milliseconds since 1970 UTC.

    Raises: Unusable: see `Database`. Nothing was changed.
    """

    version = f"SQLite {SQLITE_VERSION}"

    def __init__(self, path: str | Path, *, clock_ms: Callable[[], int] = wall_ms) -> None:
        super().__init__(Database(Path(path), clock_ms))
