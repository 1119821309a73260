"""When a hub may take the lease, when it steps down, and when it need not wait for its nodes."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from loradeck.client.backoff import Backoff
from loradeck.rules.moves.lease import (
    LOOK_S,
    RENEW_S,
    TTL_S,
    Hold,
    Watched,
    left_s,
    must_step_down,
    needs_settling,
    next_look_s,
)

seconds = st.floats(0, 100)
holds = st.builds(Hold, log=st.sampled_from("ab"), epoch=st.integers(1, 2), incarnation=st.sampled_from("xy"))
looks = st.builds(Watched, hold=holds, rev=st.integers(0, 3))


@given(asked=seconds, delay=seconds, now=st.floats(0, 300))
def test_whenever_another_hub_may_take_the_lease_its_holder_has_stopped(asked: float, delay: float, now: float) -> None:
    """The database writes a renewal down after the holder has asked for it."""
    granted = asked + delay
    if now >= granted + TTL_S:
        assert must_step_down(now - asked + 1e-9, TTL_S)


@given(left=st.none() | st.floats(-10, 100))
def test_a_hub_that_stands_by_looks_when_the_lease_ends_and_often_before(left: float | None) -> None:
    assert 0 <= next_look_s(left) <= LOOK_S
    assert left is None or left < 0 or next_look_s(left) <= left


@given(by_database=seconds, unrenewed=seconds)
def test_a_lease_is_over_when_the_first_of_two_clocks_has_it_so(by_database: float, unrenewed: float) -> None:
    left = left_s(by_database, unrenewed)
    assert left is not None
    assert (left == 0) == (by_database == 0 or unrenewed >= TTL_S)
    assert left <= by_database


@given(unrenewed=seconds)
def test_a_lease_that_does_not_end_by_time_is_never_over(unrenewed: float) -> None:
    assert left_s(None, unrenewed) is None


def test_a_hub_that_renews_three_seconds_late_is_not_made_to_step_down() -> None:
    assert not must_step_down(RENEW_S + 2.9, TTL_S)
    built, linked = 0.5, Backoff().first
    assert TTL_S + LOOK_S + built + linked < 5  # the budget for a hub that was killed


@given(taken=looks)
def test_a_hub_that_has_not_stood_by_waits_for_its_nodes(taken: Watched) -> None:
    assert needs_settling(None, taken, follows=True)


@given(watched=looks, more=st.integers(0, 5))
def test_a_hub_that_watched_the_hold_before_its_own_need_not_wait(watched: Watched, more: int) -> None:
    assert not needs_settling(watched, replace(watched, rev=watched.rev + more), follows=True)


@given(watched=looks, taken=looks, follows=st.booleans())
def test_it_waits_where_anything_that_it_read_may_be_missing(watched: Watched, taken: Watched, follows: bool) -> None:
    if not needs_settling(watched, taken, follows=follows):
        assert follows
        assert taken.rev >= watched.rev
        assert taken.hold == watched.hold
