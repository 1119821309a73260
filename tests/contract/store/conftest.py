"""The backends the contract suite runs against. To add one: write its `Backend` and put it in `BACKENDS`."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest
from sqlite_utils.utils import sqlite3

from loradeck.store.interface import Store
from loradeck.store.lease import new_holder, take_lease
from loradeck.store.sqlite import SqliteStore


class Backend(Protocol):
    """One empty database, and what the suite must be able to do to it behind the store's back."""

    name: str
    url: str
    """What `committer.py` opens in another process."""

    def open(self, *, clock_ms: Callable[[], int] | None = None, lease: bool = True) -> Store:
        """A store on this database. Closed after the test."""

    def two_threads(self) -> tuple[Store, Store]:
        """The stores that two threads of one hub would use."""

    def close(self) -> None:
        """Close every store that is open on it."""

    def usurp(self, name: str = "hub-b") -> None:
        """Another hub, called `name`, takes the lease."""

    def rewrite(self, rev: int, old: str, new: str) -> None:
        """Replace text in the stored event at a rev. No store may be open."""

    def remove(self, rev: int) -> None:
        """Take an event out. No store may be open."""

    def move_pointer(self, tenant: str, route: str, old: str, new: str) -> None:
        """Replace text in the materialised pointer. No store may be open."""

    def restore(self, copy: Path) -> None:
        """Put a backup in the place of the database. No store may be open."""


class SqliteBackend:
    name = "sqlite"

    def __init__(self, folder: Path) -> None:
        self.path = folder / "hub" / "hub.db"
        self.url = str(self.path)
        self._stores: list[SqliteStore] = []

    def open(self, *, clock_ms: Callable[[], int] | None = None, lease: bool = True) -> SqliteStore:
        store = SqliteStore(self.path, clock_ms=clock_ms) if clock_ms else SqliteStore(self.path)
        self._stores.append(store)
        if lease:
            store.take_lease("hub-a")
        return store

    def two_threads(self) -> tuple[Store, Store]:
        store = self.open()
        return store, store

    def close(self) -> None:
        for store in self._stores:
            store.close()
        self._stores.clear()

    def usurp(self, name: str = "hub-b") -> None:
        # The lock keeps every second hub out, so it can only be played.
        with self._stores[-1]._database.transaction() as connection:
            take_lease(connection, new_holder(), name)

    def rewrite(self, rev: int, old: str, new: str) -> None:
        self._raw("DROP TRIGGER IF EXISTS events_never_change")
        self._raw("UPDATE events SET body = replace(body, ?, ?) WHERE rev = ?", old, new, rev)

    def remove(self, rev: int) -> None:
        self._raw("DROP TRIGGER IF EXISTS events_never_go")
        self._raw("DELETE FROM events WHERE rev = ?", rev)

    def move_pointer(self, tenant: str, route: str, old: str, new: str) -> None:
        self._raw(
            "UPDATE pointers SET body = replace(body, ?, ?) WHERE tenant = ? AND route = ?", old, new, tenant, route
        )

    def restore(self, copy: Path) -> None:
        shutil.copyfile(copy, self.path)
        self.path.chmod(stat.S_IRUSR | stat.S_IWUSR | stat.S_IRGRP)  # as a careless cp leaves it

    def _raw(self, sql: str, *args: object) -> None:
        assert not self._stores, "close the stores first"
        connection = sqlite3.connect(self.path, isolation_level=None)
        try:
            assert connection.execute(sql, args).rowcount != 0, f"nothing was changed by {sql}"
        finally:
            connection.close()


BACKENDS: dict[str, Callable[[Path], Backend]] = {
    "sqlite": SqliteBackend,
}


@pytest.fixture(params=sorted(BACKENDS))
def store_factory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    backend = BACKENDS[request.param](tmp_path)
    yield backend
    backend.close()


@pytest.fixture
def store(store_factory: Backend) -> Store:
    """A store that holds the lease, at epoch 1."""
    return store_factory.open()
