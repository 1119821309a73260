"""How routes get to other nodes: joined first, left when the others are ready, few at once."""

from __future__ import annotations

import pytest

from loradeck.rules.serving.reassignment import (
    A_COMMIT,
    AT_ONCE,
    LOADS_WITHIN_S,
    Standing,
    has_joined,
    step,
    steps,
    why,
)
from loradeck.schemas.replica_state import AckState


def standing(now: str, wanted: str, ready: str = "", lost: str = "") -> Standing:
    live = {*now, *wanted} - {*lost}
    return Standing(now=tuple(now), wanted=tuple(wanted), ready=set(ready), live=live)


@pytest.mark.parametrize(
    ("at", "after"),
    [
        (standing("a", "b", "a"), "ba"),  # b joins
        (standing("ba", "b", "a"), "ba"),  # and a serves until b is ready
        (standing("ba", "b", "ab"), "b"),
        (standing("a", "b", "", lost="a"), "ba"),  # a lost one stays in the count
        (standing("ba", "b", "b", lost="a"), "b"),
        (standing("ab", "a", "a"), "a"),  # it has come back, and b is not needed
        (standing("ab", "c", "", lost="a"), "cab"),  # b may be ready sooner
        (standing("ab", "ab", "a"), "ab"),
        (standing("ab", "ac", "ab"), "acb"),
        (standing("", "ab"), "ab"),
        (standing("ab", "", "a"), "ab"),  # the pool has no node: who serves goes on
    ],
)
def test_a_route_takes_one_step(at: Standing, after: str) -> None:
    assert step(at) == tuple(after)


def keys(count: int, first: str = "t") -> list[tuple[str, str]]:
    return [(f"{first}{n:04}", "production") for n in range(count)]


def test_few_move_at_once_and_those_that_lack_a_live_node_do_not_wait() -> None:
    routes = {key: standing("a", "b", "a") for key in keys(100)} | {
        key: standing("l", "b", lost="l") for key in keys(50, "lost")
    }
    first = steps(routes)
    assert list(first)[:50] == keys(50, "lost")
    assert len(first) == 50 + AT_ONCE
    moving = {key: standing("ba", "b", "a") if key in first else at for key, at in routes.items()}
    moving |= {key: standing("bl", "b", lost="l") for key in keys(50, "lost")}
    assert steps(moving) == {}
    arrived = {**moving, keys(1)[0]: standing("ba", "b", "ab")}
    assert steps(arrived) == {keys(1)[0]: ("b",)}


def test_one_commit_is_bounded() -> None:
    assert len(steps({key: standing("l", "b", lost="l") for key in keys(1000)})) == A_COMMIT


def test_a_step_says_why() -> None:
    lost = standing("a", "b", lost="a")
    assert why(lost, step(lost), {"a": "lost"}) == "b to serve it: a is lost"
    assert why(standing("ba", "b", "ab"), ("b",), {}) == "a to leave it: b ready"
    shared = standing("a", "b", "a")
    assert why(shared, step(shared), {}) == "b to serve it: the pool is shared out"


@pytest.mark.parametrize("state", AckState)
def test_a_node_has_joined_once_it_has_proven_and_on_demand_where_it_will_not_load_unasked(state: AckState) -> None:
    proven = state in (AckState.PROVEN, AckState.LISTED)
    assert has_joined(state, on_demand=False, free=0, flipped_s=1e9) is proven
    assert has_joined(state, on_demand=True, free=1, flipped_s=LOADS_WITHIN_S) is proven
    assert has_joined(state, on_demand=True, free=0, flipped_s=0)
    assert has_joined(state, on_demand=True, free=1, flipped_s=LOADS_WITHIN_S + 1)
