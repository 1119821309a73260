"""Following a hub's log: which positions a node may go on to, and which entries may come with them."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from loradeck.rules.moves.steering import flaw, foreign, obeys
from loradeck.schemas.link import Bookmark
from loradeck.schemas.position import Position

POSITIONS = st.builds(
    Position,
    log=st.sampled_from("lm"),
    incarnation=st.sampled_from("ij"),
    epoch=st.integers(1, 3),
    rev=st.integers(0, 3),
    hash=st.sampled_from(("a" * 64, "b" * 64)),
)


def said(position: Position) -> Bookmark:
    return Bookmark(epoch=position.epoch, rev=position.rev, hash=position.hash, position=position)


@given(st.lists(POSITIONS, max_size=12))
def test_within_an_epoch_a_node_follows_one_hub_of_one_log_and_one_history(offered: list[Position]) -> None:
    held, followed = None, list[Position]()
    for position in offered:
        if not flaw(said(position), held):
            held = position
            followed.append(position)
    for one, next_ in pairwise(followed):
        if one.epoch == next_.epoch:
            assert (one.log, one.incarnation) == (next_.log, next_.incarnation)
            assert one.rev != next_.rev or one.hash == next_.hash


@given(POSITIONS, POSITIONS)
def test_a_new_epoch_may_be_of_any_hub_that_the_node_has_chosen(held: Position, position: Position) -> None:
    if position.epoch != held.epoch:
        assert not flaw(said(position), held)


@given(POSITIONS)
def test_a_message_without_a_position_or_with_that_of_another_event_is_refused(position: Position) -> None:
    assert flaw(said(position).model_copy(update={"position": None}), None)
    for wrong in ({"epoch": 9}, {"rev": 9}, {"hash": "c" * 64}):
        assert flaw(said(position).model_copy(update=wrong), None)


def test_nothing_is_foreign_where_a_hub_signs_nothing() -> None:
    assert foreign((), None) == []


@given(epochs=st.lists(st.integers(1, 5), max_size=8))
def test_a_node_that_has_obeyed_a_hub_obeys_none_before_it(epochs: list[int]) -> None:
    held, obeyed = 0, list[int]()
    for epoch in epochs:
        if obeys(epoch, held):
            held = epoch
            obeyed.append(epoch)
    assert obeyed == sorted(obeyed)


@given(held=st.integers(0, 5))
def test_orders_of_version_1_carry_no_epoch_and_are_obeyed(held: int) -> None:
    assert obeys(0, held)
