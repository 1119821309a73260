"""What only a PostgreSQL store can meet: a server that goes away, hangs, or lacks its standbys."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.contract.store.drafts import move
from tests.contract.store.whole_log import verify_log
from tests.fakes.postgres_server import PostgresServer, servers
from tests.fleets.waiting import PATIENCE_S

from loradeck.store import copying, postgres
from loradeck.store.interface import LeaseHeld, LeaseLost, OutcomeUnknown, StoreError, Unreachable, Unusable
from loradeck.store.lease import locked_head
from loradeck.store.postgres import PostgresStore
from loradeck.store.sql_database import Connection
from loradeck.store.sqlite import SqliteStore


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A server of the test's own, that it may kill."""
    with servers() as (server,):
        server.start()
        yield server


@pytest.fixture
def store(server: PostgresServer) -> Iterator[PostgresStore]:
    store = PostgresStore(server.url, commit_s=1.0)
    store.take_lease("hub-a", ttl_s=60)
    yield store
    store.close()


def test_a_hub_that_ends_gives_the_lease_up(server: PostgresServer, store: PostgresStore) -> None:
    waiting = PostgresStore(server.url)
    with pytest.raises(LeaseHeld, match="'hub-a' holds the lease"):
        waiting.take_lease("hub-b", ttl_s=60)
    store.close()
    assert waiting.take_lease("hub-b", ttl_s=60) == 2
    waiting.close()


def test_a_server_that_was_restarted_is_found_again_and_the_next_move_is_made(
    server: PostgresServer, store: PostgresStore
) -> None:
    store.commit([move()], key="key-0001")
    server.kill()
    with pytest.raises(Unreachable, match="nothing was changed"):
        store.commit([move(to=2, generation=2)], key="key-0002")
    server.start()
    assert store.commit([move(to=2, generation=2)], key="key-0002").rev == 2
    assert verify_log(store).ok


def at_the_commit(monkeypatch: pytest.MonkeyPatch, before: Callable[[], object], after: Callable[[], object]) -> None:
    """Have something done before the next COMMIT is sent, and after it was answered."""
    execute, wait = psycopg.Connection.execute, psycopg.Connection.wait

    def patched(self: Any, query: object, *args: object) -> object:
        if query != "COMMIT":
            return execute(self, query, *args)  # type: ignore[call-overload]
        monkeypatch.undo()
        before()
        result = execute(self, query, *args)  # type: ignore[call-overload]
        monkeypatch.setattr(psycopg.Connection, "wait", answered)
        return result

    def answered(self: Any, *args: Any, **more: Any) -> object:
        monkeypatch.undo()
        result = wait(self, *args, **more)
        after()
        return result

    monkeypatch.setattr(psycopg.Connection, "execute", patched)


def test_a_server_that_is_killed_at_a_commit_leaves_its_outcome_unknown_until_it_is_back(
    server: PostgresServer, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_the_commit(monkeypatch, server.kill, lambda: None)
    with pytest.raises(OutcomeUnknown, match="look it up by its key"):
        store.commit([move()], key="key-0001")
    with pytest.raises(OutcomeUnknown):
        store.lookup("key-0001")
    with pytest.raises(OutcomeUnknown, match="cannot be opened again yet"):
        store.reopen()
    server.start()
    store.reopen()
    assert store.lookup("key-0001") is None
    assert store.commit([move()], key="key-0001").rev == 1


def test_a_commit_that_was_made_and_not_answered_is_found_by_its_key(
    server: PostgresServer, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost() -> None:
        raise psycopg.OperationalError("the connection was lost")

    at_the_commit(monkeypatch, lambda: None, lost)
    with pytest.raises(OutcomeUnknown):
        store.commit([move()], key="key-0001")
    store.reopen()
    found = store.lookup("key-0001")
    assert found is not None
    assert found.rev == 1
    assert store.commit([move(to=2, generation=2)], key="key-0002").rev == 2


def test_without_its_synchronous_standby_a_commit_ends_as_unknown_and_nothing_is_believed_until_one_is_back(
    server: PostgresServer, store: PostgresStore
) -> None:
    store.commit([move()], key="key-0001")
    server.execute("ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (s1, s2)'", "SELECT pg_reload_conf()")
    while server.execute("SHOW synchronous_standby_names") == [("",)]:
        time.sleep(0.01)  # each process of the server reads its settings when it comes to it
    with pytest.raises(OutcomeUnknown, match="one server only"):
        store.commit([move(to=2, generation=2)], key="key-0002")
    with pytest.raises(OutcomeUnknown, match="cannot be opened again yet"):
        store.reopen()
    with pytest.raises(OutcomeUnknown):
        store.lookup("key-0002")
    server.execute("ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()")
    store.reopen()
    found = store.lookup("key-0002")
    assert found is not None
    assert found.rev == 2


def test_a_server_that_hangs_ends_a_commit_as_unknown(
    server: PostgresServer, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_the_commit(monkeypatch, lambda: server.signal(signal.SIGSTOP), lambda: None)
    with pytest.raises(OutcomeUnknown, match="not answered"):
        store.commit([move()], key="key-0001")
    server.signal(signal.SIGCONT)
    store.reopen()
    assert store.commit([move()], key="key-0001").rev == 1


def test_a_database_that_was_put_back_ends_the_hold_of_a_hub_that_has_committed_more(
    server: PostgresServer, store: PostgresStore
) -> None:
    store.commit([move()], key="key-0001")
    server.execute(
        "DROP TRIGGER events_never_change ON loradeck.events",
        "DELETE FROM loradeck.events",
        "UPDATE loradeck.head SET rev = 0, hash = repeat('0', 64)",
    )
    store.reopen()
    with pytest.raises(LeaseLost):
        store.commit([move()], key="key-0002")


def test_a_hub_that_waits_hears_of_a_commit_and_of_the_end_of_a_hold(
    server: PostgresServer, store: PostgresStore
) -> None:
    waiting = PostgresStore(server.url)
    assert not waiting.wait_for_change(0.05)
    for change in (lambda: store.commit([move()], key="key-0001"), store.close):
        timer = threading.Timer(0.1, change)
        timer.start()
        assert waiting.wait_for_change(PATIENCE_S), "it did not hear of it"
        timer.join()
    assert not waiting.read_head().is_held
    waiting.close()


def test_a_statement_that_the_server_refuses_changes_nothing_and_the_next_one_is_made(store: PostgresStore) -> None:
    with pytest.raises(StoreError, match="nothing was changed"):
        store.set_meta("name", "with a NUL \x00")
    with pytest.raises(StoreError, match="refused: duplicate key"), store.database.transaction() as connection:
        connection.execute("INSERT INTO incarnations VALUES (?, ?, ?)", (1, "x", 0))  # is only sent with the commit
    assert store.commit([move()], key="key-0001").rev == 1


def test_a_commit_is_durable_when_it_returns_whatever_the_servers_default_is(server: PostgresServer) -> None:
    server.execute("ALTER SYSTEM SET synchronous_commit = 'off'", "SELECT pg_reload_conf()")
    assert server.execute("SHOW synchronous_commit") == [("off",)]
    store = PostgresStore(server.url)
    with store.database.reading() as connection:
        assert connection.execute("SHOW synchronous_commit").fetchone() == ("on",)
    store.close()


def test_moves_and_renewals_go_on_while_a_backup_is_written(
    store: PostgresStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.commit([move()], key="key-0001")
    copied, go_on = threading.Event(), threading.Event()

    def slow(source: Connection, target: Connection) -> None:
        copying.copy_tables(source, target)
        copied.set()
        assert go_on.wait(60)

    monkeypatch.setattr(postgres, "copy_tables", slow)
    thread = threading.Thread(target=store.backup, args=(str(tmp_path / "copy"),))
    thread.start()
    assert copied.wait(60)
    store.renew_lease(10)
    assert store.commit([move(to=2, generation=2)], key="key-0002").rev == 2
    go_on.set()
    thread.join()
    saved = SqliteStore(tmp_path / "copy")
    assert saved.snapshot().rev == 1
    saved.close()


def test_a_password_in_the_url_is_refused_and_not_repeated() -> None:
    for url in ("postgresql://ann:secret@127.0.0.1:1/x", "host=127.0.0.1 port=1 password=secret"):
        with pytest.raises(Unusable, match="PGPASSFILE") as caught:
            PostgresStore(url)
        assert "secret" not in str(caught.value)
    with pytest.raises(Unusable, match="not the URL of a PostgreSQL database") as caught:
        PostgresStore("postgresql://ann:sec%ret@[::/x")
    assert "sec" not in str(caught.value).replace("second", "")


def test_a_server_that_does_not_answer_is_named_as_that() -> None:
    with pytest.raises(Unreachable, match="cannot be reached"):
        PostgresStore("postgresql://127.0.0.1:1/x")


def test_a_database_that_a_newer_program_wrote_is_refused(server: PostgresServer, store: PostgresStore) -> None:
    server.execute("INSERT INTO loradeck.migrations VALUES ('9999_later')")
    with pytest.raises(Unusable, match="9999_later"):
        PostgresStore(server.url)


def test_both_databases_have_the_same_tables_and_columns(server: PostgresServer, store: PostgresStore) -> None:
    from sqlite_utils import Database as Tables

    from loradeck.store.migrations import Schema

    tables = Tables(memory=True)
    Schema(tables).migrate(1)
    ours = {
        (table.name, column)
        for table in tables.tables
        if not table.name.startswith(("_", "sqlite_"))
        for (_, column, *_) in tables.execute(f"PRAGMA table_xinfo({table.name})").fetchall()
    }
    listed = "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'loradeck'"
    assert {*server.execute(listed)} == {*ours, ("tokens", "rowid"), ("migrations", "name")}


def test_a_hub_that_hangs_within_a_write_is_ended_by_the_one_that_wants_the_lease(
    server: PostgresServer, store: PostgresStore
) -> None:
    other = PostgresStore(server.url)

    def hang() -> None:
        with store.database.transaction() as connection:
            locked_head(connection)  # and nothing more is sent: the server waits for the rest of the pipeline
            take(other)

    with pytest.raises((OutcomeUnknown, Unreachable)):
        hang()
    assert other.read_head().lease.name == "hub-b"
    other.close()


def take(store: PostgresStore) -> None:
    """Takes the lease, however often it takes."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            store.take_lease("hub-b", ttl_s=60, anyway=True)
            return
        except Unreachable:
            assert time.monotonic() < deadline, "the row of the head stays locked"
