"""A hub that has folded more than its database holds says so when it takes the lease, on every backend."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.contract.store.conftest import Backend
from tests.contract.store.drafts import move

from loradeck.hub.log.takeover import Standby
from loradeck.schemas.log import EventKind
from loradeck.store.interface import LeaseHeld
from loradeck.store.sql_log import Store

START = 1_700_000_000_000


class Pair:
    """A hub that commits and one that stands by, over a database of which an older copy can be put back."""

    def __init__(self, backend: Backend, folder: Path) -> None:
        self.backend, self.copy = backend, folder / "copy.db"
        backend.set_clock(START)
        self.holder, self.other = backend.two_hubs()
        self.holder.take_lease("hub-a", ttl_s=10)
        self.standby = self.standing_by()

    def standing_by(self, **more: Any) -> Standby:
        thread = SimpleNamespace(now=lambda look: look(self.other))
        return Standby(cast(Any, thread), "hub-b", "", lambda: 0.0, **more)

    def look(self) -> None:
        with pytest.raises(LeaseHeld):
            self.standby.take()

    def commit(self, generation: int, store: Store | None = None, **more: Any) -> None:
        (store or self.holder).commit([move(to=generation, generation=generation, **more)], key=f"key-{generation:04}")

    def keep(self) -> None:
        self.holder.backup(str(self.copy))

    def put_back(self) -> None:
        """The copy is the database now, and whoever held its lease is gone."""
        self.backend.close()
        self.backend.restore(self.copy)
        self.backend.set_clock(START + 60_000)
        self.holder, self.other = self.backend.two_hubs()


@pytest.fixture
def pair(store_factory: Backend, tmp_path: Path) -> Pair:
    return Pair(store_factory, tmp_path)


def test_a_standby_that_has_folded_more_than_the_database_holds_keeps_it_as_proof(pair: Pair) -> None:
    pair.commit(1)
    pair.keep()
    pair.commit(2, reason="the second")
    pair.commit(3, kind=EventKind.ROLLBACK)
    pair.look()
    pair.put_back()
    hold = pair.standby.take()
    ((proof,), state) = hold.lost, hold.log.state
    assert (proof.tail.hub, proof.tail.rev, proof.tail.kept_rev, state.rev) == ("hub-b", 3, 1, 1)
    said = [(event.rev, event.kind, event.actor, event.reason) for event in proof.tail.events]
    assert said == [(2, EventKind.PROMOTE, "ann", "the second"), (3, EventKind.ROLLBACK, "ann", "")]
    assert state.epoch > proof.tail.epoch, "no number stands for two moves"
    assert hold.settles


def test_a_fork_at_the_same_rev_is_a_lost_tail(pair: Pair) -> None:
    pair.commit(1)
    pair.keep()
    pair.commit(2)
    pair.look()
    pair.put_back()
    pair.holder.take_lease("hub-c", ttl_s=10)
    pair.commit(2, reason="of another hub")
    pair.look()
    pair.backend.set_clock(START + 120_000)
    hold = pair.standby.take()
    (proof,) = hold.lost
    assert (proof.tail.rev, proof.tail.kept_rev, hold.log.state.rev) == (2, 1, 2)
    assert [event.reason for event in proof.tail.events] == [""]


def test_a_hub_that_gave_up_the_lease_and_takes_it_again_has_its_fold_as_proof(pair: Pair) -> None:
    pair.backend.set_clock(START + 60_000)
    hold = pair.standby.take()
    pair.commit(1, pair.other)
    pair.other.backup(str(pair.copy))
    hold.log.catch_up(pair.other)
    pair.commit(2, pair.other)
    hold.log.catch_up(pair.other)
    earlier = hold.log.fold("hub-b")
    pair.put_back()
    pair.standby = pair.standing_by(proofs=(earlier,))
    pair.backend.set_clock(START + 180_000)
    (proof,) = pair.standby.take().lost
    assert (proof.tail.rev, proof.tail.kept_rev) == (2, 1)


def test_a_database_that_holds_all_that_was_folded_has_lost_nothing(pair: Pair) -> None:
    pair.commit(1)
    pair.look()
    pair.commit(2)
    pair.backend.set_clock(START + 60_000)
    assert pair.standby.take().lost == ()


def test_a_tail_that_has_come_back_is_not_lost(pair: Pair, tmp_path: Path) -> None:
    pair.commit(1)
    pair.keep()
    pair.commit(2)
    pair.look()
    older, pair.copy = pair.copy, tmp_path / "newer.db"
    pair.keep()
    newer, pair.copy = pair.copy, older
    pair.put_back()
    pair.holder.take_lease("hub-c", ttl_s=10)
    pair.look()
    assert [proof.tail.rev for proof in pair.standby.lost] == [2]
    pair.copy = newer
    pair.put_back()
    pair.backend.set_clock(START + 180_000)
    assert pair.standby.take().lost == ()
