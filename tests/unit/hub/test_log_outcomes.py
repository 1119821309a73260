"""The log where an answer was lost, where another hub moved on, and at the edges of what is kept in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from nacl.signing import SigningKey
from tests.unit.hub.test_log import ACTOR, KEY, a_route, create, load, move, taken

from loradeck.hub.log.log import Log, Published
from loradeck.hub.log.store_thread import StoreThread
from loradeck.hub.log.takeover import RECENT, LogInMemory
from loradeck.rules.moves import tenants
from loradeck.schemas.log import GENESIS, EventKind
from loradeck.schemas.route import RouteConfig
from loradeck.store.interface import OutcomeUnknown, StoreError
from loradeck.store.sql_log import Store
from loradeck.store.sqlite import SqliteStore

SIGNER = SigningKey.generate()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StoreThread]:
    thread = StoreThread(lambda: SqliteStore(tmp_path / "hub.db"))
    yield thread
    thread.close()


def lost(monkeypatch: pytest.MonkeyPatch, *, durable: bool, call: str = "commit") -> None:
    """From here on the answers of commits are lost."""
    real = getattr(SqliteStore, call)

    def wrapped(self: Store, *args: Any, **more: Any) -> Any:
        if durable:
            real(self, *args, **more)
        raise OutcomeUnknown("the disk went away")

    monkeypatch.setattr(SqliteStore, call, wrapped)


async def test_a_commit_that_did_not_become_durable_is_never_reported_as_committed(
    store: StoreThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = load(store)
    published: list[Published] = []
    log.followers.append(published.append)
    with monkeypatch.context() as patched:
        lost(patched, durable=False)
        with pytest.raises(OutcomeUnknown, match="the key is not in the log now"):
            await log.commit([create(log)], "create-01")
    assert (published, log.state.rev) == ([], 0)
    assert (await log.commit([create(log)], "create-01")).rev == 1
    assert len(published) == 1


async def test_what_became_durable_while_the_store_was_gone_is_published_before_the_next_commit(
    store: StoreThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = load(store)
    await a_route(log)
    published: list[Published] = []
    log.followers.append(published.append)
    with monkeypatch.context() as patched:
        lost(patched, durable=True)

        def unreadable(self: Store, *_: Any, **__: Any) -> Any:
            raise StoreError("the disk is gone")

        patched.setattr(SqliteStore, "since", unreadable)
        with pytest.raises(StoreError, match="gone"):
            await log.commit([move(log, "1")], "promote-1")
    assert (log.state.rev, published) == (2, [])
    draft = tenants.suspend(log.state.tenant("acme"), ACTOR)
    await log.commit([draft], "suspend-1")
    assert [[event.rev for event in one.events] for one in published] == [[3], [4]]
    assert log.state.pointer(KEY).release == "1" * 64
    assert log.state.tenant("acme").suspended
    published.clear()
    await log.commit([move(log, "2")], "promote-2")
    assert len(published) == 1, "caught up once"


async def test_a_recover_is_committed_above_an_epoch_and_published(
    store: StoreThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = load(store)
    await a_route(log)
    published: list[Published] = []
    log.followers.append(published.append)
    await log.adopt([move(log, "1")], epoch_above=7, key="recover-1")
    assert (log.state.epoch > 7, log.state.rev, len(published)) == (True, 3, 1)
    assert log.state.pointer(KEY).release == "1" * 64
    with monkeypatch.context() as patched:
        lost(patched, durable=True, call="adopt")
        committed = await log.adopt([move(log, "2")], epoch_above=20, key="recover-2")
    assert (committed.rev, log.state.epoch > 20, len(published)) == (4, True, 2)


async def test_a_recover_that_changes_nothing_raises_the_epoch_all_the_same(store: StoreThread) -> None:
    log = load(store)
    await log.adopt([], epoch_above=7, key="recover-1")
    assert log.state.epoch > 7


async def test_a_commit_is_timed_by_the_hubs_clock(store: StoreThread) -> None:
    times = iter((10.0, 12.5))
    took: list[float] = []
    log = Log(
        store,
        taken(store),
        SigningKey.generate(),
        clock=lambda: next(times),
        timed=took.append,
        lease_lost=lambda: None,
    )
    await log.commit([create(log)], "create-01")
    assert took == [2.5]


async def test_a_restarted_hub_has_the_state_the_events_and_the_last_moves_of_the_one_before(
    store: StoreThread,
) -> None:
    log = load(store)
    await a_route(log)
    for n in "123":
        await log.commit([move(log, n)], f"promote-{n}")
    again = load(store)
    assert (again.state.rev, again.state.hash) == (log.state.rev, log.state.hash)
    assert again.state.epoch > log.state.epoch, "it has taken the lease"
    assert (again.state.pointers, again.state.tenants) == (log.state.pointers, log.state.tenants)
    assert list(again.recent) == list(log.recent)
    last = again.last_move(again.state.pointer(KEY))
    assert last is not None
    assert last.rev == 5
    assert list(again._held.last_moves) == [last.id]
    assert list(log._held.last_moves) == [last.id], "those that were overtaken are dropped"


async def test_events_and_earlier_states_are_found_in_memory_and_beyond(store: StoreThread) -> None:
    log = load(store)
    await a_route(log)
    for n in "123":
        await log.commit([move(log, n)], f"promote-{n}")
    created, routed, *moves = log.recent
    for kept in (5, 2, 1, 0):
        while len(log.recent) > kept:
            log.recent.popleft()
        assert await log.event(moves[0].id) == moves[0]
        assert await log.event("0" * 32) is None
        assert await log.pointer_before(moves[2]) == moves[1].pointer
        assert await log.pointer_before(moves[1]) == moves[0].pointer
        assert await log.pointer_before(moves[0]) == routed.pointer
        assert await log.pointer_before(routed) is None
        assert await log.has(moves[2].rev, moves[2].hash)
        assert await log.has(created.rev, created.hash)
        assert not await log.has(created.rev, routed.hash)


async def test_an_earlier_state_is_that_of_the_same_pointer(store: StoreThread) -> None:
    log = load(store)
    await a_route(log)
    await log.commit([move(log, "1")], "promote-1")
    other = tenants.set_route(log.state.tenant("acme"), "staging", RouteConfig(), ACTOR, pointer=None)
    await log.commit([other], "route-02")
    await log.commit([move(log, "2")], "promote-2")
    assert await log.pointer_before(log.recent[-1]) == log.recent[2].pointer


async def test_what_a_log_has_ends_at_its_newest_event(store: StoreThread) -> None:
    log = load(store)
    assert await log.has(0, GENESIS)
    assert not await log.has(0, "0" * 63 + "1")
    assert not await log.has(1, GENESIS)
    await a_route(log)
    assert await log.has(0, GENESIS)
    assert await log.has(1, log.recent[0].hash)
    assert not await log.has(1, log.state.hash)
    assert not await log.has(3, log.state.hash)


async def test_the_backlog_of_a_cursor_is_what_follows_it(store: StoreThread) -> None:
    log = load(store)
    epoch = log.state.epoch
    assert log.since(epoch, 0) == []
    assert log.since(epoch, -1) is None
    assert log.since(epoch - 1, 0) == []
    await a_route(log)
    assert [event.rev for event in log.since(epoch, 1) or ()] == [2]
    assert [event.rev for event in log.since(epoch - 1, 0) or ()] == [1, 2]
    assert log.since(epoch - 1, 1) is None, "its event there was another one"
    assert log.since(epoch - 1, 2) is None
    assert log.since(epoch, -1) is None
    again = load(store)
    assert again.since(epoch, 2) == [], "nothing was committed since"
    assert [event.rev for event in again.since(epoch, 1) or ()] == [2]
    again.recent.popleft()
    assert again.since(epoch, 0) is None
    assert again.since(epoch, 1) is None, "whether the log agrees there cannot be seen any more"
    again.recent.clear()
    assert again.since(epoch, 2) == []
    assert again.since(epoch, 1) is None


async def test_a_log_that_is_caught_up_is_the_one_that_is_read_anew(store: StoreThread) -> None:
    log = load(store)
    await a_route(log)
    warm = await store(LogInMemory)
    for n in "123":
        await log.commit([move(log, n)], f"promote-{n}")
    assert await store(warm.catch_up)
    cold = await store(LogInMemory)
    assert vars(warm.state) == vars(cold.state) == vars(log.state)
    assert (list(warm.recent), warm.last_moves, warm.last_revs) == (list(cold.recent), cold.last_moves, cold.last_revs)


async def test_a_log_that_grows_while_it_is_read_has_each_event_once(store: StoreThread) -> None:
    """So it does where a hub that stands by starts and the active one commits: they are two reads of the database."""
    log = load(store)
    await a_route(log)
    earlier = await store(lambda s: s.snapshot())
    await log.commit([move(log, "1")], "promote-1")

    def read(s: Store) -> LogInMemory:
        before = SimpleNamespace(snapshot=lambda: earlier, since=s.since, last_revs=s.last_revs, event=s.event)
        warm = LogInMemory(cast(Store, before))
        assert warm.catch_up(s)
        return warm

    warm = await store(read)
    revs = [event.rev for event in warm.recent]
    assert revs == list(range(1, warm.state.rev + 1))
    assert list(warm.recent) == list((await store(LogInMemory)).recent)


async def test_a_log_that_is_not_the_one_it_was_is_not_caught_up(store: StoreThread, tmp_path: Path) -> None:
    log = load(store)
    await a_route(log)
    warm = await store(LogInMemory)
    other = StoreThread(lambda: SqliteStore(tmp_path / "other" / "hub.db"))
    assert not await other(warm.catch_up)
    apart = load(other)
    await a_route(apart)
    await apart.commit([move(apart, "1")], "promote-1")
    assert not await other(warm.catch_up)
    other.close()


async def test_only_so_many_events_are_kept_in_memory(store: StoreThread) -> None:
    log = load(store)
    assert (RECENT, log.recent.maxlen) == (5000, 5000)


async def test_what_touches_a_pointer_without_moving_it_is_published_without_a_move(store: StoreThread) -> None:
    log = load(store)
    published: list[Published] = []
    log.followers.append(published.append)
    await a_route(log)
    assert [(list(one.touched), list(one.moves)) for one in published] == [([], []), ([KEY], [])]
    await log.commit([move(log, "1")], "promote-1")
    held = log.state.pointer(KEY).model_copy(update={"held": True})
    hold = move(log, "1").model_copy(update={"kind": EventKind.HOLD, "pointer": held})
    await log.commit([hold], "hold-1")
    assert log.last_move(log.state.pointer(KEY)) is not None, "a hold is no move"
    assert [len(one.moves) for one in published] == [0, 0, 1, 0]
    await log.commit([tenants.suspend(log.state.tenant("acme"), ACTOR)], "suspend-1")
    assert list(published[-1].touched) == [KEY], "all routes of the tenant"
