"""What every backend must keep of the log."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.contract.store.conftest import Backend
from tests.contract.store.drafts import digest, move, note
from tests.fleets.waiting import PATIENCE_S

from loradeck.rules.moves.chain import verify
from loradeck.schemas.ids import Role
from loradeck.schemas.log import FLEET, GENESIS, Draft, EventKind, Quarantine
from loradeck.schemas.pool import PoolConfig
from loradeck.schemas.route import RouteConfig
from loradeck.store.interface import Committed, LeaseLost, Moved, StoreError
from loradeck.store.log_audit import LogAudit
from loradeck.store.sql_log import Store


def test_an_empty_store_starts_at_genesis(store_factory: Backend) -> None:
    snapshot = store_factory.open(lease=False).snapshot()
    assert (snapshot.epoch, snapshot.rev, snapshot.hash) == (0, 0, GENESIS)
    assert (list(snapshot.pointers), list(snapshot.tenants)) == ([], [])


def test_a_move_gets_the_next_rev_and_the_store_fills_in_what_moved_it(store_factory: Backend) -> None:
    store_factory.set_clock(1_700_000_000_123)
    store = store_factory.open()
    first = store.commit([move(to=1)], key="key-0001").events[0]
    second = store.commit([move(to=2, generation=2)], key="key-0002").events[0]
    assert (first.rev, first.prev_hash, second.rev, second.prev_hash) == (1, GENESIS, 2, first.hash)
    assert first.txn != second.txn
    assert second.epoch == 1
    assert second.pointer is not None
    assert (second.pointer.last_move, second.pointer.moved_ms) == (second.id, 1_700_000_000_123)
    snapshot = store.snapshot()
    assert list(snapshot.pointers) == [second.pointer]
    assert (snapshot.rev, snapshot.hash) == (2, second.hash)


def test_a_hold_leaves_what_moved_the_pointer_last(store: Store) -> None:
    moved = store.commit([move()], key="key-0001").events[0]
    hold = move(kind=EventKind.HOLD)
    assert hold.pointer is not None
    held = hold.model_copy(update={"pointer": hold.pointer.model_copy(update={"held": True})})
    store.commit([held], key="key-0002")
    pointer = store.snapshot().pointers[0]
    assert (pointer.held, pointer.last_move, pointer.generation) == (True, moved.id, 1)


def test_pools_are_kept_as_the_log_leaves_them_and_their_audit_agrees(store: Store) -> None:
    eu, us = PoolConfig(labels={"site": "eu"}), PoolConfig(hardware="H100")
    for number, (name, config) in enumerate((("eu", PoolConfig()), ("us", us), ("eu", eu), ("old", us), ("old", None))):
        payload = {"pool": name, "config": None if config is None else config.model_dump(mode="json")}
        draft = Draft(kind=EventKind.POOL, tenant=FLEET, actor="op", role=Role.RELEASER, payload=payload)
        store.commit([draft], key=f"pool-{number}")
    assert store.snapshot().pools == {"eu": eu, "us": us}
    audit = LogAudit()
    assert (report := audit.step(store) or audit.step(store)) is not None
    assert report.ok, report.broken


def test_a_quarantine_set_by_a_move_names_that_move(store: Store) -> None:
    draft = move(kind=EventKind.ROLLBACK)
    assert draft.pointer is not None
    quarantined = draft.pointer.model_copy(update={"quarantined": (Quarantine(release=digest(9), event=""),)})
    event = store.commit([draft.model_copy(update={"pointer": quarantined})], key="key-0001").events[0]
    assert store.snapshot().pointers[0].quarantined == (Quarantine(release=digest(9), event=event.id),)


def test_what_is_read_back_is_what_was_committed(store: Store) -> None:
    draft = move(
        reason="naïve 🦊 'quotes' \"double\" \n\x00", incident="INC-1", payload={"x": [1, 2.5, None, {"é": "ü"}]}
    )
    committed = store.commit([draft], key="key-0001")
    assert store.since(0) == committed.events
    assert store.event(committed.events[0].id) == committed.events[0]
    assert verify(store.since(0)) is None


def test_a_stale_draft_among_several_takes_the_whole_txn_back(store: Store) -> None:
    winner = store.commit([move("bob", to=3)], key="key-0001").events[0]
    before = store.snapshot()
    drafts = [move("acme"), move("bob", to=4, generation=1), move("carl")]
    with pytest.raises(Moved) as caught:
        store.commit(drafts, key="key-0002")
    assert caught.value.winner == winner
    assert caught.value.pointer == winner.pointer
    assert store.snapshot() == before
    assert store.lookup("key-0002") is None
    assert store.since(1) == []


def test_a_stale_generation_is_refused_even_where_none_is_expected(store: Store) -> None:
    store.commit([move(to=1)], key="key-0001")
    for generation in (1, 3):
        with pytest.raises(Moved):
            store.commit([move(to=2, generation=generation, expected=None)], key="key-0002")
    with pytest.raises(Moved):
        store.commit([move(kind=EventKind.HOLD, generation=2, expected=None)], key="key-0003")
    assert store.snapshot().rev == 1


def test_an_expected_generation_is_compared_for_events_that_touch_no_pointer(store: Store) -> None:
    store.commit([move()], key="key-0001")
    with pytest.raises(Moved):
        store.commit(
            [note(EventKind.UNPIN, route="production").model_copy(update={"expected_generation": 0})], key="key-0002"
        )
    assert store.snapshot().rev == 1


def test_a_pointer_that_never_moved_has_no_winner(store: Store) -> None:
    with pytest.raises(Moved) as caught:
        store.commit([move(generation=4)], key="key-0001")
    assert (caught.value.winner, caught.value.pointer) == (None, None)


def test_a_draft_with_another_pointers_state_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="acme/production holds the state of bob/production"):
        store.commit([move("bob").model_copy(update={"tenant": "acme"})], key="key-0001")
    assert store.snapshot().rev == 0


def test_later_drafts_of_a_txn_see_what_earlier_ones_did(store: Store) -> None:
    committed = store.commit([move(to=1), move(to=2, generation=2)], key="key-0001")
    assert [e.rev for e in committed.events] == [1, 2]
    assert len({e.txn for e in committed.events}) == 1
    assert store.snapshot().pointers[0].release == digest(2)


def test_the_same_key_replays_what_it_committed(store: Store) -> None:
    first = store.commit([move("acme"), move("bob")], key="key-0001")
    store.commit([move("acme", to=2, generation=2)], key="key-0002")
    again = store.commit([move("acme", to=7, generation=9)], key="key-0001")
    assert not first.replayed
    assert again == Committed(events=first.events, rev=2, replayed=True)
    assert store.lookup("key-0001") == again
    assert store.snapshot().rev == 3


def test_a_key_may_stand_for_nothing_at_all(store: Store) -> None:
    store.commit([move()], key="key-0001")
    assert store.commit([], key="key-0002") == Committed(events=[], rev=1)
    store.commit([move(to=2, generation=2)], key="key-0003")
    assert store.lookup("key-0002") == Committed(events=[], rev=1, replayed=True)


def test_of_racing_commits_one_wins_and_the_loser_sees_the_winner(store_factory: Backend) -> None:
    stores = store_factory.two_threads()
    for generation in range(1, 21):
        start = threading.Barrier(2)

        def race(who: int, generation: int = generation, start: threading.Barrier = start) -> Committed | Moved:
            draft = move(to=who, generation=generation)
            start.wait(timeout=PATIENCE_S)
            try:
                return stores[who].commit([draft], key=f"key-{generation}-{who}")
            except Moved as error:
                return error

        with ThreadPoolExecutor(2) as pool:
            outcomes = list(pool.map(race, range(2)))
        won = [o for o in outcomes if isinstance(o, Committed)]
        lost = [o for o in outcomes if isinstance(o, Moved)]
        assert (len(won), len(lost)) == (1, 1)
        assert lost[0].winner == won[0].events[0]
    log = stores[0].since(0)
    assert [e.rev for e in log] == list(range(1, 21))
    assert verify(log) is None


def test_racing_uses_of_one_key_move_once(store_factory: Backend) -> None:
    stores = store_factory.two_threads()
    start = threading.Barrier(2)

    def race(who: int) -> Committed:
        start.wait(timeout=PATIENCE_S)
        return stores[who].commit([move()], key="key-0001")

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(race, range(2)))
    assert sorted(o.replayed for o in outcomes) == [False, True]
    assert outcomes[0].events == outcomes[1].events
    assert stores[0].snapshot().rev == 1


def test_tenants_and_routes_are_folded_and_outlive_a_restart(store_factory: Backend) -> None:
    store = store_factory.open()
    config = RouteConfig(min_replicas=2).model_dump(mode="json")
    store.commit([note(EventKind.TENANT_CREATE)], key="key-0001")
    store.commit([note(EventKind.ROUTE, route="production", config=config)], key="key-0002")
    store.commit([note(EventKind.TENANT_SUSPEND)], key="key-0003")
    store.commit([note(EventKind.KEY, add={"id": "k1", "sha256": digest(1)})], key="key-0004")
    before = store.snapshot()
    assert before.tenants[0].suspended
    assert before.tenants[0].routes["production"].min_replicas == 2
    assert [key.id for key in before.tenants[0].keys] == ["k1"]
    store_factory.close()
    assert store_factory.open(lease=False).snapshot() == before


def test_without_the_lease_nothing_is_written(store_factory: Backend) -> None:
    store = store_factory.open(lease=False)
    with pytest.raises(LeaseLost, match="never taken"):
        store.commit([move()], key="key-0001")
    with pytest.raises(LeaseLost):
        store.set_meta("a", "b")
    assert (store.snapshot().rev, store.meta("a")) == (0, None)


def test_a_hub_that_lost_its_lease_commits_nothing_more(store_factory: Backend) -> None:
    store = store_factory.open()
    store.commit([move()], key="key-0001")
    store_factory.usurp()
    with pytest.raises(LeaseLost, match="'hub-b' has it since, at epoch 2"):
        store.commit([move(to=2, generation=2)], key="key-0002")
    with pytest.raises(LeaseLost):
        store.adopt([], epoch_above=9, key="key-0003")
    with pytest.raises(LeaseLost):
        store.check_lease()
    snapshot = store.snapshot()
    assert (snapshot.rev, snapshot.epoch) == (1, 2)


def test_a_hub_of_the_same_name_is_another_holder(store_factory: Backend) -> None:
    store = store_factory.open()
    store.commit([move()], key="key-0001")
    store_factory.usurp("hub-a")
    store.reopen()  # as after a commit whose outcome is unknown
    with pytest.raises(LeaseLost, match="'hub-a' has it since, at epoch 2"):
        store.commit([move(to=2, generation=2)], key="key-0002")
    assert store.snapshot().rev == 1


def test_an_adopt_whose_outcome_was_unknown_leaves_the_lease_with_its_holder(store: Store) -> None:
    store.adopt([move(generation=5, expected=None, kind=EventKind.RECOVER)], epoch_above=3, key="key-0001")
    store.reopen()
    store.check_lease()
    assert store.commit([move(to=2, generation=6)], key="key-0002").events[0].epoch == 4


def test_the_log_has_one_id_and_each_hold_of_the_lease_an_incarnation_of_its_own(store_factory: Backend) -> None:
    store = store_factory.open()
    first = store.snapshot()
    store_factory.close()
    second = store_factory.open().snapshot()
    assert first.log == second.log != ""
    assert len({first.incarnation, second.incarnation, ""}) == 3


def test_taking_the_lease_raises_the_epoch_every_time(store_factory: Backend) -> None:
    store = store_factory.open(lease=False)
    assert [store.take_lease("a"), store.take_lease("a")] == [1, 2]
    store_factory.close()
    store = store_factory.open(lease=False)
    assert store.take_lease("b") == 3
    assert store.commit([move()], key="key-0001").events[0].epoch == 3


def test_recovered_entries_jump_ahead_under_a_higher_epoch(store: Store) -> None:
    store.commit([move(to=1)], key="key-0001")
    draft = move(to=5, generation=40, kind=EventKind.RECOVER, expected=1)
    committed = store.adopt([draft], epoch_above=7, key="key-0002")
    assert (committed.rev, committed.events[0].epoch, committed.events[0].generation) == (2, 8, 40)
    assert store.snapshot().epoch == 8
    assert store.commit([move(to=6, generation=41)], key="key-0003").events[0].epoch == 8
    assert verify(store.since(0)) is None


def test_recovering_twice_with_one_key_raises_the_epoch_once(store: Store) -> None:
    first = store.adopt([move(generation=5, expected=None, kind=EventKind.RECOVER)], epoch_above=3, key="key-0001")
    again = store.adopt([move(generation=5, expected=None, kind=EventKind.RECOVER)], epoch_above=3, key="key-0001")
    assert again == Committed(events=first.events, rev=1, replayed=True)
    assert store.snapshot().epoch == 4


def test_recovering_never_takes_a_generation_back(store: Store) -> None:
    store.commit([move(to=1), move(to=2, generation=2)], key="key-0001")
    for generation in (1, 2):
        with pytest.raises(Moved):
            store.adopt(
                [move(to=9, generation=generation, expected=None, kind=EventKind.RECOVER)],
                epoch_above=7,
                key="key-0002",
            )
    assert (store.snapshot().epoch, store.snapshot().rev) == (1, 2)
    assert store.commit([move(to=3, generation=3)], key="key-0003").events[0].epoch == 1


def test_the_log_is_read_forwards_and_backwards(store: Store) -> None:
    store.commit([note(EventKind.TENANT_CREATE, "bob")], key="key-0001")
    store.commit([move("acme"), move("bob"), move("bob", route="staging")], key="key-0002")
    store.commit([move("bob", to=2, generation=2)], key="key-0003")
    assert [e.rev for e in store.since(0)] == [1, 2, 3, 4, 5]
    assert [e.rev for e in store.since(2, limit=2)] == [3, 4]
    assert store.since(5) == []
    assert [e.rev for e in store.history()] == [5, 4, 3, 2, 1]
    assert [e.rev for e in store.history(tenant="bob")] == [5, 4, 3, 1]
    assert [e.rev for e in store.history(tenant="bob", route="production")] == [5, 3]
    assert [e.rev for e in store.history(route="staging")] == [4]
    assert [e.rev for e in store.history(before_rev=5, limit=2)] == [4, 3]
    assert [e.rev for e in store.history(tenant="bob", before_rev=5, limit=1)] == [4]


def test_a_txn_and_an_event_are_found_by_their_ids(store: Store) -> None:
    store.commit([move("acme")], key="key-0001")
    committed = store.commit([move("bob"), move("carl")], key="key-0002")
    assert store.txn(committed.events[0].txn) == committed.events
    assert store.event(committed.events[1].id) == committed.events[1]
    assert (store.txn("f" * 32), store.event("f" * 32)) == ([], None)


def test_pointers_are_known_as_they_were_at_any_rev(store: Store) -> None:
    store.commit([note(EventKind.TENANT_CREATE)], key="key-0001")
    store.commit([move("acme", to=1), move("bob", to=2)], key="key-0002")
    store.commit([note(EventKind.ROUTE, route="production", config=RouteConfig().model_dump())], key="key-0003")
    store.commit([move("acme", to=3, generation=2)], key="key-0004")

    def at(rev: int) -> dict[str, str | None]:
        return {p.tenant: p.release for p in store.pointers_at(rev)}

    assert [at(0), at(1)] == [{}, {}]
    assert at(2) == {"acme": digest(1)}
    assert at(3) == at(4) == {"acme": digest(1), "bob": digest(2)}
    assert at(5) == {"acme": digest(3), "bob": digest(2)}
    assert store.pointers_at(5) == list(store.snapshot().pointers)


def test_a_time_means_the_last_rev_committed_at_or_before_it(store_factory: Backend) -> None:
    store = store_factory.open()
    for generation, ms in enumerate((1000, 2000, 2000, 1500, 3000), start=1):
        store_factory.set_clock(ms)
        store.commit([move(to=generation, generation=generation)], key=f"key-{generation}")
    assert [store.rev_at(ms) for ms in (999, 1000, 1999, 2000, 3000, 9999)] == [0, 1, 1, 4, 5, 5]
    # The clock had been set back before rev 4: a time before the step does not mean what came after it.
    assert [event.at_ms for event in store.since(0)] == [1000, 2000, 2000, 2000, 3000]
    assert store.rev_at(1500) == 1


def test_a_hub_knows_whether_its_log_holds_a_hash(store: Store) -> None:
    event = store.commit([move()], key="key-0001").events[0]
    assert store.has_hash(0, GENESIS)
    assert store.has_hash(1, event.hash)
    assert not store.has_hash(1, digest(1))
    assert not store.has_hash(2, event.hash)
    assert not store.has_hash(0, event.hash)
