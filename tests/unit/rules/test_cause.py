"""Whose doing bad answers are: the first that has enough evidence decides, and no one tenant, node or caller does."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loradeck.rules.quality.cause import AFTER_MOVE_S, SETTLED_S, CallersShare, Window, decide, median_tenant
from loradeck.rules.quality.guard import Control
from loradeck.schemas.flag import FlagCause

GOOD, BAD = (2, 200), (60, 200)
WELL = {"birch": GOOD, "cedar": GOOD, "elm": GOOD}
MANY_CALLERS = CallersShare(dict.fromkeys(range(20), (3, 10)), BAD)
SOON = Window(
    figure="bad",
    limit=0.02,
    by_node={"one": (30, 100), "two": (30, 100)},
    placed=("one", "two"),
    callers=MANY_CALLERS,
    neighbours={"one": WELL, "two": WELL},
    after_move_s=5.0,
)
"""A release is bad on both its nodes to all its callers seconds after its promote, and its neighbours are well."""


def everywhere(by_tenant: dict[str, tuple[int, int]]) -> dict[str, dict[str, tuple[int, int]]]:
    return {"one": by_tenant, "two": by_tenant}


def cause(window: Window) -> FlagCause:
    return decide(window).cause


def test_a_release_that_is_worse_than_its_neighbours_right_after_its_move_is_the_cause() -> None:
    assert cause(SOON) is FlagCause.RELEASE


@pytest.mark.parametrize("after", [None, AFTER_MOVE_S + 1, 7 * 86_400.0, -60.0])
def test_a_change_that_no_forward_move_has_brought_says_nothing_about_the_release(after: float | None) -> None:
    assert cause(replace(SOON, after_move_s=after)) is FlagCause.UNKNOWN


def test_the_concurrent_control_decides_before_all_others_also_for_one_caller_and_after_a_week() -> None:
    worse = Control(given=(30, 100), beside=(1, 100), worse=True)
    alone = CallersShare({7: BAD}, BAD)
    flooded = dict.fromkeys(("birch", "cedar", "elm"), (9000, 10_000))
    window = replace(SOON, control=worse, callers=alone, neighbours=everywhere(flooded), after_move_s=None)
    assert cause(window) is FlagCause.RELEASE


def test_a_release_that_one_node_alone_serves_is_the_cause_by_that_nodes_word() -> None:
    window = replace(SOON, by_node={"one": BAD}, placed=("one",))
    assert decide(window) == (FlagCause.RELEASE, "by one alone")


def test_where_the_release_beneath_does_no_better_on_the_same_it_is_what_is_asked() -> None:
    window = replace(SOON, control=Control(given=(30, 100), beside=(29, 100), worse=False))
    assert cause(window) is FlagCause.REQUESTS


def test_one_node_that_answers_badly_is_named_and_the_release_is_not() -> None:
    window = replace(SOON, by_node={"one": (60, 100), "two": (1, 100)})
    assert decide(window) == (FlagCause.NODE, "one")


def test_one_caller_with_nearly_all_bad_answers_is_named_and_the_release_is_not() -> None:
    window = replace(SOON, callers=CallersShare({3: (56, 60), 9: (2, 70), 11: (2, 70)}, (60, 400)))
    assert decide(window) == (FlagCause.CALLERS, "one caller makes 93% of 60 bad answers")


def test_a_caller_or_a_node_with_a_small_part_of_the_bad_answers_is_not_named_where_little_is_bad() -> None:
    """Without any one of them the share is no longer seen to be past the limit, since it is hardly past it at all."""
    callers = CallersShare(dict.fromkeys(range(10), (2, 50)), (20, 550))
    barely = replace(SOON, by_node={"one": (10, 275), "two": (10, 275)}, callers=callers)
    assert cause(barely) is FlagCause.UNKNOWN


def test_where_one_caller_asks_nearly_everything_nobody_can_say_whose_doing_it_is() -> None:
    assert cause(replace(SOON, callers=CallersShare({3: BAD}, BAD))) is FlagCause.UNKNOWN
    assert cause(replace(SOON, callers=None)) is FlagCause.UNKNOWN


def test_a_caller_of_sixty_per_cent_does_not_hide_a_release_that_is_bad_to_nineteen_others() -> None:
    callers = CallersShare({0: (36, 120)} | dict.fromkeys(range(1, 20), (1, 4)), BAD)
    assert cause(replace(SOON, callers=callers)) is FlagCause.RELEASE


def test_where_most_neighbours_are_as_bad_it_is_what_they_share() -> None:
    window = replace(SOON, neighbours=everywhere({"birch": BAD, "cedar": BAD, "elm": BAD, "fir": GOOD}))
    assert cause(window) is FlagCause.BASE
    here = replace(window, by_node={"one": BAD}, placed=("one",))
    assert decide(here) == (FlagCause.NODE, "one")


@pytest.mark.parametrize("flood", [(60, 100), (900_000, 1_000_000), (1_000_000, 1_000_000)])
def test_one_neighbour_that_floods_with_bad_answers_changes_nothing(flood: tuple[int, int]) -> None:
    assert cause(replace(SOON, neighbours=everywhere({**WELL, "flood": flood}))) is FlagCause.RELEASE
    assert (
        cause(replace(SOON, neighbours=everywhere({"birch": GOOD, "cedar": GOOD, "flood": flood}))) is FlagCause.RELEASE
    )


def test_one_neighbour_that_claims_good_answers_by_the_million_does_not_blame_a_release() -> None:
    window = replace(SOON, neighbours=everywhere({"birch": BAD, "cedar": BAD, "elm": BAD, "liar": (0, 10_000_000)}))
    assert cause(window) is FlagCause.BASE


def test_of_two_neighbours_that_contradict_each_other_neither_decides() -> None:
    assert cause(replace(SOON, neighbours=everywhere({"birch": GOOD, "flood": BAD}))) is FlagCause.UNKNOWN


def test_neighbours_and_nodes_that_have_not_reported_since_the_change_say_nothing() -> None:
    assert cause(replace(SOON, age_s=SETTLED_S - 1)) is FlagCause.UNKNOWN
    one_sided = {"one": (60, 100), "two": (1, 100)}
    assert cause(replace(SOON, age_s=SETTLED_S - 1, by_node=one_sided)) is FlagCause.UNKNOWN
    control = Control(given=(30, 100), beside=(1, 100), worse=True)
    assert cause(replace(SOON, age_s=0.0, control=control)) is FlagCause.RELEASE


def test_without_neighbours_and_without_a_control_the_cause_is_unknown() -> None:
    assert cause(replace(SOON, neighbours=everywhere({}))) is FlagCause.UNKNOWN
    assert cause(replace(SOON, neighbours=everywhere({"birch": (0, 3)}))) is FlagCause.UNKNOWN


@pytest.mark.parametrize("figure", ["errors", "overdue"])
def test_requests_that_fail_or_run_on_while_their_engines_are_away_are_the_engines_doing(figure: str) -> None:
    window = replace(SOON, figure=figure, away={"two.e0": (30, 100), "one.e0": (30, 100)})
    assert decide(window) == (FlagCause.ENGINE, "one.e0, two.e0")
    assert cause(replace(window, figure="bad")) is FlagCause.RELEASE
    assert cause(replace(window, away={"two.e0": (0, 2)})) is FlagCause.RELEASE, "the others fail as often"


def test_while_too_little_is_known_the_node_is_named_on_whose_word_alone_it_rests() -> None:
    early = replace(SOON, age_s=1.0)
    assert decide(early) == (FlagCause.UNKNOWN, ""), "both say so"
    assert decide(replace(early, by_node={"one": (60, 100), "two": (1, 100)})) == (FlagCause.UNKNOWN, "one")
    assert decide(replace(early, by_node={"one": (60, 100)})).who == "one", "the other has not said anything yet"
    assert decide(replace(early, by_node={"one": (60, 100)}, placed=("one",))).who == "", "nobody else serves it"


def test_tenants_with_few_answers_count_together_as_one() -> None:
    few = {f"t{n}": (0, 3) for n in range(40)}
    assert median_tenant(few, worst=True) == (0, 120)
    assert median_tenant({**few, "birch": BAD}, worst=True) == BAD
    assert median_tenant({**few, "birch": BAD}, worst=False) == (0, 120)


def test_no_node_by_itself_turns_a_bad_base_into_a_bad_release_or_the_other_way_round() -> None:
    bad, well = {"birch": BAD, "cedar": BAD, "elm": BAD}, {"birch": (0, 10**9), "cedar": (0, 10**9), "elm": (0, 10**9)}
    assert cause(replace(SOON, neighbours={"one": bad, "two": bad, "liar": well})) is not FlagCause.RELEASE
    all_bad = {"birch": (10**9, 10**9), "cedar": (10**9, 10**9), "elm": (10**9, 10**9)}
    assert cause(replace(SOON, neighbours={"one": WELL, "two": WELL, "liar": all_bad})) is not FlagCause.BASE
