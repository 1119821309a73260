"""From when on a hub that has started moves anything."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from loradeck.rules.moves.lease import settled
from loradeck.schemas.replica_state import LINK_TTL_S

counts = st.integers(0, 1000)
times = st.floats(0, 4 * LINK_TTL_S)


@given(awaited=counts, waited=times, data=st.data())
def test_it_waits_for_half_of_its_nodes_and_for_a_ttl_at_most(awaited: int, waited: float, data: st.DataObject) -> None:
    greeted = data.draw(st.integers(0, awaited))
    assert settled(awaited, greeted, waited) == (greeted >= awaited / 2 or waited >= LINK_TTL_S)


@given(awaited=counts, greeted=counts, waited=times, more=times)
def test_what_has_settled_stays_so(awaited: int, greeted: int, waited: float, more: float) -> None:
    if settled(awaited, greeted, waited):
        assert settled(awaited, greeted + 1, waited)
        assert settled(awaited, greeted, waited + more)


def test_a_hub_that_knows_no_nodes_waits_for_nobody() -> None:
    assert settled(0, 0, 0.0)
