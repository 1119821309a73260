"""Of several hubs on one database one may write at a time, on every backend."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.contract.store.conftest import Backend
from tests.contract.store.drafts import move

from loradeck.hub.log.takeover import Standby
from loradeck.rules.moves.lease import TTL_S
from loradeck.schemas.log import EventKind
from loradeck.store.interface import LeaseHeld, LeaseLost
from loradeck.store.sql_log import Store

START = 1_700_000_000_000
ADDRESS = "https://hub-a.example:7400"


@pytest.fixture
def hubs(store_factory: Backend) -> tuple[Store, Store]:
    """Two hubs; the first holds the lease for ten seconds and has committed one move."""
    store_factory.set_clock(START)
    holder, other = store_factory.two_hubs()
    holder.take_lease("hub-a", address=ADDRESS, ttl_s=10)
    holder.commit([move()], key="key-0001")
    return holder, other


def later(backend: Backend, seconds: float) -> None:
    backend.set_clock(START + round(seconds * 1000))


def test_a_lease_is_not_taken_from_a_hub_whose_time_is_not_over(
    store_factory: Backend, hubs: tuple[Store, Store]
) -> None:
    holder, other = hubs
    later(store_factory, 4)
    with pytest.raises(LeaseHeld, match=f"'hub-a' at {ADDRESS} holds the lease of this database, for 6.0 s") as caught:
        other.take_lease("hub-b", ttl_s=10)
    assert (caught.value.lease.name, caught.value.lease.address, caught.value.remaining_s) == ("hub-a", ADDRESS, 6.0)
    assert holder.commit([move(to=2, generation=2)], key="key-0002").rev == 2
    with pytest.raises(LeaseLost, match="never taken"):
        other.renew_lease(10)


def test_an_operator_may_take_it_anyway(hubs: tuple[Store, Store]) -> None:
    holder, other = hubs
    assert other.take_lease("hub-b", ttl_s=10, anyway=True) == 2
    for write in (lambda: holder.commit([move(to=2, generation=2)], key="key-0002"), lambda: holder.renew_lease(10)):
        with pytest.raises(LeaseLost, match="'hub-b' has it since, at epoch 2"):
            write()
    assert other.commit([move(to=2, generation=2)], key="key-0002").events[0].epoch == 2


def test_a_hold_that_ran_out_commits_nothing_until_it_is_renewed(
    store_factory: Backend, hubs: tuple[Store, Store]
) -> None:
    holder, _ = hubs
    later(store_factory, 10)
    for write in (lambda: holder.commit([move(to=2, generation=2)], key="key-0002"), holder.check_lease):
        with pytest.raises(LeaseLost, match="it ran out before it was renewed"):
            write()
    assert holder.snapshot().rev == 1
    holder.renew_lease(10)
    assert holder.commit([move(to=2, generation=2)], key="key-0002").events[0].epoch == 1


def test_a_holder_that_wakes_after_its_lease_was_taken_commits_nothing(
    store_factory: Backend, hubs: tuple[Store, Store]
) -> None:
    holder, other = hubs
    later(store_factory, 10)
    assert other.take_lease("hub-a", ttl_s=10) == 2  # of the same name, and another holder
    with pytest.raises(LeaseLost, match="at epoch 2"):
        holder.commit([move(to=2, generation=2)], key="key-0002")
    with pytest.raises(LeaseLost, match="at epoch 2"):
        holder.renew_lease(10)
    assert (other.snapshot().rev, other.snapshot().epoch) == (1, 2)


def test_a_renewed_hold_lasts_from_then(store_factory: Backend, hubs: tuple[Store, Store]) -> None:
    holder, other = hubs
    later(store_factory, 8)
    holder.renew_lease(10)
    later(store_factory, 17.9)
    with pytest.raises(LeaseHeld):
        other.take_lease("hub-b", ttl_s=10)
    holder.check_lease()


HOUR = 3600.0


def test_a_hold_that_was_not_renewed_since_it_was_read_may_be_taken_whatever_the_databases_clock_says(
    store_factory: Backend, hubs: tuple[Store, Store]
) -> None:
    holder, other = hubs
    later(store_factory, -HOUR)
    watched = other.read_head().renewal
    with pytest.raises(LeaseHeld):
        other.take_lease("hub-b", ttl_s=10)
    assert other.take_lease("hub-b", ttl_s=10, unless_renewed=watched) == 2
    with pytest.raises(LeaseLost, match="'hub-b' has it since, at epoch 2"):
        holder.commit([move(to=2, generation=2)], key="key-0002")
    assert other.commit([move(to=2, generation=2)], key="key-0002").events[0].epoch == 2


def test_a_hold_that_was_renewed_since_it_was_read_is_not_taken(
    store_factory: Backend, hubs: tuple[Store, Store]
) -> None:
    holder, other = hubs
    later(store_factory, -HOUR)
    watched = other.read_head().renewal
    holder.renew_lease(10)
    with pytest.raises(LeaseHeld):
        other.take_lease("hub-b", ttl_s=10, unless_renewed=watched)
    assert holder.commit([move(to=2, generation=2)], key="key-0002").rev == 2


def standby(store: Store, clock: Callable[[], float]) -> Standby:
    """A hub that stands by and looks at the database when it is told to."""
    return Standby(cast(Any, SimpleNamespace(now=lambda look: look(store))), "hub-b", "", clock)


def test_a_hub_that_stands_by_takes_over_in_the_time_of_a_lease_where_the_databases_clock_is_an_hour_behind(
    store_factory: Backend, hubs: tuple[Store, Store]
) -> None:
    holder, other = hubs
    holder.renew_lease(TTL_S)
    now = [0.0]
    waiting = standby(other, lambda: now[0])
    later(store_factory, -HOUR)
    with pytest.raises(LeaseHeld) as caught:
        waiting.take()
    assert caught.value.remaining_s == pytest.approx(TTL_S)
    holder.renew_lease(TTL_S)  # it lives: what was watched before counts for nothing
    now[0] = 3.0
    with pytest.raises(LeaseHeld):
        waiting.take()
    now[0] = 3.0 + TTL_S - 0.1
    with pytest.raises(LeaseHeld):
        waiting.take()
    assert waiting.unrenewed_s == pytest.approx(TTL_S - 0.1)
    now[0] = 3.0 + TTL_S
    taken = waiting.take()
    assert taken.log.state.epoch == 2
    assert not taken.settles
    with pytest.raises(LeaseLost):
        holder.renew_lease(TTL_S)


def test_a_hub_that_stands_by_leaves_a_lease_that_is_renewed_however_far_ahead_the_databases_clock_is(
    store_factory: Backend, hubs: tuple[Store, Store]
) -> None:
    holder, other = hubs
    now = [0.0]
    waiting = standby(other, lambda: now[0])
    for second in range(60):
        now[0] = second
        later(store_factory, second * HOUR)
        holder.renew_lease(TTL_S)
        with pytest.raises(LeaseHeld):
            waiting.take()


def test_a_hub_that_waits_reads_who_holds_the_lease_and_follows_the_log(
    store_factory: Backend, hubs: tuple[Store, Store]
) -> None:
    holder, other = hubs
    later(store_factory, 2.5)
    head = other.read_head()
    assert (head.lease.name, head.lease.address, head.lease.epoch) == ("hub-a", ADDRESS, 1)
    assert (head.is_held, head.remaining_s, head.rev) == (True, 7.5, 1)
    assert (head.hash, head.log) == (holder.snapshot().hash, holder.snapshot().log)
    more = holder.commit([move(to=2, generation=2)], key="key-0002")
    assert other.since(head.rev) == more.events
    later(store_factory, 60)
    assert not other.read_head().is_held


def test_a_recovery_keeps_where_the_holder_is_and_how_long_it_holds(
    store_factory: Backend, hubs: tuple[Store, Store]
) -> None:
    holder, other = hubs
    later(store_factory, 5)
    holder.adopt([move(generation=5, kind=EventKind.RECOVER, expected=None)], epoch_above=7, key="key-0002")
    head = other.read_head()
    assert (head.lease.epoch, head.lease.address, head.remaining_s) == (8, ADDRESS, 10.0)


def test_waiting_for_a_change_ends(hubs: tuple[Store, Store]) -> None:
    assert hubs[1].wait_for_change(0.01) in (True, False)


def test_a_lease_that_was_never_taken_is_held_by_nobody(store_factory: Backend) -> None:
    head = store_factory.open(lease=False).read_head()
    assert (head.is_held, head.lease.epoch, head.rev) == (False, 0, 0)
