"""The way back from an upgrade: the schema that an older Loradeck knows, with the log that was there."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from sqlite_utils.utils import sqlite3
from tests.contract.store.conftest import PostgresBackend
from tests.contract.store.drafts import digest, move, note
from tests.contract.store.test_migrate import everything, fill
from tests.contract.store.test_records import manifest
from tests.fakes.postgres_server import PostgresServer
from tests.fleets.processes.hub import LORADECK

from loradeck.schemas.attestation import Attestation
from loradeck.schemas.dataset_ledger import DataPolicy, Reasons
from loradeck.schemas.gate import CompareGate, GateConfig, LeakGate
from loradeck.schemas.jobs import Job
from loradeck.schemas.log import EventKind
from loradeck.schemas.manifest import AdapterManifest
from loradeck.schemas.notice import Notice, NoticeKind, Severity
from loradeck.schemas.route import RouteConfig
from loradeck.store import migrations
from loradeck.store.downgrade import UNREADABLE, CannotGoBack, downgrade
from loradeck.store.interface import FleetChange, LeaseHeld, Unusable
from loradeck.store.opening import open_store
from loradeck.store.sqlite import Database, SqliteStore, wall_ms

LEAK_OF = {"tenant": "acme", "release": digest(1)}
LEAK = {**LEAK_OF, "datasets": [digest(3)]}
NAMES = [name for name, _ in migrations.scripts()]
LOST = ("3 rows of feedback", "2 hours of routes' counts by the minute", "1 hours of routes' counts")
"""What a filled store has that there was no place for."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with a tenant and two moves in it, closed."""
    path = tmp_path / "hub.db"
    store = SqliteStore(path)
    store.take_lease("hub-a")
    store.commit([note(EventKind.TENANT_CREATE)], key="key-0001")
    for generation in (1, 2):
        store.commit([move(to=generation, generation=generation)], key=f"key-1{generation:03}")
    store.close()
    return path


def test_every_migration_but_the_first_has_a_way_back() -> None:
    for dialect in ("", "postgres"):
        names = [name for name, _ in migrations.scripts(dialect)]
        assert sorted(migrations.downs(dialect)) == names[1:]


def schema(path: Path) -> dict[str, list[tuple[str, str, int, object, int, int]]]:
    """The columns of every table, whatever their order."""
    connection = sqlite3.connect(path)
    try:
        tables = [n for (n,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        return {
            table: sorted(row[1:] for row in connection.execute(f"PRAGMA table_xinfo({table})")) for table in tables
        }
    finally:
        connection.close()


@pytest.mark.parametrize("number", range(len(NAMES) - 1))
def test_the_schema_is_the_one_that_an_older_loradeck_made_and_goes_up_again_with_its_log(
    path: Path, tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqliteStore(path)
    before = (store.snapshot().pointers, store.since(0))
    store.close()
    done = downgrade(str(path), NAMES[number], dry_run=False)
    assert done.steps == tuple(reversed(NAMES[number + 1 :]))
    older = tmp_path / "older" / "hub.db"
    known = migrations.scripts()[: number + 1]
    with monkeypatch.context() as patched:
        patched.setattr(migrations, "scripts", lambda *_: known)
        for one in (older, path):  # the older Loradeck opens both
            Database(one, wall_ms).close()
    assert schema(path) == schema(older)
    store = SqliteStore(path)
    assert (store.snapshot().pointers, store.since(0)) == before
    assert store.snapshot().epoch == 1
    store.take_lease("hub-a")
    store.commit([move(to=3, generation=3)], key="key-2001")
    store.close()


def test_the_nodes_are_where_an_older_loradeck_looks_for_them(path: Path) -> None:
    store = SqliteStore(path)
    store.take_lease("hub-a")
    store.save_fleet(FleetChange(nodes={"n1": {"labels": {"site": "eu"}}}))
    store.close()
    downgrade(str(path), "0004_lineage", dry_run=False)
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT value FROM meta WHERE name = 'nodes'").fetchone() == (
        '{"n1":{"labels":{"site":"eu"}}}',
    )
    connection.close()
    store = SqliteStore(path)
    assert store.nodes() == {"n1": {"labels": {"site": "eu"}}}
    store.close()


def test_what_an_older_loradeck_cannot_read_keeps_the_schema_and_the_backup_is_named(tmp_path: Path) -> None:
    path = tmp_path / "hub.db"
    store = SqliteStore(path)
    store.take_lease("hub-a")
    fill(store)
    store.commit([note(EventKind.AUDIT)], key="key-audit")
    store.close()
    before = path.read_bytes()
    with pytest.raises(CannotGoBack) as refused:
        downgrade(str(path), "0004_lineage", dry_run=False)
    assert "1 events that anchor the audit trail; 1 pointers that were withdrawn" in str(refused.value)
    assert "Restore the backup from before the upgrade" in str(refused.value)
    with pytest.raises(CannotGoBack, match="there is no migration '0099_afar' here: 0001_first, "):
        downgrade(str(path), "0099_afar", dry_run=False)
    assert path.read_bytes() == before


def test_every_setting_of_a_data_policy_that_came_later_is_looked_for() -> None:
    looked_for = " ".join(counted.query for step in UNREADABLE.values() for counted in step)
    later = [name for name, field in DataPolicy.model_fields.items() if field.exclude_if is not None]
    assert "ledger_days" in later
    assert [name for name in later if f'"{name}":' not in looked_for] == []


def test_a_gate_that_asks_for_an_ab_its_results_and_later_policies_keep_the_schema(tmp_path: Path, url: str) -> None:
    gate = GateConfig(suite=digest(1), compare=CompareGate(margin=0.05))
    for where in (str(tmp_path / "hub.db"), url):
        store = open_store(where)
        store.take_lease("hub-a")
        config = RouteConfig(gate=gate).model_dump(mode="json")
        asked = note(EventKind.ROUTE, route="production", config=config)
        policies = [
            note(EventKind.DATA_POLICY, policy=DataPolicy.model_validate(given).model_dump(mode="json"))
            for given in ({"sample_hours": 24}, {"ledger_days": 7}, {"synthetic_cap": 0.1})
        ]
        store.commit([note(EventKind.TENANT_CREATE), asked, *policies], key="key-gate1")
        result = {"kind": "comparison", "subject": digest(1), "tenant": "acme", "body": {}, "by": "hub"}
        store.attest(Attestation.model_validate(result))
        store.close()
        with pytest.raises(CannotGoBack) as refused:
            downgrade(where, "0010_notices", dry_run=False)
        assert "1 events with a gate that asks for an A/B; 1 records of A/B comparisons; 2 events" in str(refused.value)


def test_leak_gates_reports_by_engines_and_later_jobs_keep_the_schema(tmp_path: Path, url: str) -> None:
    spec = {"kind": "evaluate", "tenant": "acme", "release": digest(1), "suite": digest(2)}
    told = {"state": "done", "tenant": "acme", "created_ms": 1, "by": "ops", "metrics": {"precision": 0.5}}
    jobs = {"j1": {**spec, "offline": True}, "j2": spec, "j3": {**LEAK, "kind": "leak"}}
    for where in (str(tmp_path / "hub.db"), url):
        store = open_store(where)
        store.take_lease("hub-a")
        config = RouteConfig(gate=GateConfig(suite=digest(1), leak=LeakGate())).model_dump(mode="json")
        policy = note(EventKind.DATA_POLICY, policy=DataPolicy(feedback_days=7).model_dump(mode="json"))
        asked = note(EventKind.ROUTE, route="production", config=config)
        store.commit([note(EventKind.TENANT_CREATE), asked, policy], key="key-leak1")
        for kind, body in (("leak", {}), ("harness", {}), ("evaluation", {"engine": {}}), ("evaluation", {"n": 1})):
            result = {"kind": kind, "subject": digest(1), "tenant": "acme", "body": body, "by": "hub"}
            store.attest(Attestation.model_validate(result))
        for name, asks in jobs.items():
            store.put_job(Job.model_validate({**told, "id": name, "kind": asks["kind"], "spec": asks}))
        store.close()
        with pytest.raises(CannotGoBack) as refused:
            downgrade(where, "0011_ledger", dry_run=False)
        assert (
            "2 events with gates for leaks, a policy for feedback or a promise about it; "
            "3 reports of engines, leaks or harnesses" in str(refused.value)
        )
        assert "; 2 jobs of kinds or with fields that came later" in str(refused.value)


def test_what_came_with_the_newest_schema_keeps_it(tmp_path: Path, url: str) -> None:
    plain = {
        "tenant": "acme",
        "name": "t",
        "base": digest(2),
        "datasets": [digest(3)],
        "decision": {"why_weights": "x"},
    }
    learns = {**plain, "kind": "train", "validation": {}}
    taught = {"teacher": digest(4), "licence": "MIT"}
    later: list[dict[str, Any]] = [
        {"kind": "prove", "node": "n1", "base": digest(2)},
        learns | {"validation": {"suite": digest(5)}},
        learns | {"safety": {"dataset": digest(4), "toxic": {"name": "list", "words": ["bad"]}}},
        learns | {"safety": {"dataset": digest(4), "rise": 0.1}},
        learns | {"thoughts": "strip"},
        learns | {"rslora": True},
        learns | {"rank_pattern": {"q_proj": 4}},
        learns | {"decision": {"why_weights": "x", "limitations": "names"}},
        {
            "kind": "generate",
            "tenant": "acme",
            "name": "t",
            "sources": [{"release": digest(1), "base": digest(2), "licence": "MIT"}],
            "templates": [{"prompt": "?"}],
            "verifier": {"form": "text"},
            "beside": [digest(3)],
        },
        learns | {"sharded": True, "processes": 2},
        learns | {"method": "distil", "distillation": taught | {"way": "top"}},
        learns | {"method": "distil", "distillation": taught | {"top": 5}},
    ]
    known = [learns, {**LEAK, "kind": "leak"}, {"kind": "evaluate", **LEAK_OF, "suite": digest(5)}]
    for where in (str(tmp_path / "hub.db"), url):
        store = open_store(where)
        store.take_lease("hub-a")
        quotas = [note(EventKind.QUOTA, quota=quota) for quota in ({"adapters": 1}, {"slots": 1}, {"weights": 1})]
        policy = note(EventKind.DATA_POLICY, policy=DataPolicy(reasons=Reasons.WARN).model_dump(mode="json"))
        store.commit([note(EventKind.TENANT_CREATE), policy, *quotas], key="key-quota1")
        for body in ({"engine": {}}, {"engine": {}, "speed": {"tokens": 1}}):
            result = {"kind": "evaluation", "subject": digest(1), "tenant": "acme", "body": body, "by": "hub"}
            store.attest(Attestation.model_validate(result))
        for kind, body in (("generation", {}), ("ledger", {"by_depth": [0, 1]}), ("ledger", {"deepest": 1})):
            made = {"kind": kind, "subject": digest(3), "tenant": "acme", "body": body, "by": "hub"}
            store.attest(Attestation.model_validate(made))
        for n, spec in enumerate(later + known):
            told = {"id": f"j{n}", "kind": spec["kind"], "tenant": "acme", "spec": spec, "state": "done", "by": "ops"}
            store.put_job(Job.model_validate(told | {"created_ms": 1}))
        for more in ({"alpha": 16}, {"alpha": 16.5}, {"alpha": 1.5}, {"dora": True}):
            made = AdapterManifest.model_validate(manifest().model_dump() | more)
            store.register_adapter(made.model_dump(mode="json"), made.digest, digest(9), by="ann")
        store.close()
        with pytest.raises(CannotGoBack) as refused:
            downgrade(where, "0012_feedback", dry_run=True)
        for says in (
            "1 events with training freezes",
            "2 events with quotas of",
            "3 adapters that are DoRA",
            "1 reports of how fast",
            "2 reports of generate jobs, and ledger entries",
            f"{len(later)} jobs of kinds or with fields",
        ):
            assert says in str(refused.value)


def test_notices_of_kinds_that_an_older_loradeck_does_not_know_go_and_the_others_stay(tmp_path: Path, url: str) -> None:
    for where in (str(tmp_path / "hub.db"), url):
        store = open_store(where)
        store.take_lease("hub-a")
        kinds = (NoticeKind.DRIFT, NoticeKind.EXPECTED, NoticeKind.BREACH)
        told = [Notice(id=kind, kind=kind, severity=Severity.TICKET, at_ms=1, title=kind) for kind in kinds]
        store.add_notices([(one, ["desk"]) for one in told])
        store.close()
        assert downgrade(where, "0010_notices", dry_run=False).lost == 2 * ("1 notices of kinds that came later",)
        store = open_store(where)
        assert [(row.notice.kind, len(row.waiting)) for row in store.notices(10)] == [(NoticeKind.BREACH, 1)]
        store.close()


def test_a_command_says_first_what_would_be_lost(tmp_path: Path) -> None:
    path = tmp_path / "hub.db"
    store = SqliteStore(path)
    store.take_lease("hub-a")
    fill(store)
    kept = everything(store)
    store.close()
    command = [str(LORADECK), "hub", "migrate", "--from", str(path), "--down", "0007_lease"]
    asked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert asked.returncode == 2
    newer = list(reversed(NAMES[NAMES.index("0007_lease") + 1 :]))
    planned = [*(f"would be taken back: {name}" for name in newer), *(f"WOULD BE LOST: {one}" for one in LOST)]
    assert asked.stdout.splitlines() == planned
    done = subprocess.run([*command, "--yes"], capture_output=True, text=True, timeout=60, check=False)
    made = [*(f"taken back: {name}" for name in newer), *(f"lost: {one}" for one in LOST)]
    assert (done.returncode, done.stdout.splitlines()) == (0, made), done
    store = SqliteStore(path)
    assert everything(store) == kept
    store.close()


@pytest.fixture
def url(postgres_server: PostgresServer) -> str:
    return PostgresBackend(postgres_server).url


def test_a_postgresql_database_goes_back_and_up_again_but_never_from_under_a_hub(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(url)
    store.take_lease("hub-a", ttl_s=60)
    fill(store)
    kept = everything(store)
    with pytest.raises(LeaseHeld):
        downgrade(url, "0007_first", dry_run=False)
    store.close()
    assert downgrade(url, "0007_first", dry_run=False).lost == LOST
    known = migrations.scripts("postgres")[:1]
    with monkeypatch.context() as patched:
        patched.setattr("loradeck.store.postgres.scripts", lambda *_: known)
        open_store(url).close()  # by an older Loradeck
    store = open_store(url)
    assert everything(store) == kept
    store.close()


def test_a_newer_database_is_refused_with_the_command_that_takes_it_back(
    url: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_store(url).close()
    for where, dialect in ((url, "postgres"), (str(path), "")):
        known = migrations.scripts(dialect)[:-1]
        with monkeypatch.context() as patched:
            for module in ("loradeck.store.postgres", "loradeck.store.migrations"):
                patched.setattr(f"{module}.scripts", lambda *_, known=known: known)
            with pytest.raises(Unusable, match=f"hub migrate --from .* --down {known[-1][0]}"):
                open_store(where)
