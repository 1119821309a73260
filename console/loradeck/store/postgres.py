"""The store in a PostgreSQL database, which several hubs share.

One connection, to the server that takes writes. Each wait for the server ends: a commit whose synchronous standbys are
gone would otherwise last for ever, and `statement_timeout` does not end it. Where that wait is cut short, the server
answers with success and a warning, and psycopg raises nothing: the outcome is unknown, since the commit is on the
server's own disk and perhaps nowhere else. Where the operator has chosen so, later commits do not wait for standbys
then, until one that does is answered: what that one waits for has every commit before it.

After a connection was lost the hub that holds the lease writes, synchronously, before anything read is believed: what
that commit waits for has every commit before it.
"""

from __future__ import annotations

import logging
import select
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import TupleRow

from loradeck.store.copying import copy_tables
from loradeck.store.interface import DiskFull, OutcomeUnknown, StoreError, Unreachable, Unusable
from loradeck.store.lease import locked_head, new_holder
from loradeck.store.migrations import newest, scripts
from loradeck.store.sql_database import Connection, SqlDatabase, wait_for
from loradeck.store.sql_log import Store, has_hash
from loradeck.store.sqlite import Database, publish, wall_ms

log = logging.getLogger("loradeck.store.postgres")

T = TypeVar("T")

COMMIT_S = 2.0
"""Seconds that a commit may take, with the answer of synchronous standbys."""

STATEMENT_S = 30.0
"""Seconds that any other statement may take. The longest read whole tables of a long log."""

CANCEL_S = 2.0
"""Seconds that the server has to answer once a statement is cancelled."""

SELF_TEST_S = 2.0
"""Seconds within which a notice of our own must arrive, where notices arrive at all."""

_LOCK = 0x4C44434B
_OLDEST = 140000
_DIALECT = "postgres"

_SESSION = """
SET search_path TO loradeck;
SET idle_in_transaction_session_timeout TO '4s';
SET lock_timeout TO '2s';
RESET synchronous_commit;
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';
"""
"""A hub that hangs within a transaction would keep every other one from taking the lease. Commits are durable."""

_END_HUNG = """
SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE relation = 'head'::regclass AND mode = 'RowExclusiveLock' AND granted AND pid <> pg_backend_pid()
AND clock_timestamp() - xact_start > interval '4 seconds'
"""
"""Ends the sessions that have kept the row of the head for longer than a commit may take.

`idle_in_transaction_session_timeout` does not: it begins when the server waits for the next statement, and not within a
pipeline, in which a hub sends nearly all of its writes. `transaction_timeout` would, from PostgreSQL 17 on.
"""

_ALONE = "SET synchronous_commit TO local"

_PROBE = "SELECT pg_logical_emit_message(true, 'loradeck', '')"
"""The smallest commit that waits for standbys. Anybody may make it, and it changes nothing."""

PROBE_S = 1.0
"""Pause between two of them, seconds."""

_DEFAULTS: dict[str, Any] = {
    "application_name": "loradeck",
    "connect_timeout": 3,
    "target_session_attrs": "read-write",
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 2,
    "tcp_user_timeout": 8000,
}


class PostgresStore(Store):
    """The `Store` in a PostgreSQL database.

    Args:
        url: `postgresql://[USER@]HOST[:PORT][,HOST...]/DATABASE[?...]`, without a password.
        commit_s: seconds that a commit may take.
        degrades: once a commit has waited for a standby in vain, later ones are made on the one server alone.

    Raises:
        Unreachable: no server that takes writes answers.
        Unusable: a newer schema, a password in the URL, an old server.
    """

    def __init__(self, url: str, *, commit_s: float = COMMIT_S, degrades: bool = False) -> None:
        self._postgres = PostgresDatabase(url, commit_s=commit_s, degrades=degrades)
        super().__init__(self._postgres)
        self._postgres.on_connect = self._resume

    @property
    def version(self) -> str:
        """The name and version of the server's program."""
        return self._postgres.version

    def _resume(self, connection: Connection) -> None:
        """Finds out on a new connection what has become of this hub's hold, by a write."""
        if self._lease is None:
            return
        head = locked_head(connection)
        if head.lease.holder != self._holder:
            return  # the next write says so
        self._lease = replace(self._lease, epoch=head.lease.epoch)
        rev, hash_ = self._newest
        if not has_hash(connection, rev, hash_):
            log.error("the database lacks rev %d, which was committed: this hub gives up the lease", rev)
            self._holder = new_holder()
            self._lease = replace(self._lease, holder=self._holder)


class PostgresDatabase(SqlDatabase):
    """A connection to a PostgreSQL database, made again when it was lost. One thread at a time; others wait."""

    shared = True
    dialect = _DIALECT
    field = "(body::json ->> '{}')"

    def __init__(self, url: str, *, commit_s: float = COMMIT_S, degrades: bool = False) -> None:
        super().__init__()
        self._url = url
        self._degrades = degrades
        self._replicates = threading.Event()
        self._ended = threading.Event()
        self._settings = _settings(url)
        self._commit_s = commit_s
        self._closed = False
        self._listens: bool | None = None
        self._warnings: list[str] = []
        self._connection: _Bounded | None = None
        self.on_connect: Callable[[Connection], None] = lambda connection: None
        """Called in a transaction of its own on each new connection, before it is used."""
        self._open()

    @property
    def version(self) -> str:
        """The name and version of the server's program; empty while it is not connected."""
        found = self._connection.info.parameter_status("server_version") if self._connection else None
        return f"PostgreSQL {found}" if found else ""

    # -- transactions ------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Runs the block as one transaction; see `SqlDatabase.transaction`."""
        with self._mutex, self._block(self._ready(), "BEGIN") as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Runs the block on one state of the database; see `SqlDatabase.reading`."""
        with self._mutex, self._block(self._ready(), "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY") as connection:
            yield connection

    @contextmanager
    def _block(self, connection: _Bounded, begin: str) -> Iterator[Connection]:
        """Runs the block between `begin` and a commit. What it writes and does not read is sent with the commit."""
        committing = False
        self._warnings.clear()
        try:
            with connection.pipeline():
                connection.execute(begin)
                yield _Translated(connection)
                committing, connection.wait_s = True, self._commit_s
                connection.execute("COMMIT")
        except psycopg.Error as error:
            self._roll_back(connection)
            # With a state the server has refused a statement, and so the commit after it, or the commit itself.
            if committing and (error.sqlstate is None or connection.closed):
                self._suspect = True
                why = f"the commit was not answered ({_first_line(error)})"
                raise OutcomeUnknown(f"{why} and may be durable or not: look it up by its key") from error
            if isinstance(error, errors.LockNotAvailable):
                self._end_hung(connection)
            raise _explained(error) from error
        except BaseException:
            self._roll_back(connection)
            raise
        finally:
            connection.wait_s = STATEMENT_S
        if self._warnings:
            self._suspect = True
            if self._degrades and not self.one_copy:
                self._go_on_alone()
            raise OutcomeUnknown(f"the commit may be on one server only: {self._warnings[0]}")

    def _ready(self) -> _Bounded:
        """The connection, which is made again if it was lost while nothing was under way."""
        if self._closed:
            raise Unusable("the store is closed")
        if self._suspect:
            raise OutcomeUnknown("a commit failed and its outcome is not known yet: reopen the store, then look it up")
        connection = self._connection
        if connection is None or _is_lost(connection):
            connection = self._connection = self._connect()
        if self._replicates.is_set():
            self._replicates.clear()
            connection.execute(_SESSION)
            self.one_copy = False
            log.warning("a standby has all commits again: they are on two servers before they are acknowledged")
        return connection

    def _go_on_alone(self) -> None:
        """Makes commits without standbys, from the next connection on, until one of them answers."""
        self.one_copy = True
        log.error("no standby answers: ways back are committed on one server alone, and nothing else is")
        threading.Thread(target=self._look_for_standby, name="standby", daemon=True).start()

    def _look_for_standby(self) -> None:
        """Makes commits that wait for standbys until one is answered."""
        while not self._ended.wait(PROBE_S):
            with suppress(psycopg.Error):
                if self._is_replicated():
                    self._replicates.set()
                    return

    def _is_replicated(self) -> bool:
        """Tells whether a commit on a connection of its own gets to a standby. Raises: psycopg.Error."""
        warned: list[str] = []
        with _Bounded.connect(**self._settings, autocommit=True) as connection:
            connection.execute(_SESSION)
            connection.add_notice_handler(lambda notice: warned.append(notice.message_primary or ""))
            connection.wait_s = self._commit_s
            connection.execute(_PROBE)
        return not warned

    def _end_hung(self, connection: _Bounded) -> None:
        """Ends the session of a hub that hangs within a write, so that others can write."""
        with suppress(psycopg.Error):  # the next attempt is told of whatever is wrong
            if connection.execute(_END_HUNG).fetchall():
                log.error("a hub has kept the row of the lease for over four seconds: its session is ended")

    def _roll_back(self, connection: _Bounded) -> None:
        try:
            connection.execute("ROLLBACK")
        except psycopg.Error:
            connection.close()  # so the server rolls back; the first error is the one to report

    # -- connecting --------------------------------------------------------------------------------------

    def close(self) -> None:
        """Ends the connection for good."""
        with self._mutex:
            self._closed = True
            self._ended.set()
            self._disconnect()

    def _open(self) -> None:
        self._connection = self._connect()

    def _connect(self) -> _Bounded:
        self._disconnect()
        self._listens = None
        try:
            connection: _Bounded = _Bounded.connect(**self._settings, autocommit=True)
        except psycopg.Error as error:
            raise Unreachable(f"the database cannot be reached: {_first_line(error)}; nothing was changed") from error
        try:
            connection.add_notice_handler(self._noticed)
            _migrate(connection)
            connection.execute(_SESSION)
            if self.one_copy:
                connection.execute(_ALONE)
            with self._block(connection, "BEGIN") as block:
                self.on_connect(block)
        except psycopg.Error as error:
            connection.close()
            raise _explained(error) from error
        except BaseException:
            connection.close()
            raise
        return connection

    def _noticed(self, notice: errors.Diagnostic) -> None:
        if notice.severity_nonlocalized == "WARNING":
            self._warnings.append(notice.message_primary or "")
            log.warning("the database warns: %s", notice.message_primary)

    # -- the rest ----------------------------------------------------------------------------------------

    def wait_for_change(self, timeout_s: float) -> bool:
        """Listens for the notice of another hub's commit; where notices do not arrive, waits in vain."""
        with self._mutex:
            connection = self._ready()
            try:
                if self._listens is None:
                    connection.execute("LISTEN loradeck")
                    connection.execute("NOTIFY loradeck")
                    self._listens = _heard(connection, SELF_TEST_S)
                    if not self._listens:
                        log.warning("notices of the database do not arrive: changes are looked for by reading alone")
                if self._listens:
                    return _heard(connection, timeout_s)
            except psycopg.Error as error:
                raise _explained(error) from error
        return super().wait_for_change(timeout_s)

    def take_back(self, steps: Sequence[tuple[str, str]]) -> None:
        """Takes migrations back; see `SqlDatabase.take_back`."""
        with self._mutex:
            connection = self._ready()
            try:
                with connection.transaction():
                    for name, sql in steps:
                        connection.execute(sql.encode())
                        connection.execute("DELETE FROM migrations WHERE name = %s", (name,))
            except psycopg.Error as error:
                raise _explained(error) from error

    def backup(self, path: Path, between: Callable[[], None] = lambda: None) -> None:
        """Writes a copy, a SQLite database, over a connection of its own: it may take longer than a hold lasts."""
        if path.exists():
            raise StoreError(f"{path} exists: a backup never replaces a file")
        copying = ThreadPoolExecutor(1)
        try:
            wait_for(copying.submit(self._copy, path), between)
        finally:
            copying.shutdown(wait=False)

    def _copy(self, path: Path) -> None:
        with TemporaryDirectory(prefix=".loradeck-", dir=path.parent) as folder:
            staging = Path(folder) / "hub.db"
            beside, copy = PostgresDatabase(self._url), Database(staging, wall_ms)
            try:
                with beside.reading() as source, copy.transaction() as target:
                    copy_tables(source, target)
            finally:
                copy.close()
                beside.close()
            publish(staging, path)


class _Bounded(psycopg.Connection[TupleRow]):  # type: ignore[misc]
    """A connection whose every wait ends: the server is asked to cancel, and then hung up on."""

    wait_s: float = STATEMENT_S

    def wait(self, gen: Generator[Any, Any, T], *args: Any, **more: Any) -> T:
        """Waits for the server as psycopg does, `wait_s` seconds at most."""
        result: T = super().wait(self._ending(gen), *args, **more)
        return result

    def _ending(self, gen: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
        ends, cancelled = time.monotonic() + self.wait_s, False
        try:
            state = next(gen)
            while True:
                ready = yield state
                if not ready and time.monotonic() > ends:
                    if cancelled:
                        gen.close()
                        self.close()
                        raise psycopg.OperationalError("the server does not answer")
                    ends, cancelled = time.monotonic() + CANCEL_S, True
                    with suppress(psycopg.Error):
                        self.cancel_safe(timeout=CANCEL_S)
                state = gen.send(ready)
        except StopIteration as end:
            value: T = end.value
            return value


class _Translated:
    """A connection that takes the SQL that SQLite takes: `?` for an argument."""

    def __init__(self, connection: _Bounded) -> None:
        self._connection = connection

    def execute(self, sql: str, args: Sequence[Any] = (), /) -> Any:
        """Runs one statement. Returns the cursor."""
        return self._connection.execute(_marked(sql), args)

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]], /) -> Any:
        """Runs one statement for each row of arguments."""
        cursor = self._connection.cursor()
        cursor.executemany(_marked(sql), rows)
        return cursor


@lru_cache(maxsize=256)
def _marked(sql: str) -> bytes:
    return sql.replace("%", "%%").replace("?", "%s").encode()


def _settings(url: str) -> dict[str, Any]:
    """Returns what psycopg connects with. Raises: Unusable: it is no URL of a database, or has a password in it."""
    try:
        given: dict[str, Any] = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise Unusable("this is not the URL of a PostgreSQL database: postgresql://USER@HOST:PORT/DATABASE") from None
    if given.pop("password", None) is not None:
        raise Unusable(
            "the URL of the database has a password in it, which others can read in the list of processes. "
            "Put it in ~/.pgpass, or in a file that PGPASSFILE or ?passfile= names, with mode 0600."
        )
    return _DEFAULTS | given


def _migrate(connection: _Bounded) -> None:
    """Applies what the database lacks of the schema, in one transaction.

    Raises: Unusable: it has what this program does not know, or is of a version that is too old.
    """
    info = connection.info
    if info.server_version < _OLDEST:
        raise Unusable(f"PostgreSQL {_OLDEST // 10000} or newer is needed; this is {info.server_version // 10000}")
    if info.parameter_status("server_encoding") != "UTF8":
        raise Unusable(f"the database {info.dbname} is not in UTF8: create it with ENCODING 'UTF8'")
    known = scripts(_DIALECT)
    if _applied(connection, known) == len(known):
        return
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        connection.execute("CREATE SCHEMA IF NOT EXISTS loradeck")
        connection.execute("SET LOCAL search_path TO loradeck")
        connection.execute("CREATE TABLE IF NOT EXISTS migrations (name text PRIMARY KEY)")
        for name, sql in known[_applied(connection, known) :]:
            connection.execute(sql.encode())
            connection.execute("INSERT INTO migrations VALUES (%s)", (name,))


def _applied(connection: _Bounded, known: Sequence[tuple[str, str]]) -> int:
    """Counts the migrations that the database has. Raises: Unusable: it has others."""
    row = connection.execute("SELECT to_regclass('loradeck.migrations') IS NOT NULL").fetchone()
    if row is None or not row[0]:
        return 0
    has = [str(name) for (name,) in connection.execute("SELECT name FROM loradeck.migrations ORDER BY name")]
    if has != [name for name, _ in known[: len(has)]]:
        raise Unusable(
            f"the database {connection.info.dbname} has {has[-1]}, which this Loradeck does not know. Start the newer "
            "Loradeck that wrote it, or have that one take it back: "
            f"loradeck hub migrate --from URL --down {newest(_DIALECT)}"
        )
    return len(has)


def _is_lost(connection: _Bounded) -> bool:
    """Tells whether a connection that nobody uses was ended by the server, as far as has arrived here."""
    try:
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN)
        for _ in range(2 if poll.poll(0) else 0):  # its last words, and then the end
            connection.pgconn.consume_input()
    except psycopg.Error as error:
        log.warning("the connection to the database was lost: %s", _first_line(error))
        return True
    return bool(connection.closed)


def _heard(connection: _Bounded, timeout_s: float) -> bool:
    """Waits for a notice, and takes in all that have arrived."""
    return bool(list(connection.notifies(timeout=timeout_s, stop_after=1)))


def _explained(error: psycopg.Error) -> StoreError:
    """The error as one of the store's. Only where nothing has been committed."""
    if isinstance(error, errors.DiskFull):
        return DiskFull("there is no room on the database's disk; nothing was changed. Make room and try again.")
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError | errors.ReadOnlySqlTransaction):
        return Unreachable(f"the database does not serve now: {_first_line(error)}; nothing was changed")
    return StoreError(f"the database refused: {_first_line(error)}; nothing was changed")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
