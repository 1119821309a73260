"""The audit names the first rev at which a log is not what it was, on every backend."""

from __future__ import annotations

import pytest
from tests.contract.store.conftest import Backend
from tests.contract.store.drafts import digest, move, note
from tests.contract.store.whole_log import verify_log

from loradeck.rules.moves.chain import event_hash
from loradeck.schemas.log import EventKind
from loradeck.store.interface import Unreadable
from loradeck.store.log_audit import LogAudit
from loradeck.store.sql_log import Store


def fill(store: Store) -> None:
    store.commit([note(EventKind.TENANT_CREATE)], key="key-0001")
    for generation in range(1, 6):
        store.commit([move(to=generation, generation=generation, reason="bad answers")], key=f"key-1{generation:03}")


def tampered(backend: Backend, rev: int, old: str, new: str) -> Store:
    fill(backend.open())
    backend.close()
    backend.rewrite(rev, old, new)
    return backend.open()


def test_a_whole_log_verifies(store: Store) -> None:
    assert verify_log(store).as_json() == {"ok": True, "rev": 0, "hash": "0" * 64, "break": None}
    fill(store)
    report = verify_log(store)
    assert report.ok
    assert (report.rev, report.hash, report.broken) == (6, store.snapshot().hash, None)


def test_a_log_longer_than_one_batch_verifies(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loradeck.store.log_audit.BATCH", 2)
    fill(store)
    assert verify_log(store).rev == 6


def test_an_audit_takes_in_what_is_committed_between_its_steps(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loradeck.store.log_audit.BATCH", 2)
    fill(store)
    audit, steps = LogAudit(), 0
    while (report := audit.step(store)) is None:
        steps += 1
        if steps == 2:
            store.commit([move(to=6, generation=6)], key="key-0002")
    assert (steps, report.ok, report.rev) == (4, True, 7)


def test_an_epoch_that_goes_back_is_found_even_where_every_hash_fits(
    store_factory: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loradeck.store.log_audit.BATCH", 2)
    store = store_factory.open()
    fill(store)
    store.adopt([move(to=9, generation=9, kind=EventKind.RECOVER, expected=5)], epoch_above=4, key="key-0002")
    assert verify_log(store).ok
    last = store.since(6)[0]
    forged = last.model_copy(update={"epoch": 0})
    forged = forged.model_copy(update={"hash": event_hash(forged)})
    store_factory.close()
    store_factory.rewrite(7, f'"epoch":{last.epoch}', '"epoch":0')
    store_factory.rewrite(7, last.hash, forged.hash)
    report = verify_log(store_factory.open())
    assert report.broken is not None
    assert (report.broken.rev, report.broken.why) == (7, "epoch 0 comes after epoch 1")


def test_one_changed_byte_is_found_at_its_rev(store_factory: Backend) -> None:
    report = verify_log(tampered(store_factory, 3, "bad answers", "bad answerz")).as_json()
    assert (report["ok"], report["rev"], report["break"]["rev"]) == (False, 2, 3)
    assert "changed after it was committed" in report["break"]["why"]


def test_a_forged_hash_is_found_at_its_rev(store_factory: Backend) -> None:
    store = store_factory.open()
    fill(store)
    old = store.since(2)[0].hash
    store_factory.close()
    store_factory.rewrite(3, old, digest(1))
    report = verify_log(store_factory.open())
    assert report.broken is not None
    assert (report.broken.rev, report.rev) == (3, 2)


def test_an_event_that_does_not_parse_is_named(store_factory: Backend) -> None:
    store = tampered(store_factory, 4, '"override":false', '"override":"maybe"')
    report = verify_log(store)
    assert report.broken is not None
    assert (report.ok, report.broken.rev) == (False, 4)
    with pytest.raises(Unreadable, match="rev 4"):
        store.since(0)


def test_an_event_that_was_taken_out_is_missed(store_factory: Backend) -> None:
    fill(store_factory.open())
    store_factory.close()
    store_factory.remove(3)
    report = verify_log(store_factory.open())
    assert report.broken is not None
    assert (report.broken.rev, report.rev) == (3, 2)


def test_a_pointer_that_the_log_does_not_add_up_to_is_named(store_factory: Backend) -> None:
    fill(store_factory.open())
    store_factory.close()
    store_factory.move_pointer("acme", "production", digest(5), digest(4))
    report = verify_log(store_factory.open())
    assert not report.ok
    assert report.rev == 6
    assert report.broken is not None
    assert "acme/production" in report.broken.why
