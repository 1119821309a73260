"""A gateway sends the highest fence it knows, and a router that holds less does not answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loradeck.rules.serving.gateway import RETRIED, WAIT_S, FenceVerdict, highest, next_node, standing
from loradeck.schemas.ids import Fence

fences = st.tuples(st.integers(0, 4), st.integers(0, 4))
shown = st.lists(fences, max_size=4)


@given(told=st.none() | fences, epoch=st.integers(0, 4), shown=shown)
def test_the_fence_sent_is_at_least_that_of_its_own_table_and_of_every_router_of_its_epoch(
    told: Fence | None, epoch: int, shown: list[Fence]
) -> None:
    sent = highest(told, epoch, shown)
    for fence in ([told] if told is not None else []) + [fence for fence in shown if fence[0] >= epoch]:
        assert sent is not None
        assert sent >= fence
    assert sent is None or sent == told or sent in shown


@given(told=fences, shown=shown, later=st.integers(5, 9))
def test_what_was_shown_before_a_later_hub_gave_its_table_counts_no_more(
    told: Fence, shown: list[Fence], later: int
) -> None:
    """A log was restored: the moves that it lost are held by nobody, or by nodes that get no callers."""
    assert highest(told, later, shown) == told


@given(held=st.none() | fences, seen=fences, waited=st.floats(0, 3))
def test_a_router_answers_only_by_a_move_that_is_not_older(held: Fence | None, seen: Fence, waited: float) -> None:
    decided = standing(held, seen, waited)
    assert (decided is FenceVerdict.ADMIT) == (held is not None and held >= seen)
    assert decided is not FenceVerdict.WAIT or waited < WAIT_S


@pytest.mark.parametrize(
    ("tried", "refusal", "begun", "chosen"),
    [
        ((), None, False, "n0"),
        (("n0",), None, False, "n1"),
        (("n0",), "behind", False, "n1"),
        (("n0",), "behind", True, None),  # a second answer must not begin beside the first
        (("n0",), None, True, None),
        (("n0",), "suspended", False, None),  # every node says the same
        (("n0", "n1"), "behind", False, None),
    ],
)
def test_another_node_is_asked_only_where_nothing_was_answered_yet(
    tried: tuple[str, ...], refusal: str | None, begun: bool, chosen: str | None
) -> None:
    assert next_node(("n0", "n1"), tried, refusal=refusal, begun=begun) == chosen


@given(refusal=st.sampled_from(sorted(RETRIED)), tried=st.sets(st.sampled_from(["n0", "n1", "n2"])))
def test_no_node_is_asked_twice_for_one_request(refusal: str, tried: set[str]) -> None:
    assert next_node(("n0", "n1", "n2"), tried, refusal=refusal, begun=False) not in tried
