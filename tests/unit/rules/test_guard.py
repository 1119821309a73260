"""What guard does by itself, and everything that it never does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from loradeck.rules.quality.guard import LATEST_S, MOST_AN_HOUR, NOTHING, Around, Decision, Evidence, decide
from loradeck.schemas.counts import NO_COUNTS, Counts
from loradeck.schemas.route import Guard

BAD = Evidence(figure="bad", votes=(60, 200), control=(3, 210), callers=24, nats=14.2)
AROUND = Around(since_move_s=60, settling=False, heard=1.0, neighbours=NO_COUNTS, moves=0)


def does(guard: Guard = Guard.ROLLBACK, *, evidence: Evidence = BAD, **around: Any) -> Decision:
    return decide(guard, evidence, replace(AROUND, **around))


def test_a_release_that_is_worse_than_the_one_beside_it_is_rolled_back() -> None:
    assert does() == Decision(Guard.ROLLBACK)


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
        ({"neighbours": Counts.over(finished=300, checked=300, bad=90)}, "neighbours"),
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
        ({"control": (50, 200)}, {}, "not worse"),
        ({}, {"moves": MOST_AN_HOUR}, "within the hour"),
        ({}, {"asks": "not soaked"}, "R would ask: not soaked"),
    ],
)
def test_guard_only_holds_where_a_person_has_to_look(
    evidence: dict[str, Any], around: dict[str, Any], why: str
) -> None:
    decision = does(evidence=replace(BAD, **evidence), **around)
    assert decision.act is Guard.HOLD
    assert why in decision.why


def test_good_neighbours_and_few_neighbours_hold_nothing_up() -> None:
    assert does(neighbours=Counts.over(finished=300, checked=300, bad=3)).act is Guard.ROLLBACK
    assert does(neighbours=Counts.over(finished=4, checked=4, bad=2)).act is Guard.ROLLBACK


def test_the_evidence_reads_as_votes_of_callers() -> None:
    assert str(BAD) == "bad 30.0% of 200 votes of 24 callers, beside it 1.4% of 210"
