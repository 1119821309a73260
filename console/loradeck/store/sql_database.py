"""What the store in SQL asks of a database, whichever it is.

Each speaks the SQL of `sql_log` and its neighbours, with `?` for an argument, and knows a function `clock_ms()`: the
database's wall clock in milliseconds since 1970 UTC.
"""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from loradeck.store.interface import OutcomeUnknown, StoreError


class Connection(Protocol):
    """A connection, for as long as a transaction or a read lasts."""

    def execute(self, sql: str, args: Sequence[Any] = (), /) -> Any:
        """Runs one statement. Returns the driver's cursor, of which only rows count: what is not read may wait."""

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]], /) -> Any:
        """Runs one statement for each row of arguments."""


class SqlDatabase(ABC):
    """A database with the schema of `migrations`, and this process's connection to it.

    May be called from any thread; calls wait for each other.
    """

    shared: bool = False
    """Whether other hubs may have it open at the same time, so that a hold of the lease has to end by time."""

    one_copy: bool = False
    """Whether it commits without the standby that it should wait for."""

    dialect: str = ""
    """The folder of its migrations: "" is SQLite's."""

    field: str
    """SQL for the text of a field, whose name stands for `{}`, of the JSON in a column `body`."""

    def __init__(self) -> None:
        self._mutex = threading.RLock()
        self._connection: Any = None
        self._suspect = False
        """A commit has failed, and whether it is durable is not known."""

    @abstractmethod
    def transaction(self) -> AbstractContextManager[Connection]:
        """Runs the block as one transaction: all of it becomes durable, or nothing. An exception in the block rolls it
        back.

        Raises: StoreError, above all OutcomeUnknown: `reopen()` first.
        """

    @abstractmethod
    def reading(self) -> AbstractContextManager[Connection]:
        """Yields the connection for reads. Raises: OutcomeUnknown: it was not reopened since a failed commit."""

    def wait_for_change(self, timeout_s: float) -> bool:
        """Waits for another process's commit, in vain where there is none; see `Store.wait_for_change`."""
        time.sleep(timeout_s)
        return False

    def reopen(self) -> None:
        """Connects again; what is read afterwards is durable.

        Raises: OutcomeUnknown: that fails. Try again; until then what became of a failed commit cannot be known.
        """
        with self._mutex:
            self._disconnect()
            self._suspect = True
            try:
                self._open()
            except (StoreError, OSError) as error:
                raise OutcomeUnknown(f"the store cannot be opened again yet: {error}") from error
            self._suspect = False

    @abstractmethod
    def take_back(self, steps: Sequence[tuple[str, str]]) -> None:
        """Runs scripts that take migrations back, each with its name, in one transaction, and forgets the migrations.

        Only for a database that is closed next: this program needs them. Raises: StoreError: nothing was changed.
        """

    @abstractmethod
    def backup(self, path: Path, between: Callable[[], None]) -> None:
        """Writes a consistent copy to a new file, a SQLite database; see `Store.backup`. Raises: StoreError."""

    @abstractmethod
    def close(self) -> None:
        """Closes it for good."""

    @abstractmethod
    def _open(self) -> None:
        """Connects. Raises: StoreError, OSError."""

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def wait_for(work: Future[None], between: Callable[[], None]) -> None:
    """Waits for work in another thread, and calls `between` meanwhile. Raises what either raises."""
    while not work.done():
        between()
        wait([work], 0.002)
    work.result()


def named(cursor: Any) -> list[dict[str, Any]]:
    """The rows of a query, each as column -> value."""
    rows = cursor.fetchall()
    columns = [column[0] for column in cursor.description]
    return [dict(zip(columns, row, strict=True)) for row in rows]
