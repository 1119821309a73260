"""What a console is owed: rows that moved at once, figures of the rows it shows, events without a gap."""

from __future__ import annotations

import pytest
from tests.fleets.in_process.log import Acme

from loradeck.hub.access.auth import Caller
from loradeck.hub.log.changes import OWED_EVENTS, STATUS_EVERY, Changes, Subscriber
from loradeck.hub.log.log import Published
from loradeck.rules.moves.fold import FoldedLog
from loradeck.schemas.ids import Role

A, B, C = ("acme", "production"), ("acme", "staging"), ("bolt", "production")


@pytest.fixture
def state() -> FoldedLog:
    state = FoldedLog()
    state.rev = 7
    return state


@pytest.fixture
def acme() -> Acme:
    return Acme()


@pytest.fixture
def changes(state: FoldedLog) -> Changes:
    return Changes(state)


def subscribe(changes: Changes, token: str | None = None) -> Subscriber:
    """A console that has been handed all it was owed."""
    subscriber = Subscriber(Caller(actor="ann", role=Role.OPERATOR, token=token))
    changes.subscribers.add(subscriber)
    return handed(subscriber)


def handed(subscriber: Subscriber) -> Subscriber:
    subscriber.wake.clear()
    subscriber.status = False
    for owed in (subscriber.events, subscriber.tenants, subscriber.nodes, subscriber.jobs):
        owed.clear()
    return subscriber


def test_a_new_console_is_owed_the_status_and_is_awake(changes: Changes) -> None:
    subscriber = Subscriber(Caller(actor="ann", role=Role.OPERATOR))
    assert (subscriber.status, subscriber.wake.is_set(), subscriber.reset) == (True, True, None)
    assert (subscriber.shown, subscriber.shown_nodes) == (None, None), "all rows"


def test_a_commit_is_owed_to_everybody_at_once_with_its_events_and_its_rows(changes: Changes, acme: Acme) -> None:
    one, other = subscribe(changes), subscribe(changes)
    one.shown = frozenset({C})
    changes.texts = {A: "text", B: "text"}
    event = acme.promote("v1")
    changes.committed(Published([event], [A], []))
    for subscriber in (one, other):
        assert (list(subscriber.events), list(subscriber.tenants)) == ([event], [A])
        assert subscriber.wake.is_set()
    assert changes.texts == {B: "text"}, "the row's text is out of date"
    assert changes.touched == {A: (7, 1)}
    changes.now([B])
    assert changes.touched == {A: (7, 1), B: (7, 2)}
    assert list(one.tenants) == [A, B]


@pytest.mark.parametrize(("behind", "reset"), [(OWED_EVENTS, False), (OWED_EVENTS + 1, True)])
def test_a_console_that_is_too_far_behind_with_events_has_to_list_again(
    changes: Changes, acme: Acme, behind: int, reset: bool
) -> None:
    subscriber = subscribe(changes)
    event = acme.promote("v1")
    subscriber.owe_events([event] * (behind - 1))
    assert subscriber.reset is None
    subscriber.owe_events([event])
    assert (subscriber.reset is not None) is reset
    assert len(subscriber.events) == behind


async def test_figures_are_owed_with_the_tick_to_those_who_show_the_row(changes: Changes) -> None:
    everything, one = subscribe(changes), subscribe(changes)
    one.shown = frozenset({A})
    changes.soon([A, B])
    assert not everything.tenants
    assert changes.figured == {A: (7, 1), B: (7, 1)}
    assert changes.touched == {}
    changes.texts = {C: "text"}
    await changes.tick()
    assert (list(everything.tenants), list(one.tenants)) == ([A, B], [A])
    assert everything.wake.is_set()
    assert changes.texts == {}, "ages in them have gone on"
    handed(everything)
    await changes.tick()
    assert not everything.tenants, "once"


async def test_flags_are_owed_with_the_tick_to_everybody(changes: Changes) -> None:
    one = subscribe(changes)
    one.shown = frozenset({A})
    changes.soon_for_all([B])
    assert (changes.touched, changes.figured) == ({B: (7, 1)}, {})
    await changes.tick()
    assert list(one.tenants) == [B]
    handed(one)
    await changes.tick()
    assert not one.tenants


async def test_a_node_is_owed_to_everybody_and_its_figures_to_those_who_show_it(changes: Changes) -> None:
    one = subscribe(changes)
    one.shown_nodes = frozenset({"n1"})
    changes.node("n2")
    changes.node_figures("n1")
    changes.node_figures("n3")
    assert not one.nodes
    assert (changes.touched_nodes, changes.figured_nodes) == ({"n2": (7, 1)}, {"n1": (7, 2), "n3": (7, 3)})
    await changes.tick()
    assert set(one.nodes) == {"n1", "n2"}
    handed(one)
    await changes.tick()
    assert not one.nodes


async def test_what_was_only_figures_before_its_cursor_is_owed_once_it_is_known_what_it_shows(changes: Changes) -> None:
    one = subscribe(changes)
    one.figured = ({A: None, B: None}, {"n1": None, "n2": None})
    one.shown, one.shown_nodes = frozenset({A}), frozenset({"n2"})
    await changes.tick()
    assert (list(one.tenants), list(one.nodes)) == ([A], ["n2"])
    handed(one)
    await changes.tick()
    assert (list(one.tenants), list(one.nodes)) == ([], [])


async def test_the_status_is_owed_with_every_second_tick_and_at_once_when_it_changed(changes: Changes) -> None:
    one = subscribe(changes)
    seen = []
    for _ in range(2 * STATUS_EVERY):
        handed(one)
        await changes.tick()
        seen.append(one.status)
    assert seen == [False, True, False, True]
    handed(one)
    changes.status()
    assert (one.status, one.wake.is_set()) == (True, True)


def test_a_job_is_owed_to_everybody_at_once(changes: Changes) -> None:
    one = subscribe(changes)
    changes.job("job-1")
    assert (list(one.jobs), one.wake.is_set()) == (["job-1"], True)


def test_a_withdrawn_token_ends_the_subscriptions_that_were_opened_with_it(changes: Changes) -> None:
    one, other, local = subscribe(changes, "t1"), subscribe(changes, "t2"), subscribe(changes)
    changes.revoked("t1")
    assert one.reset == "the token was withdrawn"
    assert one.wake.is_set()
    assert (other.reset, local.reset) == (None, None)
