"""The file behind the SQLite store: who may open it, and what it refuses to be."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlite_utils.utils import sqlite3
from tests.contract.store.drafts import move

from loradeck.schemas.attestation import AttestationKind, BaseLineage
from loradeck.schemas.jobs import Job, JobState, TrainSpec
from loradeck.schemas.manifest import DecisionRecord
from loradeck.schemas.training import Weights
from loradeck.store import migrations, sqlite
from loradeck.store.downgrade import downgrade
from loradeck.store.interface import StoreError, Unusable
from loradeck.store.sqlite import SqliteStore


def raw(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        for statement in statements:
            connection.execute(statement)
    finally:
        connection.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with one move in it, closed."""
    path = tmp_path / "hub" / "hub.db"
    store = SqliteStore(path)
    store.take_lease("hub-a")
    store.commit([move()], key="key-0001")
    store.close()
    return path


# The SQLite of the interpreter, as on hosts for which there is no wheel of pysqlite3 (arm64 Linux).
WITH_THE_INTERPRETERS_SQLITE = """
import pathlib, subprocess, sys
sys.modules["pysqlite3"] = None
import sqlite3
from loradeck.store import sqlite as database
from loradeck.store.sqlite import SqliteStore
from tests.contract.store.drafts import move
folder = pathlib.Path(sys.argv[1])
store = SqliteStore(folder / "hub.db")
assert database.SQLITE_VERSION == sqlite3.sqlite_version
store.take_lease("hub-a")
for number in range(3):
    store.commit([move(route=f"route-{number}")], key=f"key-000{number}")
second = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('SELECT * FROM events')"
other = subprocess.run([sys.executable, "-c", second, str(folder / "hub.db")], capture_output=True, text=True)
assert "database is locked" in other.stderr, other
assert sorted(path.name for path in folder.iterdir()) == ["hub.db", "hub.db-wal", "hub.db.lock"]
store.backup(folder / "copy.db")
store.close()
for name in ("hub.db", "copy.db"):
    store = SqliteStore(folder / name)
    print(len(store.since(0)), end=" ")
    store.close()
"""


def test_a_hub_runs_on_the_interpreters_sqlite_and_no_second_program_can_open_its_database(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITH_THE_INTERPRETERS_SQLITE, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert (done.returncode, done.stdout) == (0, "3 3 "), done.stderr


def raised_by_0_1_0(path: Path) -> None:
    """Makes the database what version 0.1.0 wrote: its schema by number, and no table of migrations."""
    raw(path, """INSERT INTO nodes VALUES ('n1', '{"labels": {"site": "eu"}}')""")
    downgrade(str(path), "0001_first", dry_run=False)
    raw(path, "DROP TABLE _sqlite_migrations", "PRAGMA user_version = 1")


def applied(path: Path) -> list[str]:
    connection = sqlite3.connect(path)
    try:
        rows = connection.execute("SELECT name FROM _sqlite_migrations WHERE migration_set = 'loradeck' ORDER BY id")
        return [name for (name,) in rows]
    finally:
        connection.close()


def more(sql: str) -> list[tuple[str, str]]:
    return [*migrations.scripts(), ("0999_added", sql)]


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("PRAGMA user_version = 99", "schema 99"),
        ("INSERT INTO _sqlite_migrations VALUES (99, 'loradeck', '0099_from_afar', '')", "0099_from_afar"),
    ],
)
def test_a_newer_schema_is_refused_and_left_alone(path: Path, statement: str, what: str) -> None:
    raw(path, statement)
    before = path.read_bytes()
    with pytest.raises(Unusable, match=rf"has {what}, which this Loradeck does not know\. Start the newer"):
        SqliteStore(path)
    assert path.read_bytes() == before


def test_a_database_of_version_0_1_0_is_opened_and_keeps_its_log(path: Path) -> None:
    raised_by_0_1_0(path)
    for _ in range(2):
        store = SqliteStore(path)
        snapshot = store.snapshot()
        assert (snapshot.rev, snapshot.epoch) == (1, 1)
        assert store.has_hash(1, snapshot.hash)
        assert store.lookup("key-0001") is not None
        assert store.nodes() == {"n1": {"labels": {"site": "eu"}}}
        assert store.meta("nodes") is None
        store.close()
    assert applied(path) == [name for name, _ in migrations.scripts()]
    raw(path, "SELECT 1")
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (migrations.USER_VERSION,)
    connection.close()


def trained(number: int, state: JobState, result: str | None, weights: Weights = Weights.FULL) -> Job:
    decision = DecisionRecord(why_weights="a test")
    spec = TrainSpec(
        tenant="acme", name="s", base="a" * 64, datasets=("d" * 64,), decision=decision, weights=weights, kl=0
    )
    made = {"base": result} if result else {}
    fields = {"id": f"j{number}", "kind": "train", "tenant": "acme", "spec": spec, "state": state, "result": made}
    return Job.model_validate({**fields, "created_ms": number, "ended_ms": 7, "by": "ann"})


def test_bases_that_jobs_made_before_lineage_was_recorded_have_it_from_their_jobs(path: Path) -> None:
    store = SqliteStore(path)
    store.take_lease("hub-a")
    for job in (
        trained(1, JobState.DONE, "b" * 64),
        trained(2, JobState.FAILED, "c" * 64),
        trained(3, JobState.DONE, "a" * 64),
        trained(4, JobState.DONE, None, Weights.LORA),
    ):
        store.put_job(job)
    store.close()
    raw(path, "DELETE FROM _sqlite_migrations WHERE name = '0004_lineage'")
    store = SqliteStore(path)
    (stated,) = store.attestations(kind=AttestationKind.LINEAGE)
    store.close()
    assert (stated.subject, stated.tenant, stated.by, stated.at_ms) == ("b" * 64, "acme", "job j1", 7)
    lineage = BaseLineage(tenant="acme", job="j1", base="a" * 64, datasets=("d" * 64,))
    assert BaseLineage.model_validate(stated.body) == lineage


@pytest.mark.parametrize("old", [False, True], ids=["current", "of 0.1.0"])
def test_an_older_schema_is_brought_up_and_keeps_its_log(
    path: Path, old: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if old:
        raised_by_0_1_0(path)
    steps = more("CREATE TABLE added (x TEXT) STRICT; INSERT INTO added VALUES ('a;b');")
    monkeypatch.setattr(migrations, "scripts", lambda: steps)
    store = SqliteStore(path)
    assert store.snapshot().rev == 1
    with store.database.reading() as connection:
        assert connection.execute("SELECT x FROM added").fetchall() == [("a;b",)]
    store.close()
    assert applied(path) == [name for name, _ in steps]
    SqliteStore(path).close()


@pytest.mark.parametrize("old", [False, True], ids=["current", "of 0.1.0"])
def test_a_migration_that_fails_halfway_changes_nothing(path: Path, old: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if old:
        raised_by_0_1_0(path)
    steps = more("CREATE TABLE added (x TEXT) STRICT; INSERT INTO nowhere VALUES (1);")
    monkeypatch.setattr(migrations, "scripts", lambda: steps)
    with pytest.raises(StoreError, match="nowhere"):
        SqliteStore(path)
    monkeypatch.undo()
    connection = sqlite3.connect(path)
    version = connection.execute("PRAGMA user_version").fetchone()
    names = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
    connection.close()
    assert version == (1 if old else migrations.USER_VERSION,)
    assert "added" not in names
    assert ("_sqlite_migrations" in names) is not old
    store = SqliteStore(path)
    assert store.snapshot().rev == 1
    store.close()


def test_a_database_that_lacks_nothing_is_opened_without_a_write(path: Path) -> None:
    before = path.read_bytes()
    SqliteStore(path).close()
    assert path.read_bytes() == before


def test_migrations_are_numbered_without_a_gap() -> None:
    assert [int(name[:4]) for name, _ in migrations.scripts()] == list(range(1, len(migrations.scripts()) + 1))


def test_a_second_process_is_refused_while_the_first_lives(path: Path) -> None:
    script = "import sys; from loradeck.store.sqlite import SqliteStore; SqliteStore(sys.argv[1])"
    store = SqliteStore(path)
    store.take_lease("hub-a")
    second = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=60)
    assert second.returncode == 1
    assert f"{path} is in use by another hub (process {os.getpid()}). One hub a database." in second.stderr
    with pytest.raises(Unusable, match="in use by another hub"):
        SqliteStore(path)
    assert store.commit([move(to=2, generation=2)], key="key-0002").rev == 2
    store.close()
    third = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=60)
    assert third.returncode == 0, third.stderr


def test_another_program_cannot_open_the_file_while_the_hub_has_it(path: Path) -> None:
    store = SqliteStore(path)
    connection = sqlite3.connect(path, timeout=0)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        connection.execute("SELECT count(*) FROM events")
    connection.close()
    store.close()


def test_a_program_that_has_the_file_open_is_named_as_the_reason(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY_S", 0.0)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unusable, match="another program has the database open"):
        SqliteStore(path)
    connection.close()
    SqliteStore(path).close()


def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "hub.db"
    raw(path, "CREATE TABLE theirs (x)")
    before = path.read_bytes()
    with pytest.raises(Unusable, match="another program's database"):
        SqliteStore(path)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "hub.db"
    path.write_bytes(b"not a database, but somebody's notes" * 100)
    before = path.read_bytes()
    with pytest.raises(Unusable, match="file is damaged or not a database"):
        SqliteStore(path)
    assert path.read_bytes() == before


def test_files_are_for_their_owner_only(path: Path) -> None:
    path.chmod(0o644)
    store = SqliteStore(path)
    store.take_lease("hub-a")
    assert path.parent.stat().st_mode & 0o777 == 0o700
    modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    assert modes == {"hub.db": 0o600, "hub.db-wal": 0o600, "hub.db.lock": 0o600}
    store.close()


def test_a_folder_that_others_may_write_in_is_refused(path: Path) -> None:
    path.parent.chmod(0o770)
    with pytest.raises(Unusable, match="others may write"):
        SqliteStore(path)
    path.parent.chmod(0o750)
    SqliteStore(path).close()


def test_the_log_and_documents_cannot_be_changed_by_sql(path: Path) -> None:
    for statement in ("UPDATE events SET body = '{}'", "DELETE FROM events"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            raw(path, statement)


def test_a_closed_store_says_so(path: Path) -> None:
    store = SqliteStore(path)
    store.close()
    store.close()
    with pytest.raises(Unusable, match="closed"):
        store.snapshot()


def test_looking_back_uses_an_index(path: Path) -> None:
    store = SqliteStore(path)
    calls: list[tuple[str, Callable[[], object]]] = [
        ("events_by_time (at_ms<?)", lambda: store.rev_at(5)),
        ("events_by_tenant (tenant=? AND rev<?)", lambda: store.history(tenant="acme", before_rev=9)),
        (
            "events_by_pointer (tenant=? AND route=? AND rev<?)",
            lambda: store.history(tenant="acme", route="production", before_rev=9),
        ),
        ("events_by_pointer (tenant=? AND route=? AND rev<?)", lambda: store.pointers_at(1)),
        ("INTEGER PRIMARY KEY (rowid>?)", lambda: store.since(5)),
        ("events_by_id (id=?)", lambda: store.event("x")),
        ("PRIMARY KEY (key=?)", lambda: store.lookup("key-0001")),
    ]
    with store.database.reading() as connection:
        for index, call in calls:
            statements: list[str] = []
            connection.set_trace_callback(statements.append)
            call()
            connection.set_trace_callback(None)
            plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statements[0]}")]
            assert any(index in step for step in plan), plan
            assert not any(step.startswith("SCAN events") or "TEMP B-TREE" in step for step in plan), plan
    store.close()
