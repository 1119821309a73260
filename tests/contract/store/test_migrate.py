"""A log moves from SQLite to PostgreSQL and back with all that is kept beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.contract.store.conftest import PostgresBackend, rewrite
from tests.contract.store.drafts import digest, move, note
from tests.contract.store.test_records import attested, job, manifest, said
from tests.fakes.postgres_server import PostgresServer

from loradeck.schemas.audit import AuditDraft
from loradeck.schemas.counts import Counts
from loradeck.schemas.jobs import JobState
from loradeck.schemas.log import EventKind
from loradeck.schemas.tenant import TokenRecord
from loradeck.store import copying
from loradeck.store.interface import Doc, FleetChange, LeaseHeld, Served, StoreError, Withdrawal
from loradeck.store.opening import migrate, open_store
from loradeck.store.sql_log import Store


def fill(store: Store) -> None:
    store.commit([note(EventKind.TENANT_CREATE)], key="key-0001")
    for generation in range(1, 6):
        store.commit([move(to=generation, generation=generation, reason="NUL \x00 'ü'")], key=f"key-1{generation:03}")
    store.register(Doc.DATASET, digest(1), {"rows": 3}, tenant="acme", by="ann")
    store.register_adapter(manifest().model_dump(mode="json"), manifest().digest, digest(9), by="ann")
    store.attest_all([attested(1), attested(2)])
    store.add_served(
        [Served(tenant="acme", route="production", release=digest(1), counts=Counts.over(finished=1))], hour=9
    )
    for minute in (59, 60, 61):
        store.add_minutes(minute, {("acme", "production"): Counts.over(finished=minute)})
    for number in range(1, 4):
        store.put_job(job(number, JobState.DONE))
    for name in ("t2", "t1"):
        store.put_token(TokenRecord(id=name, name=name, role="operator", sha256=digest(1)))
    store.append_audit([AuditDraft(actor="ann", call="begin", subject={"tokens": "t1 t2"})])
    left = Withdrawal(node="n1", tenant="acme", route="production", rev=3, refuse_after_s=30.0)
    store.save_fleet(FleetChange(nodes={"n1": {"labels": {}}}, withdrawals={("n1", left.key): left}))
    store.put_feedback([said(f"r-{number}", "ledger") for number in range(3)])
    store.set_meta("name", "prod")


def everything(store: Store) -> list[object]:
    return [
        store.snapshot(),
        store.since(0),
        store.incarnations(),
        store.last_revs(),
        store.lookup("key-1003"),
        store.registry(Doc.DATASET),
        store.registry(Doc.ADAPTER),
        store.attestations(),
        store.served(),
        store.jobs(),
        store.tokens(),
        store.audit_texts(0, 10),
        store.audit_head(),
        store.nodes(),
        store.withdrawals(),
        store.meta("name"),
    ]


@pytest.fixture
def url(postgres_server: PostgresServer) -> str:
    return PostgresBackend(postgres_server).url


def test_a_log_moves_to_postgresql_and_back_and_goes_on(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "PAGE", 2)
    first, last = str(tmp_path / "hub.db"), str(tmp_path / "back.db")
    store = open_store(first)
    store.take_lease("hub-a")
    fill(store)
    kept = everything(store)
    store.close()
    for source, target in ((first, url), (url, last)):
        report = migrate(source, target)
        assert (report.ok, report.rev) == (True, 6)
        store = open_store(target)
        assert everything(store) == kept
        assert [row.request for _, row in store.feedback("acme", limit=10)] == ["r-0", "r-1", "r-2"]
        assert list(store.minutes("acme", "production", since=0)) == [59, 60, 61]
        assert list(store.hours("acme", "production", since=0)) == [9]
        assert not store.read_head().is_held
        store.close()
    for where in (url, last):
        store = open_store(where)
        assert store.take_lease("hub-b", ttl_s=10) == 2
        assert store.commit([move(to=6, generation=6)], key="key-2001").rev == 7
        assert store.attest(attested(3)).seq == 3
        store.put_job(job(4, JobState.DONE))
        store.put_token(TokenRecord(id="t0", name="t0", role="operator", sha256=digest(1)))
        assert [j.id for j in store.jobs()] == ["job-4", "job-3", "job-2", "job-1"]
        assert [token.id for token in store.tokens()] == ["t2", "t1", "t0"]
        store.close()


def test_a_log_is_never_copied_over_another_or_from_under_a_hub(tmp_path: Path, url: str) -> None:
    path = str(tmp_path / "hub.db")
    for where in (path, url):
        store = open_store(where)
        store.take_lease("hub-a", ttl_s=60)
        fill(store)
        if where == url:
            with pytest.raises(LeaseHeld):
                migrate(url, str(tmp_path / "other.db"))
        store.close()
    with pytest.raises(StoreError, match="has a log already"):
        migrate(path, url)
    with pytest.raises(StoreError, match="there is no database"):
        migrate(str(tmp_path / "missing.db"), url)


def test_a_broken_log_is_not_copied(tmp_path: Path, url: str, postgres_server: PostgresServer) -> None:
    store = open_store(url)
    store.take_lease("hub-a")
    fill(store)
    store.close()
    rewrite(postgres_server, 3, "NUL", "nul")
    with pytest.raises(StoreError, match="broken at rev 3"):
        migrate(url, str(tmp_path / "hub.db"))
