"""Who called deprecated releases is written as it was heard, and forgotten with a caller's key."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from loradeck.hub.log.store_thread import StoreThread
from loradeck.hub.progress.deprecated_callers import STEP_MS, DeprecatedCallers
from loradeck.rules.moves.fold import FoldedLog
from loradeck.schemas.counts import CALLER_CHARS, Traffic
from loradeck.schemas.tenant import CallerKey, TenantState
from loradeck.store.interface import StoreError
from loradeck.store.sql_log import Store
from loradeck.store.sqlite import SqliteStore

NOW, ACME, RELEASE = 10**12, ("acme", "production"), "a" * 64
KEYS = tuple(CallerKey(id=f"k{n}", sha256=f"{n}" * 64) for n in (1, 2))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StoreThread]:
    thread = StoreThread(lambda: SqliteStore(tmp_path / "hub.db"))
    thread.now(lambda s: s.take_lease("hub-a"))
    yield thread
    thread.close()


def state(*keys: CallerKey) -> FoldedLog:
    folded = FoldedLog()
    folded.tenants["acme"] = TenantState(name="acme", keys=keys)
    return folded


def called(key: CallerKey, ago: int) -> Traffic:
    by = {key.sha256[:CALLER_CHARS]: NOW - ago * STEP_MS}
    return Traffic(tenant="acme", route="production", generation=1, release=RELEASE, replica="n1-e0", called_by=by)


def known(callers: DeprecatedCallers) -> list[str]:
    return [one.key for one in callers.of(ACME, RELEASE)]


async def test_a_call_that_is_heard_while_others_are_written_is_written_next(store: StoreThread) -> None:
    log = state(*KEYS)
    callers = DeprecatedCallers(log, store, lambda: NOW)
    callers.told(called(KEYS[0], 1))
    writing = asyncio.create_task(callers.save())
    await asyncio.sleep(0)
    callers.told(called(KEYS[1], 2))
    await writing
    await callers.save()
    assert known(DeprecatedCallers(log, store, lambda: NOW)) == ["k1", "k2"]


async def test_what_the_store_refuses_is_written_the_next_time(
    store: StoreThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise StoreError("the disk is full")

    log = state(*KEYS)
    callers = DeprecatedCallers(log, store, lambda: NOW)
    callers.told(called(KEYS[0], 1))
    with monkeypatch.context() as full:
        full.setattr(Store, "set_meta", refuse)
        with pytest.raises(StoreError):
            await callers.save()
    await callers.save()
    assert known(DeprecatedCallers(log, store, lambda: NOW)) == ["k1"]


async def test_a_key_that_the_tenant_has_no_more_is_not_kept(store: StoreThread) -> None:
    log = state(*KEYS)
    callers = DeprecatedCallers(log, store, lambda: NOW)
    for key in KEYS:
        callers.told(called(key, 1))
    log.tenants["acme"] = TenantState(name="acme", keys=KEYS[:1])
    await callers.save()
    assert known(callers) == known(DeprecatedCallers(log, store, lambda: NOW)) == ["k1"]
