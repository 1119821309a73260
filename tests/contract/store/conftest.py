"""The backends the contract suite runs against. To add one: write its `Backend` and name it at `store_factory`."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest
from sqlite_utils.utils import sqlite3
from tests.fakes.postgres_server import PostgresServer, servers

from loradeck.store.copying import copy_tables
from loradeck.store.postgres import PostgresStore
from loradeck.store.sql_log import Store
from loradeck.store.sqlite import SqliteStore, wall_ms


class Backend(Protocol):
    """One empty database, and what the suite must be able to do to it behind the store's back."""

    name: str
    url: str
    """What `committer.py` opens in another process."""

    def open(self, *, lease: bool = True) -> Store:
        """A store on this database. Closed after the test."""

    def two_hubs(self) -> tuple[Store, Store]:
        """The stores of two hubs that share the database. None holds the lease."""

    def set_clock(self, ms: int) -> None:
        """Stop the database's clock at a time, for all stores."""

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
        self._clock_ms = wall_ms

    def open(self, *, lease: bool = True) -> SqliteStore:
        store = SqliteStore(self.path, clock_ms=lambda: self._clock_ms())
        self._stores.append(store)
        if lease:
            store.take_lease("hub-a")
        return store

    def two_hubs(self) -> tuple[Store, Store]:
        # The lock keeps every second hub out, so it can only be played: with the first one's connection.
        store = self.open(lease=False)
        store.database.shared = True
        return store, Store(store.database)

    def set_clock(self, ms: int) -> None:
        self._clock_ms = lambda: ms

    def two_threads(self) -> tuple[Store, Store]:
        store = self.open()
        return store, store

    def close(self) -> None:
        for store in self._stores:
            store.close()
        self._stores.clear()

    def usurp(self, name: str = "hub-b") -> None:
        Store(self._stores[-1].database).take_lease(name)

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


class PostgresBackend:
    name = "postgres"

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self.url = server.url
        self._stores: list[PostgresStore] = []
        server.execute("DROP SCHEMA IF EXISTS loradeck CASCADE")

    def open(self, *, lease: bool = True) -> PostgresStore:
        store = PostgresStore(self.url)
        self._stores.append(store)
        if lease:
            store.take_lease("hub-a", ttl_s=60)
        return store

    def two_hubs(self) -> tuple[Store, Store]:
        return self.open(lease=False), self.open(lease=False)

    def set_clock(self, ms: int) -> None:
        if not self._stores:
            self.open(lease=False)  # which makes the schema
        function = "CREATE OR REPLACE FUNCTION loradeck.clock_ms() RETURNS bigint LANGUAGE sql VOLATILE"
        self._server.execute(f"{function} AS 'SELECT {ms}::bigint'")

    def two_threads(self) -> tuple[Store, Store]:
        store = self.open()
        return store, store

    def close(self) -> None:
        for store in self._stores:
            store.close()
        self._stores.clear()

    def usurp(self, name: str = "hub-b") -> None:
        self.open(lease=False).take_lease(name, anyway=True)

    def rewrite(self, rev: int, old: str, new: str) -> None:
        rewrite(self._server, rev, old, new)

    def remove(self, rev: int) -> None:
        self._server.execute(
            "DROP TRIGGER events_never_change ON loradeck.events", f"DELETE FROM loradeck.events WHERE rev = {rev}"
        )

    def move_pointer(self, tenant: str, route: str, old: str, new: str) -> None:
        which = f"tenant = '{tenant}' AND route = '{route}'"
        self._server.execute(f"UPDATE loradeck.pointers SET body = replace(body, '{old}', '{new}') WHERE {which}")

    def restore(self, copy: Path) -> None:
        self._server.execute("DROP SCHEMA loradeck CASCADE")
        saved, store = SqliteStore(copy), PostgresStore(self.url)
        with saved.database.reading() as source, store.database.transaction() as target:
            copy_tables(source, target)
        saved.close()
        store.close()


def rewrite(server: PostgresServer, rev: int, old: str, new: str) -> None:
    """Replace text in the stored event at a rev, as the database's superuser may."""
    server.execute(
        "DROP TRIGGER IF EXISTS events_never_change ON loradeck.events",
        f"UPDATE loradeck.events SET body = replace(body, '{old}', '{new}') WHERE rev = {rev}",
    )


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A server that all tests of one process share. What it cannot start, fails."""
    with servers(fsync="off") as (server,):
        server.start()
        yield server


@pytest.fixture(params=["postgres", "sqlite"])
def store_factory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    backend: Backend = SqliteBackend(tmp_path)
    if request.param == "postgres":
        backend = PostgresBackend(request.getfixturevalue("postgres_server"))
    yield backend
    backend.close()


@pytest.fixture
def store(store_factory: Backend) -> Store:
    """A store that holds the lease, at epoch 1."""
    return store_factory.open()
