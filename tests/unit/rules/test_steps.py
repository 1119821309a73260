"""Steps of a candidate on evidence: what is awaited, and what each step takes."""

from __future__ import annotations

from typing import Any

import pytest

from loradeck.rules.moves.candidate import FEWEST_KEYS
from loradeck.rules.quality.arm_comparison import NodeOutcomes, Outcomes
from loradeck.rules.quality.steps import FEWEST_OF_ARM, Around, Decision, decide, level, said
from loradeck.schemas.candidate import ArmsCompared, ArmShare, Candidate, Figure, StepPlan
from loradeck.schemas.counts import BINS

PLAN = StepPlan(steps=(50, 200, 1000), margin=0.02)
AROUND = Around(keys=1000, since_s=3600, heard=1.0, placed=frozenset({"n1", "n2"}))


def out(permille: int = 50, **plan: Any) -> Candidate:
    return Candidate(
        generation=3, permille=permille, salt="5a1c02b7", release="a" * 64, plan=PLAN.model_copy(update=plan)
    )


def arm(bad: int = 1, n: int = 100, keys: int = 60, failed: int = 0, nodes: tuple[str, ...] = ("n1", "n2")) -> Outcomes:
    """Each node says the same of each bin."""
    return {node: NodeOutcomes(keys, dict.fromkeys(range(BINS), (n, failed, n, bad))) for node in nodes}


def waits(candidate: Outcomes, live: Outcomes, around: Around = AROUND, **plan: Any) -> tuple[str, ...]:
    decision = decide(out(**plan), candidate, live, around)
    assert (decision.permille is None) == bool(decision.waits)
    return decision.waits


def test_a_candidate_that_is_as_good_goes_to_the_next_share_of_its_plan() -> None:
    assert decide(out(), arm(), arm(), AROUND) == Decision(permille=200)
    assert decide(out(100), arm(), arm(), AROUND) == Decision(permille=200), "a person chose a share between"
    assert decide(out(200), arm(), arm(), AROUND) == Decision(permille=1000)


def test_the_first_share_needs_only_keys_to_draw_it_from() -> None:
    few = Around(keys=12, since_s=0, heard=1.0, placed=frozenset({"n1"}))
    assert decide(out(0), {}, {}, few).waits == (f"12 of {FEWEST_KEYS} keys",)
    enough = Around(keys=FEWEST_KEYS, since_s=0, heard=1.0, placed=frozenset({"n1"}))
    assert decide(out(0), {}, {}, enough) == Decision(permille=50)


def test_too_few_keys_and_too_short_a_time_are_awaited_in_words() -> None:
    assert waits(arm(keys=12), arm()) == (f"12 of {FEWEST_OF_ARM} keys",)
    early = Around(keys=1000, since_s=180, heard=1.0, placed=AROUND.placed)
    assert waits(arm(), arm(), early) == ("3 of 10 minutes",)
    assert waits(arm(), arm(), early, min_s=60) == ()


def test_a_bound_over_the_margin_is_awaited_with_its_figure() -> None:
    (why,) = waits(arm(bad=5), arm(bad=1))
    assert why.startswith("bad answers: upper bound ")
    assert why.endswith(" > 2 points")
    assert waits(arm(bad=5), arm(bad=1), figures=(Figure.ERRORS,)) == ()
    assert waits(arm(failed=9), arm(), figures=(Figure.BAD,)) == ()
    assert waits(arm(failed=9), arm())[0].startswith("errors: upper bound ")


def test_where_no_answer_is_checked_nothing_is_stepped_by_bad_answers() -> None:
    unchecked = {node: NodeOutcomes(60, dict.fromkeys(range(BINS), (100, 0, 0, 0))) for node in ("n1", "n2")}
    assert waits(unchecked, unchecked) == ("bad answers: none to compare in both arms",)
    assert waits(unchecked, unchecked, figures=(Figure.ERRORS,)) == ()


@pytest.mark.parametrize(
    ("around", "why"),
    [
        ({"settling": True}, "this hub to make forward moves"),
        ({"heard": 0.5}, "more than half of its replicas to be heard"),
        ({"held": True}, "somebody to release the hold"),
        ({"forbidden": "a freeze window"}, "the end of this: a freeze window"),
        ({"guard": "bad 9% of 200 votes"}, "guard: bad 9% of 200 votes"),
    ],
)
def test_nothing_is_stepped_while(around: dict[str, Any], why: str) -> None:
    fields = {"keys": 1000, "since_s": 3600, "heard": 1.0, "placed": AROUND.placed} | around
    assert waits(arm(), arm(), Around(**fields)) == (why,)


def test_a_plan_that_somebody_holds_steps_nothing() -> None:
    assert waits(arm(), arm(), held="ann: dinner") == ("somebody to resume it: ann: dinner",)


def test_one_nodes_word_steps_nothing_where_others_serve_the_pointer() -> None:
    invented = {"n1": arm(n=10_000, bad=0)["n1"], "n2": arm(bad=40)["n2"]}
    assert waits(invented, arm()) == ("bad answers: the same without the word of n1",)
    blamed = {"n1": arm(bad=90)["n1"], "n2": arm()["n2"]}
    assert waits(arm(bad=4), blamed) == ("bad answers: the same without the word of n1",)
    alone = arm(nodes=("n1",))
    assert waits(alone, alone) == (f"{FEWEST_OF_ARM} keys without the word of n1",)
    only = Around(keys=1000, since_s=3600, heard=1.0, placed=frozenset({"n1"}))
    assert waits(alone, alone, only) == ()


def test_after_the_last_share_a_person_finishes_it_or_the_plan() -> None:
    assert decide(out(1000), arm(), {}, AROUND) == Decision(waits=("its finish, by a person",))
    assert decide(out(1000, finish=True), arm(), {}, AROUND) == Decision(finish=True)
    assert decide(out(500, steps=(500,), finish=True), arm(bad=5), arm(), AROUND).finish is False
    assert decide(out(500, steps=(500,), finish=True), arm(), arm(), AROUND) == Decision(finish=True)


def test_a_plan_of_more_steps_asks_more_of_each() -> None:
    assert level(PLAN).alpha < level(PLAN.model_copy(update={"steps": (1000,)})).alpha


def test_a_plans_shares_ascend() -> None:
    with pytest.raises(ValueError, match="larger share"):
        StepPlan(steps=(50, 50), margin=0.02)


def test_a_comparison_is_said_in_one_line() -> None:
    candidate = ArmShare(keys=40, bad=10, n=1000, low=0, high=0.1)
    live = ArmShare(keys=700, bad=150, n=20_000, low=0, high=1)
    found = ArmsCompared(figure=Figure.BAD, candidate=candidate, live=live, value=0.0025, low=-0.01, high=0.014)
    assert said(found) == (
        "bad answers 1.0% (0.0% to 10.0%, n = 1,000), live 0.8% (0.0% to 100.0%, n = 20,000) (upper bound +1.4 points)"
    )
