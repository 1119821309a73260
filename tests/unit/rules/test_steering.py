"""Which of several hubs a node follows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from loradeck.rules.moves.steering import Offer, steering

offers = st.dictionaries(
    st.sampled_from(("a", "b", "c")), st.builds(Offer, epoch=st.integers(0, 3), proven=st.booleans()), max_size=3
)
hubs = st.none() | st.sampled_from(("a", "b", "c"))


@given(offers=offers, present=hubs)
def test_a_hub_that_has_proven_itself_is_followed_and_of_those_the_newest(
    offers: dict[str, Offer], present: str | None
) -> None:
    chosen = steering(offers, present)
    assert (chosen is None) == (not offers)
    if chosen is not None:
        proven = [offer.epoch for offer in offers.values() if offer.proven]
        assert offers[chosen].proven == bool(proven)
        assert offers[chosen].epoch == max(proven or [offer.epoch for offer in offers.values()])


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
