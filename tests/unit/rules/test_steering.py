"""Which of several hubs a node follows, and which one is asked."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from loradeck.rules.moves.steering import Offer, next_asked, steering

offers = st.dictionaries(
    st.sampled_from(("a", "b", "c")),
    st.builds(Offer, epoch=st.integers(0, 3), proven=st.booleans(), active=st.booleans()),
    max_size=3,
)
hubs = st.none() | st.sampled_from(("a", "b", "c"))


@given(offers=offers, present=hubs)
def test_a_hub_that_has_proven_itself_is_followed_and_of_those_the_newest(
    offers: dict[str, Offer], present: str | None
) -> None:
    chosen = steering(offers, present)
    active = [offer for offer in offers.values() if offer.active]
    assert (chosen is None) == (not active)
    if chosen is not None:
        proven = [offer.epoch for offer in active if offer.proven]
        assert offers[chosen].active
        assert offers[chosen].proven == bool(proven)
        assert offers[chosen].epoch == max(proven or [offer.epoch for offer in active])


@given(offers=offers, present=hubs)
def test_the_choice_stays_as_long_as_nothing_is_better(offers: dict[str, Offer], present: str | None) -> None:
    chosen = steering(offers, present)
    assert steering(offers, chosen) == chosen
    assert steering(dict(reversed(offers.items())), chosen) == chosen


@given(said=st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 5)), max_size=8))
def test_a_node_whose_hubs_prove_themselves_never_goes_back_to_an_earlier_one(said: list[tuple[str, int]]) -> None:
    """Epochs of a hub only grow while it is linked."""
    known, present, followed = dict[str, Offer](), None, 0
    for hub, epoch in said:
        known[hub] = Offer(epoch=max(epoch, known[hub].epoch if hub in known else 0), proven=True)
        present = steering(known, present)
        assert present is not None
        assert known[present].epoch >= followed
        followed = known[present].epoch


several = st.lists(st.sampled_from("abcd"), min_size=1, max_size=4, unique=True)


@given(hubs=several, named=st.none() | st.sampled_from("abcdxy"), data=st.data())
def test_only_a_hub_that_the_caller_was_given_is_asked(hubs: list[str], named: str | None, data: st.DataObject) -> None:
    asked = data.draw(st.sampled_from(hubs))
    found = next_asked(hubs, asked, named)
    assert found in hubs
    if named in hubs and named != asked:
        assert found == named


@given(hubs=several)
def test_where_none_is_named_each_is_asked_in_its_turn(hubs: list[str]) -> None:
    asked = [hubs[0]]
    while len(asked) < len(hubs):
        asked.append(next_asked(hubs, asked[-1], None))
    assert sorted(asked) == sorted(hubs)
    assert next_asked(hubs, asked[-1], None) == hubs[0]
