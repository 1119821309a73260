"""A gateway sends the highest fence it knows, and a router that holds less does not answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loradeck.rules.serving.gateway import (
    LONGEST_REST_S,
    NEARNESS,
    REST_S,
    RETRIED,
    STALL_S,
    WAIT_S,
    FenceVerdict,
    followed,
    highest,
    is_stalled,
    next_node,
    ranked,
    rest_s,
    standing,
)
from loradeck.schemas.ids import Fence
from loradeck.schemas.replica_state import AckLevel

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


def test_a_node_that_is_named_as_serving_is_asked_next_if_a_hub_has_told_its_address() -> None:
    known = ("n1", "n2", "n3")
    assert followed(["n1", "n2"], ["n3", "n3", "stranger"], known) == ["n3", "n1", "n2"]
    assert followed(["n1", "n2"], ["n2", "n1"], known) == ["n2", "n1"]
    assert followed(["n1"], [], known) == ["n1"]


names = st.sampled_from(["n0", "n1", "n2", "n3"])


@given(
    nodes=st.dictionaries(names, st.sampled_from(NEARNESS)),
    under_way=st.dictionaries(names, st.integers(0, 40)),
    avoided=st.sets(names),
    prompt=st.binary(max_size=8),
)
def test_every_node_is_in_the_order_once_and_nearer_ones_come_before_farther_ones_but_for_those_that_fail(
    nodes: dict[str, AckLevel], under_way: dict[str, int], avoided: set[str], prompt: bytes
) -> None:
    order = ranked(nodes, under_way, avoided, prompt)
    assert sorted(order) == sorted(nodes)
    places = [(name in avoided, NEARNESS.index(nodes[name])) for name in order]
    assert places == sorted(places)
    assert ranked(nodes, under_way, avoided, prompt) == order


def test_the_same_beginning_meets_the_same_node_and_others_are_spread() -> None:
    nodes = dict.fromkeys(["n0", "n1", "n2", "n3"], AckLevel.DEVICE)
    first = [ranked(nodes, {}, (), f"prompt {n}".encode())[0] for n in range(400)]
    assert {name: 60 < first.count(name) < 140 for name in nodes} == dict.fromkeys(nodes, True)
    without = {name: level for name, level in nodes.items() if name != "n3"}
    again = [ranked(without, {}, (), f"prompt {n}".encode())[0] for n in range(400)]
    assert all(now == then for now, then in zip(again, first, strict=True) if then != "n3")


def test_a_node_with_more_than_its_share_is_passed_over_until_the_others_have_theirs() -> None:
    nodes = dict.fromkeys(["n0", "n1", "n2"], AckLevel.HOST)
    under_way = dict.fromkeys(nodes, 0)
    for _ in range(300):  # all of them begin alike
        under_way[ranked(nodes, under_way, (), b"system prompt")[0]] += 1
    assert max(under_way.values()) <= 126  # 1.25 times a third, and one
    assert ranked(nodes, {"n0": 9, "n1": 8, "n2": 0}, (), b"x")[0] == "n2"


def test_a_node_that_fails_rests_longer_each_time_and_one_that_stalls_until_it_goes_on() -> None:
    assert [rest_s(n) for n in (0, 1, 2, 3)] == [0.0, REST_S, 2 * REST_S, 4 * REST_S]
    assert rest_s(1000) == LONGEST_REST_S
    assert (is_stalled(1, STALL_S), is_stalled(0, STALL_S), is_stalled(1, STALL_S / 2)) == (True, False, False)
