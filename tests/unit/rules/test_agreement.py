"""Agreement: alpha by published examples, its interval, and what tells a bad rater from good ones."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import pytest

from loradeck.rules.quality.agreement import Vote, alpha, majority, raters
from loradeck.rules.quality.statistics import fisher, t95
from loradeck.schemas.preference import RaterFigures

KRIPPENDORFF = """
1 2 3 3 2 1 4 1 2 . . .
1 2 3 3 2 2 4 1 2 5 . 3
. 3 3 3 2 3 4 2 2 5 1 .
1 2 3 3 2 4 4 1 2 5 1 .
"""
"""Four observers, twelve items: Computing Krippendorff's Alpha-Reliability, 2011, part C."""


def items_of(table: str) -> list[list[str]]:
    rows = [line.split() for line in table.split("\n") if line]
    return [[cell for cell in column if cell != "."] for column in zip(*rows, strict=True)]


def test_alpha_is_that_of_krippendorffs_worked_examples() -> None:
    nominal, ordinal = alpha(items_of(KRIPPENDORFF)), alpha(items_of(KRIPPENDORFF), "12345")
    assert (nominal.n, ordinal.n) == (11, 11)
    assert nominal.alpha == pytest.approx(0.743, abs=5e-4)
    assert ordinal.alpha == pytest.approx(0.815, abs=5e-4)


def test_the_interval_is_the_jackknifes_over_items_counted_one_by_one() -> None:
    for scale in ("", "12345"):
        items = [one for one in items_of(KRIPPENDORFF) if len(one) > 1]
        whole = alpha(items, scale)
        without = [alpha(items[:at] + items[at + 1 :], scale).alpha or 0.0 for at in range(len(items))]
        n, mean = len(items), sum(without) / len(items)
        half = t95(n - 1) * ((n - 1) / n * sum((one - mean) ** 2 for one in without)) ** 0.5
        assert whole.alpha is not None
        assert whole.high == pytest.approx(min(1.0, whole.alpha + half))


def test_thousands_of_different_labels_take_no_cube_of_the_time() -> None:
    items = [[str(n), str(n + 1 + n % 7)] for n in range(4000)]
    assert alpha(items).n == 4000, "their cube would take hours"


def test_alpha_of_two_observers_is_that_of_the_first_worked_example() -> None:
    assert alpha(items_of("0 1 0 0 0 0 0 0 1 0\n1 1 1 0 0 1 0 0 0 0\n")).alpha == pytest.approx(0.095, abs=5e-4)


@pytest.mark.parametrize("ratings", [[], [["a"], ["b"]], [["a", "a"]] * 50])
def test_alpha_of_what_nobody_judged_twice_or_all_chose_alike_is_not_known(ratings: list[list[str]]) -> None:
    made = alpha(ratings)
    assert (made.alpha, made.low, made.high) == (None, -1.0, 1.0)


def test_perfect_agreement_has_an_interval_that_shrinks_with_the_items() -> None:
    few, many = (alpha([["a", "a"], ["b", "b"]] * n) for n in (10, 100))
    assert (few.alpha, many.alpha, few.high) == (1.0, 1.0, 1.0)
    assert few.low < 0.7 < 0.95 < many.low < 1.0


def test_one_disagreement_never_shows_more_than_none() -> None:
    none, one = alpha([["a", "a"], ["b", "b"]] * 30), alpha([["a", "b"], ["a", "a"], *[["a", "a"], ["b", "b"]] * 29])
    assert one.low <= none.low


def test_fishers_test_is_the_hypergeometric_tail() -> None:
    ways = sum(comb(10, x) * comb(10, 9 - x) for x in range(3))
    assert fisher(2, 10, 7, 10) == pytest.approx(ways / comb(20, 9))
    assert fisher(0, 0, 3, 9) == fisher(3, 9, 0, 0) == 1.0


def test_a_majority_is_more_than_half() -> None:
    assert (majority(["a", "b", "a"]), majority(["a", "b"]), majority([])) == ("a", None, None)


def votes(rater: str, choices: Sequence[str], first: str = "") -> list[Vote]:
    """One rater's votes on the items i0, i1, ...; `first`: what was shown first, item by item."""
    shown = [choice == one for choice, one in zip(choices, first, strict=True)] if first else [None] * len(choices)
    return [Vote(f"i{n}", rater, choice, shown[n], n) for n, choice in enumerate(choices)]


def known(*of: list[Vote], gold: dict[str, str] | None = None) -> dict[str, RaterFigures]:
    return {one.rater: one for one in raters([vote for votes in of for vote in votes], gold or {})}


def test_a_rater_is_compared_with_what_more_than_half_of_the_others_chose() -> None:
    found = known(votes("r1", "aabb"), votes("r2", "aabb"), votes("r3", "abba"))
    assert (found["r3"].agrees.k, found["r3"].agrees.n) == (2, 4)
    assert (found["r1"].agrees.k, found["r1"].agrees.n) == (2, 2), "two who differ leave r1 nothing to be held against"
    assert found["r3"].without.alpha == 1.0


def test_gold_items_measure_a_rater_and_are_no_part_of_the_agreement() -> None:
    gold = {f"i{n}": "a" for n in range(30)}
    found = known(votes("r1", "a" * 30 + "ab"), votes("r2", "b" * 30 + "ab"), gold=gold)
    assert (found["r1"].gold.k, found["r2"].gold.k, found["r2"].gold.n) == (30, 0, 30)
    assert (found["r1"].agrees.n, found["r1"].flags, found["r2"].flags) == (2, (), ("gold",))


def test_a_habit_for_the_first_answer_and_a_drift_are_flagged() -> None:
    truth = "ab" * 30
    found = known(
        *(votes(f"r{n}", truth, "ba" * 30 if n % 2 else "aabb" * 15) for n in (1, 2, 3)),
        votes("r4", "a" * 60, "a" * 60),
        votes("r5", truth[:30] + "ba" * 15, "aabb" * 15),
    )
    assert found["r4"].flags == ("disagrees", "position")
    assert (found["r4"].first.k, found["r4"].first.n) == (60, 60)
    assert (found["r5"].early.k, found["r5"].late.k, found["r5"].flags) == (30, 0, ("disagrees", "drift"))
    assert found["r2"].flags == ()
