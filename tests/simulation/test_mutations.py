"""Planted mistakes in the product, each found by the simulation within a few hundred seeds."""

from __future__ import annotations

import pytest
from tests.simulation.in_a_process import simulate

FIRST_SEEDS = {
    "two-leases": 2,
    "fleet-fence": 5,
    "early-acknowledgement": 14,
    "ignored-gap": 72,
    "switch-fence": 357,
    "forgotten-tombstone": 464,
    "widening-moves-people": 0,
    "kept-candidate": 0,
    "endless-lease": 53,
    "overlooked-witness": 406,
    "everything-held": 406,
    "believed-hello": 59,
    "unread-hello": 66,
    "left-count": 20,
}
"""Planted mistake -> the first seed that notices it. A change of the product may move it: the next ones are tried."""


@pytest.mark.parametrize("mutation", FIRST_SEEDS)
def test_a_planted_mistake_is_found(mutation: str) -> None:
    first = FIRST_SEEDS[mutation]
    found = simulate("--seeds", f"{first}:{first + 500}", "--stop", "--mutation", mutation, status=1)
    assert len(found["found"]) == 1


def test_no_mistake_is_left_out() -> None:
    assert set(FIRST_SEEDS) == set(simulate("--seeds", "0:0")["mutations"])
