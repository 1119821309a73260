"""One link a name: the old one is challenged, a dead one is replaced, and of two that live neither counts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from loradeck.rules.serving.one_link import CHALLENGE_S, Linked, who_counts
from loradeck.schemas.replica_state import LINK_TTL_S

times = st.none() | st.floats(0, 20)
links = st.lists(st.builds(Linked, st.sampled_from("ab"), times, st.booleans()), min_size=1, max_size=4)


def test_an_old_link_counts_for_two_seconds_after_its_challenge_and_then_the_new_one_does() -> None:
    both = [Linked("a", asked=10.0), Linked("b")]
    assert who_counts(both, 0, 10.0 + CHALLENGE_S - 0.1) == (0, frozenset())
    assert who_counts(both, 0, 10.0 + CHALLENGE_S) == (1, frozenset({0}))


def test_an_agent_that_comes_back_counts_at_once_by_its_new_link() -> None:
    assert who_counts([Linked("a", asked=10.0), Linked("a")], 0, 10.0) == (1, frozenset())


def test_of_two_that_have_answered_neither_counts_whoever_they_say_to_be() -> None:
    for boot in "ab":
        assert who_counts([Linked("a", proved=True), Linked(boot)], 0, 0.0) == (None, frozenset())


def test_a_challenge_that_is_asked_again_ends_no_contest_before_the_ttl() -> None:
    both = [Linked("a", asked=10.0, proved=True), Linked("b", proved=True)]
    assert who_counts(both, None, 10.0 + LINK_TTL_S - 0.1) == (None, frozenset())
    assert who_counts(both, None, 10.0 + LINK_TTL_S) == (1, frozenset({0}))


@given(links, st.floats(0, 40), st.data())
def test_only_a_link_that_is_not_dead_counts_and_none_beside_another_that_has_answered(
    given_: list[Linked], now: float, data: st.DataObject
) -> None:
    present = data.draw(st.none() | st.integers(0, len(given_) - 1))
    counts, dead = who_counts(given_, present, now)
    alive = [place for place, link in enumerate(given_) if link.asked is None]
    assert dead.isdisjoint(alive), "who has answered is never replaced"
    assert counts not in dead
    assert len(alive) < 2 or counts is None
    if counts is not None and counts != present:
        left = set(range(len(given_))) - dead
        assert left == {counts} or {given_[place].boot for place in left} == {given_[counts].boot}


@given(links)
def test_every_wait_ends_with_the_ttl(given_: list[Linked]) -> None:
    counts, dead = who_counts(given_, None, 20.0 + LINK_TTL_S)
    alive = [place for place, link in enumerate(given_) if link.asked is None]
    assert len(dead) == len(given_) - len(alive)
    assert counts == (alive[0] if len(alive) == 1 else None)


def test_the_link_that_counted_does_not_once_it_is_dead_and_two_are_left() -> None:
    three = [Linked("a", asked=10.0), Linked("b"), Linked("c", asked=12.0)]
    assert who_counts(three, 0, 10.0 + CHALLENGE_S) == (None, frozenset({0}))
