"""Two arms of callers compared, with the key as the unit."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from scipy import stats

from loradeck.rules.quality.arm_comparison import (
    NodeOutcomes,
    always_valid,
    difference,
    each_left_out,
    fixed,
    is_worse,
    keys_of,
    student,
    units_of,
)
from loradeck.rules.quality.health import Units
from loradeck.rules.quality.statistics import wilson
from loradeck.schemas.candidate import Figure
from loradeck.schemas.counts import BINS


def bins_of(keys: list[Units], draw: random.Random) -> list[Units]:
    """Keys put into bins by chance."""
    sums = [(0, 0)] * BINS
    for bad, n in keys:
        at = draw.randrange(BINS)
        sums[at] = (sums[at][0] + bad, sums[at][1] + n)
    return sums


def spread(bad: int, n: int) -> list[Units]:
    """So many bad ones, and units, in each bin."""
    return [(bad, n)] * BINS


@pytest.mark.parametrize("degrees", [4, 10, 63])
@pytest.mark.parametrize("z", [1.0, 1.96, 3.0])
def test_the_deviate_has_the_tail_of_the_normal_one(z: float, degrees: int) -> None:
    assert student(z, degrees) == pytest.approx(stats.t.isf(stats.norm.sf(z), degrees), rel=0.07)


def test_many_keys_whose_answers_have_nothing_to_do_with_each_other_give_the_plain_interval() -> None:
    draw = random.Random(1)
    arms = [bins_of([(int(draw.random() < 0.1), 1) for _ in range(20_000)], draw) for _ in range(2)]
    found = difference(*arms)
    assert found is not None
    low, high = wilson(found.candidate.bad, found.candidate.n)
    assert found.candidate.high - found.candidate.low == pytest.approx(high - low, rel=0.25)
    assert found.low < 0 < found.high


def test_where_all_answers_to_a_key_are_alike_the_keys_count_and_not_the_requests() -> None:
    draw = random.Random(2)
    once = [(int(draw.random() < 0.1), 1) for _ in range(400)]
    often = [(100 * bad, 100 * n) for bad, n in once]
    one, other = (difference(*(bins_of(keys, random.Random(seed)) for seed in (3, 4))) for keys in (once, often))
    assert one is not None
    assert other is not None
    assert other.candidate.n == 100 * one.candidate.n
    assert other.high - other.low == pytest.approx(one.high - one.low, rel=0.15)


def test_with_nothing_bad_so_many_keys_are_worth_no_more_than_themselves() -> None:
    draw = random.Random(5)
    found = difference(bins_of([(0, 1000)] * 30, draw), bins_of([(0, 1000)] * 500, draw))
    assert found is not None
    assert 20 < found.candidate.keys < 45
    assert 0.05 < found.high < 0.2, "thirty keys without a bad answer do not bound a share at two points"
    many = difference(bins_of([(0, 1000)] * 240, draw), bins_of([(0, 1000)] * 2000, draw), always_valid(0.0125))
    assert many is not None
    assert many.high == pytest.approx(1 - 0.0125 ** (1 / many.candidate.keys))
    assert 0.01 < many.high < 0.03


def test_one_caller_who_asks_the_most_is_worth_one_key() -> None:
    draw = random.Random(6)
    found = difference(bins_of([(200, 100_000), *[(0, 100)] * 40], draw), spread(4, 2000))
    assert found is not None
    assert found.candidate.keys < 2
    assert found.high > 0.9, "and one key says nothing"


def test_an_arm_without_a_unit_compares_to_nothing() -> None:
    assert difference(spread(0, 0), spread(1, 10)) is None
    assert difference(spread(1, 10), spread(0, 0)) is None


def test_a_bound_that_is_looked_at_always_is_wider_than_one_at_a_fixed_time_and_wider_for_less_risk() -> None:
    for keys in (1, 20, 50, 1000, 10**6):
        assert 1.645 < always_valid(0.05).deviate(keys) < always_valid(0.0125).deviate(keys) < 10
    assert always_valid(0.05).deviate(50) < 3.0
    assert fixed(0.025).deviate(7) == pytest.approx(1.96, abs=1e-3)


def said(bad: list[int], n: int) -> dict[str, NodeOutcomes]:
    return {"n1": NodeOutcomes(len(bad), {at: (n, 0, n, k) for at, k in enumerate(bad)})}


def test_a_candidate_is_worse_if_it_is_so_without_any_one_caller() -> None:
    live = said([0] * 20, 20)
    assert is_worse(Figure.BAD, said([6] * 20, 20), live, 0.05)
    assert is_worse(Figure.BAD, said([20] + [6] * 19, 20), live, 0.05)
    assert not is_worse(Figure.BAD, said([20] + [0] * 19, 20), live, 0.05), "one caller asks what no release answers"
    assert not is_worse(Figure.BAD, said([6] * 20, 20), said([6] * 20, 20), 0.05)
    assert not is_worse(Figure.ERRORS, said([6] * 20, 20), live, 0.05), "none has failed"


def test_a_broken_caller_is_left_out_also_where_a_large_one_has_more_bad_answers() -> None:
    live = said([1] * 20, 100)
    bins = {0: (3000, 0, 3000, 120), 1: (119, 0, 119, 119), 2: (100, 0, 100, 1)}
    assert not is_worse(Figure.BAD, {"n1": NodeOutcomes(3, bins)}, live, 0.05)


def test_arms_of_which_nothing_is_known_are_not_worse() -> None:
    assert not is_worse(Figure.BAD, {}, said([0], 20), 0.05)
    assert not is_worse(Figure.BAD, said([6] * 20, 20), {}, 0.05)


def test_the_word_of_a_node_can_be_left_out() -> None:
    said = {
        "n1": NodeOutcomes(30, {0: (10, 1, 8, 2), 7: (5, 0, 5, 0)}),
        "n2": NodeOutcomes(12, {7: (1, 1, 0, 0)}),
    }
    assert (keys_of(said), keys_of(said, "n1"), keys_of({})) == (30, 12, 0)
    assert units_of(said, Figure.BAD)[0] == (2, 8)
    assert units_of(said, Figure.ERRORS)[7] == (1, 6)
    left_out = {node: (given, beside) for node, given, beside in each_left_out(said, {}, Figure.ERRORS)}
    assert left_out["n1"] == ([(0, 0)] * 7 + [(1, 1)] + [(0, 0)] * 56, [(0, 0)] * 64)
    assert left_out["n2"][0] == [(1, 10), *[(0, 0)] * 6, (0, 5), *[(0, 0)] * 56]


Share = Callable[[float, random.Random], float]


def alike(rho: float) -> Share:
    """The share of bad answers of each key, whose answers are correlated by rho (beta-binomial)."""
    of = 1 / rho - 1
    return lambda share, draw: draw.betavariate(share * of, (1 - share) * of)


def looks_under(
    margin: float, alpha: float, *, live: float, candidate: float, keys: int, part: float, rho: float, seed: int
) -> int:
    """The first of ten looks at growing counts at which the bound is under the margin; 0: none."""
    draw = random.Random(seed)
    shares = [(draw.random() < part, draw.randrange(BINS)) for _ in range(keys)]
    bad = [alike(rho)(candidate if given else live, draw) for given, _ in shares]
    arms = [[[0, 0] for _ in range(BINS)] for _ in range(2)]
    for look in range(1, 11):
        for (given, at), share in zip(shares, bad, strict=True):
            n = draw.randrange(6)
            arms[given][at][1] += n
            arms[given][at][0] += sum(draw.random() < share for _ in range(n))
        found = difference(*([(k, n) for k, n in arms[given]] for given in (True, False)), always_valid(alpha))
        if found is not None and found.high < margin:
            return look
    return 0


@pytest.mark.parametrize(("keys", "part", "rho"), [(1000, 0.05, 0.02), (400, 0.2, 0.2), (150, 0.5, 0.1)])
def test_a_candidate_that_is_worse_by_the_margin_is_seldom_taken_for_better_however_often_one_looks(
    keys: int, part: float, rho: float
) -> None:
    runs = [
        looks_under(0.05, 0.05, live=0.02, candidate=0.07, keys=keys, part=part, rho=rho, seed=seed)
        for seed in range(60)
    ]
    wrong = sum(look > 0 for look in runs)
    assert stats.binomtest(wrong, len(runs), 0.05, "greater").pvalue > 0.001, runs


@pytest.mark.parametrize(("keys", "part", "rho"), [(1000, 0.05, 0.02), (400, 0.2, 0.05)])
def test_a_candidate_that_is_as_good_is_seen_to_be(keys: int, part: float, rho: float) -> None:
    runs = [
        looks_under(0.05, 0.05, live=0.02, candidate=0.02, keys=keys, part=part, rho=rho, seed=seed)
        for seed in range(20)
    ]
    assert sum(look > 0 for look in runs) >= 18, runs


def test_a_hostile_figure_gives_no_interval_that_is_no_number() -> None:
    found = difference([(2**53, 2**53)] + [(0, 0)] * 63, spread(0, 1))
    assert found is not None
    assert all(math.isfinite(value) for value in (found.low, found.high, found.value))
