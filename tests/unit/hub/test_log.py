"""The log alone: who gets committed events in which order, and what a lost answer or a lost lease does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from nacl.signing import SigningKey

from loradeck.hub.log.log import Log, Published
from loradeck.hub.log.store_thread import StoreThread
from loradeck.hub.log.takeover import Standby, TakenLease
from loradeck.rules.moves import tenants
from loradeck.rules.moves.draft import Actor, drafted, moved
from loradeck.schemas.ids import Role
from loradeck.schemas.log import Draft, EventKind, PointerState
from loradeck.schemas.route import RouteConfig
from loradeck.store.interface import LeaseLost, OutcomeUnknown
from loradeck.store.sql_log import Store
from loradeck.store.sqlite import SqliteStore

ACTOR = Actor(name="ops", role=Role.RELEASER)
KEY = ("acme", "production")

SIGNER = SigningKey.generate()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StoreThread]:
    thread = StoreThread(lambda: SqliteStore(tmp_path / "hub.db"))
    yield thread
    thread.close()


def taken(store: StoreThread) -> TakenLease:
    return Standby(store, "test", "", lambda: 0.0).take()


def load(store: StoreThread, lease_lost: Callable[[], None] = lambda: None) -> Log:
    return Log(store, taken(store), SIGNER, clock=lambda: 0.0, timed=lambda _: None, lease_lost=lease_lost)


def create(log: Log) -> Draft:
    return tenants.create(log.state.tenants, "acme", ACTOR)


async def a_route(log: Log) -> None:
    """The tenant acme with the route production."""
    await log.commit([create(log)], "create-01")
    draft = tenants.set_route(log.state.tenant("acme"), "production", RouteConfig(), ACTOR, pointer=None)
    await log.commit([draft], "route-01")


def move(log: Log, release: str) -> Draft:
    before = log.state.pointer(KEY)
    after = moved(before, release=release * 64)
    return drafted(EventKind.PROMOTE, before, after, ACTOR, reason="a test")


async def test_followers_get_events_one_after_the_other(store: StoreThread) -> None:
    log = load(store)
    seen: list[tuple[str, int]] = []
    log.followers += [lambda published, name=name: seen.append((name, log.state.rev)) for name in ("nodes", "consoles")]
    await log.commit([create(log)], "create-01")
    assert seen == [("nodes", 1), ("consoles", 1)], "both see the folded state"


async def test_a_move_is_published_with_the_pointer_as_it_was(store: StoreThread) -> None:
    log = load(store)
    await a_route(log)
    published: list[Published] = []
    log.followers.append(published.append)
    await log.commit([move(log, "1")], "promote-1")
    before = log.state.pointer(KEY)
    await log.commit([move(log, "2")], "promote-2")
    first, second = (one.moves[0] for one in published)
    assert (first.key, first.before and first.before.release) == (KEY, None)
    assert second.before == before
    assert list(published[1].touched) == [KEY]
    assert log.last_move(log.state.pointer(KEY)) == second.event
    assert await log.pointer_before(second.event) == before


async def test_a_key_that_was_committed_before_is_not_published_again(store: StoreThread) -> None:
    log = load(store)
    published: list[Published] = []
    log.followers.append(published.append)
    draft = create(log)
    await log.commit([draft], "create-01")
    assert (await log.commit([draft], "create-01")).replayed
    assert len(published) == 1


async def test_a_commit_whose_answer_was_lost_is_published_if_it_is_durable(
    store: StoreThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = load(store)
    commit = SqliteStore.commit

    def lost(self: Store, *args: Any, **more: Any) -> Any:
        commit(self, *args, **more)
        raise OutcomeUnknown("the disk went away")

    published: list[Published] = []
    log.followers.append(published.append)
    monkeypatch.setattr(SqliteStore, "commit", lost)
    committed = await log.commit([create(log)], "create-01")
    assert (committed.rev, log.state.rev, len(published)) == (1, 1, 1)


async def test_a_lost_lease_is_reported_and_changes_nothing(
    store: StoreThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[bool] = []
    log = load(store, lambda: reported.append(True))

    def lost(self: Store, *args: Any, **more: Any) -> Any:
        raise LeaseLost("another hub has taken the lease")

    monkeypatch.setattr(SqliteStore, "commit", lost)
    with pytest.raises(LeaseLost):
        await log.commit([create(log)], "create-01")
    assert (log.lease_lost, reported, log.state.rev) == (True, [True], 0)


async def test_a_cursor_of_another_log_or_beyond_what_is_kept_has_no_backlog(store: StoreThread) -> None:
    log = load(store)
    await a_route(log)
    epoch = log.state.epoch
    assert [event.rev for event in log.since(epoch, 0) or ()] == [1, 2]
    assert log.since(epoch, 2) == []
    assert log.since(epoch, 3) is None
    assert log.since(epoch + 1, 1) is None
    log.recent.popleft()
    assert log.since(epoch, 0) is None
    assert await log.has(2, log.state.hash)
    assert not await log.has(2, "0" * 64)


def test_a_pointer_that_never_moved_is_empty(store: StoreThread) -> None:
    assert load(store).state.pointer(KEY) == PointerState(tenant="acme", route="production")
