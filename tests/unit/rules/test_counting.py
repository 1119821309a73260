"""What counts, as which level, and until when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loradeck.rules.serving.counting import is_cold, may_answer, share
from loradeck.schemas.link import LINK_TTL_S, AckLevel, AckState

states = st.sampled_from([None, *AckState])


@given(state=states, flipped=st.booleans(), pinned=st.booleans())
def test_a_lost_node_is_neither_flipped_nor_proven_nor_listed_and_owes_nothing(
    state: AckState | None, flipped: bool, pinned: bool
) -> None:
    reachable, *counts = share(lost=True, state=state, flipped=flipped, pinned=pinned)
    is_flipped, proven, listed, _, owing_flip, owing_proof = counts
    assert not any((reachable, is_flipped, proven, listed, owing_flip, owing_proof))


@pytest.mark.parametrize(
    ("tombstone", "refuse_after", "unaddressed", "forgotten", "counts"),
    [
        (False, None, 1e9, False, True),  # it serves on without a hub, however long
        (True, None, 0.0, False, False),
        (False, None, 0.0, True, False),
        (False, 30.0, 30.0, False, True),  # the hub's last message may have been one TTL on its way
        (False, 30.0, 30.0 + LINK_TTL_S, False, False),
        (False, 0.0, 0.0, False, True),
    ],
)
def test_a_replica_leaves_the_count_by_tombstone_refuse_after_or_being_forgotten_only(
    tombstone: bool, refuse_after: float | None, unaddressed: float, forgotten: bool, counts: bool
) -> None:
    found = may_answer(
        tombstone_acknowledged=tombstone,
        refuse_after_s=refuse_after,
        unaddressed_s=unaddressed,
        forgotten=forgotten,
    )
    assert found is counts


def test_a_release_on_the_disk_only_or_absent_is_cold() -> None:
    cold = {level for level in (None, *AckLevel) if is_cold(level)}
    assert cold == {AckLevel.DISK, AckLevel.ABSENT}
