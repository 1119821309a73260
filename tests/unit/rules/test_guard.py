"""What guard does by itself, and everything that it never does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from loradeck.rules.quality.guard import (
    LATEST_S,
    NOTHING,
    Around,
    Control,
    Decision,
    Evidence,
    asked_again_until_ms,
    compared,
    decide,
)
from loradeck.rules.quality.move_budgets import MOST_AN_HOUR, GuardMove
from loradeck.schemas.log import EventKind
from loradeck.schemas.route import Guard

GOOD_BESIDE = Control((60, 200), (3, 210), worse=True)
BAD = Evidence(figure="bad", votes=(60, 200), control=GOOD_BESIDE, callers=24, nats=14.2)
AROUND = Around(since_move_s=60, settling=False, heard=1.0, neighbours={}, made=(), due=GuardMove("acme"))


def does(guard: Guard = Guard.ROLLBACK, *, evidence: Evidence = BAD, **around: Any) -> Decision:
    return decide(guard, evidence, replace(AROUND, **around))


def test_a_release_that_is_worse_than_the_one_beside_it_is_rolled_back() -> None:
    assert does() == Decision(Guard.ROLLBACK)


@pytest.mark.parametrize("callers", [1, 2, None])
def test_answers_to_the_same_requests_decide_whatever_the_number_of_callers(callers: int | None) -> None:
    paired = GOOD_BESIDE._replace(is_paired=True)
    assert does(evidence=replace(BAD, callers=callers, control=paired)) == Decision(Guard.ROLLBACK)


def test_evidence_of_what_nobody_gets_names_no_callers() -> None:
    assert str(replace(BAD, callers=None)) == "bad 30.0% of 200 votes, beside it 1.4% of 210"


def test_a_guard_does_no_more_than_its_route_has_chosen() -> None:
    assert does(Guard.OFF) is NOTHING
    assert does(Guard.ALERT).act is Guard.ALERT
    assert does(Guard.HOLD).act is Guard.HOLD
    assert does(Guard.ALERT, evidence=replace(BAD, control=None)).act is Guard.ALERT


def test_guard_does_nothing_while_the_hub_settles() -> None:
    assert does(settling=True) is NOTHING


@pytest.mark.parametrize(
    ("around", "why"),
    [
        ({"since_move_s": LATEST_S + 1}, "live for a day"),
        ({"heard": 0.5}, "half of its replicas"),
    ],
)
def test_guard_only_alerts_where_going_back_may_change_nothing(around: dict[str, Any], why: str) -> None:
    decision = does(**around)
    assert decision.act is Guard.ALERT
    assert why in decision.why


def test_guard_only_alerts_on_the_word_of_one_node() -> None:
    assert does(evidence=replace(BAD, alone="gpu-04")) == Decision(Guard.ALERT, "gpu-04 alone says so")


@pytest.mark.parametrize(
    ("evidence", "around", "why"),
    [
        ({"callers": 2}, {}, "only 2 callers"),
        ({"control": None}, {}, "nothing answers beside it"),
        ({"control": Control((60, 200), (50, 200), worse=False)}, {}, "not seen to be worse"),
        ({"control": Control((60, 200), (3, 210), worse=False, alone="gpu-04")}, {}, "but by the word of gpu-04"),
        ({}, {"made": [GuardMove("acme")] * MOST_AN_HOUR}, "within the hour"),
        ({}, {"asks": "not soaked"}, "R would ask: not soaked"),
    ],
)
def test_guard_only_holds_where_a_person_has_to_look(
    evidence: dict[str, Any], around: dict[str, Any], why: str
) -> None:
    decision = does(evidence=replace(BAD, **evidence), **around)
    assert decision.act is Guard.HOLD
    assert why in decision.why


AS_BAD = {"n1": dict.fromkeys(("beta", "gamma", "delta"), (90, 300))}


def test_neighbours_stop_no_guard_whose_release_is_worse_than_what_answers_beside_it() -> None:
    assert does(neighbours=AS_BAD) == Decision(Guard.ROLLBACK)


@pytest.mark.parametrize("control", [None, Control((60, 200), (50, 200), worse=False)])
def test_where_neighbours_are_as_bad_guard_holds_and_says_what_they_share(control: Control | None) -> None:
    decision = does(evidence=replace(BAD, control=control), neighbours=AS_BAD, shared="their base")
    assert decision == Decision(Guard.HOLD, "its neighbours are as bad: their base")


def test_the_evidence_reads_as_votes_of_callers() -> None:
    assert str(BAD) == "bad 30.0% of 200 votes of 24 callers, beside it 1.4% of 210"


def test_a_release_is_worse_where_the_intervals_of_both_lie_apart() -> None:
    for given, beside, worse in (
        ((60, 200), (3, 210), True),
        ((60, 200), (50, 200), False),
        ((6, 20), (0, 20), False),  # too few to say
        ((200, 200), (200, 200), False),
    ):
        control = compared({"one": (given, beside)}, ["one"])
        assert control is not None
        assert (control.given, control.beside, control.worse) == (given, beside, worse), given


def test_nothing_is_compared_where_nothing_has_answered_beside_it() -> None:
    assert compared({}, ["one"]) is None
    assert compared({"one": ((60, 200), (0, 0))}, ["one"]) is None


@pytest.mark.parametrize(
    ("liar", "alone"),
    [
        (((90, 100), (0, 100)), "liar"),  # it makes the release bad, or what is beside it good: both count for nothing
        (((100, 100), (0, 5000)), "liar"),
    ],
)
def test_no_release_is_worse_by_the_word_of_one_node_against_the_others(liar: Any, alone: str) -> None:
    alike = ((5, 100), (5, 100))
    control = compared({"one": alike, "two": alike, "liar": liar}, ["one", "two", "liar"])
    assert control is not None
    assert (control.worse, control.alone) == (False, alone)


def test_one_nodes_word_counts_for_a_pointer_that_is_placed_there_alone() -> None:
    arms = ((60, 200), (3, 200))
    alone, one_of_two = compared({"one": arms}, ["one"]), compared({"one": arms}, ["one", "two"])
    assert alone is not None
    assert one_of_two is not None
    assert (alone.worse, alone.alone) == (True, "one"), "its budget is charged with it"
    assert (one_of_two.worse, one_of_two.alone) == (False, "one")


def test_nodes_that_agree_need_no_one_of_them() -> None:
    arms = ((30, 100), (1, 100))
    control = compared({"one": arms, "two": arms}, ["one", "two"])
    assert control is not None
    assert (control.worse, control.alone) == (True, "")


def test_requests_are_asked_again_for_a_day_after_a_forward_move_where_guard_may_act() -> None:
    def until(guard: Guard, last: EventKind | None, *, moved_ms: int | None = 5, candidate: bool = False) -> int | None:
        return asked_again_until_ms(guard, last, moved_ms, candidate=candidate)

    day = 5 + 24 * 3600 * 1000
    assert until(Guard.ROLLBACK, EventKind.PROMOTE) == until(Guard.HOLD, EventKind.CANDIDATE_FINISH) == day
    for guard in (Guard.OFF, Guard.ALERT):
        assert until(guard, EventKind.PROMOTE) is None
    for last in (EventKind.ROLLBACK, EventKind.UNDO, EventKind.REWIND, EventKind.FALLBACK, None):
        assert until(Guard.ROLLBACK, last) is None
    assert until(Guard.ROLLBACK, EventKind.CANDIDATE_START, candidate=True) is None
    assert until(Guard.ROLLBACK, EventKind.PROMOTE, moved_ms=None) is None
