"""Exact tests, intervals and sizes, against scipy and against published figures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from loradeck.rules.quality.statistics import (
    drop_bound,
    holm,
    items_to_bound,
    lower_bound,
    mcnemar,
    paired_bootstrap,
    paired_items,
    percentile,
    upper_bound,
    visible_drop,
)


@pytest.mark.parametrize(("points", "needed"), [(5, 246), (3, 685), (2, 1_544), (1, 6_181)])
def test_how_many_paired_items_a_drop_needs(points: int, needed: int) -> None:
    """80 % power, one-sided 5 %, 10 % of the pairs differ."""
    assert paired_items(points / 100) == needed
    visible = visible_drop(needed)
    assert visible is not None
    assert visible <= points / 100
    fewer = visible_drop(needed - 1)
    assert fewer is not None
    assert fewer > points / 100


def test_the_smallest_visible_drop_is_seen_as_often_as_it_says() -> None:
    """Drawn suites whose true drop is what 246 items can see: the exact test finds four of five, or a little fewer."""
    drop = visible_drop(246)
    assert drop is not None
    draws = np.random.default_rng(7).multinomial(246, [0.05 + drop / 2, 0.05 - drop / 2, 0.9], size=3_000)
    seen = np.mean([mcnemar(int(lost), int(won)) <= 0.05 for lost, won, _ in draws])
    assert 0.70 < seen < 0.85


def test_the_bound_of_a_drop_is_where_the_score_test_just_rules_it_out() -> None:
    """At no pair that differs it is z^2 / (n + z^2); else the score statistic at the bound is z (Tango 1998)."""
    z = scipy.stats.norm.ppf(0.95)
    assert drop_bound(0, 0, 246) == pytest.approx(z * z / (246 + z * z), rel=1e-9)
    for lost, won, n in ((12, 5, 246), (0, 9, 60), (30, 30, 100), (7, 0, 20), (1, 19, 20)):
        drop = drop_bound(lost, won, n)
        likelihoods = [  # by a grid: the share of won pairs that makes the counts likeliest at this drop
            (lost * math.log(w + drop) + won * math.log(w) + (n - lost - won) * math.log(1 - 2 * w - drop), w)
            for w in np.linspace(max(1e-9, 1e-9 - drop), (1 - drop) / 2 - 1e-9, 200_001)
        ]
        wins = max(likelihoods)[1]
        statistic = (drop - (lost - won) / n) / math.sqrt((2 * wins + drop - drop * drop) / n)
        assert statistic == pytest.approx(z, rel=1e-3), (lost, won, n)


def test_p_values_of_tests_that_are_made_together_are_adjusted_by_holm() -> None:
    """Against the example of Holm's steps, worked by hand: 4 x .005, 3 x .01, then 2 x .03, then no less than that."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_bound_of_a_drop_at_its_ends() -> None:
    assert drop_bound(0, 0, 0) == drop_bound(5, 0, 5) == 1.0
    assert drop_bound(0, 200, 200) < -0.97
    with pytest.raises(ValueError, match="not a comparison"):
        drop_bound(3, 3, 5)


def test_no_number_of_items_sees_a_drop_of_nothing_and_two_items_see_none() -> None:
    with pytest.raises(ValueError, match="no number of items shows"):
        paired_items(0.0)
    assert visible_drop(2) is None
    assert visible_drop(0) is None
    assert visible_drop(3) is not None


def test_a_drop_larger_than_the_assumed_share_of_pairs_that_differ_is_itself_that_share() -> None:
    assert paired_items(0.3, discordant=0.1) == paired_items(0.3, discordant=0.3)


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (1, 0), (0, 5), (7, 2), (12, 12), (60, 30), (900, 850)])
def test_mcnemar_is_the_exact_one_sided_sign_test(lost: int, won: int) -> None:
    n = lost + won
    expected = scipy.stats.binomtest(lost, n, 0.5, alternative="greater").pvalue if n else 1.0
    assert mcnemar(lost, won) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("k", "n"), [(0, 300), (0, 1), (3, 300), (20, 40), (40, 40), (199, 200), (1_500, 3_000)])
def test_the_bounds_are_those_of_clopper_and_pearson(k: int, n: int) -> None:
    less = scipy.stats.binomtest(k, n, alternative="less").proportion_ci(0.95, "exact")
    greater = scipy.stats.binomtest(k, n, alternative="greater").proportion_ci(0.95, "exact")
    assert upper_bound(k, n) == pytest.approx(less.high, abs=1e-9)
    assert lower_bound(k, n) == pytest.approx(greater.low, abs=1e-9)


def test_three_hundred_prompts_without_a_failure_only_bound_the_rate_at_one_percent() -> None:
    assert upper_bound(0, 300) == pytest.approx(0.00994, abs=1e-5)
    assert items_to_bound(0.99) == 299
    assert lower_bound(299, 299) >= 0.99 > lower_bound(298, 298)
    assert items_to_bound(0.0) == 1
    assert (upper_bound(0, 0), lower_bound(0, 0)) == (1.0, 0.0)


@pytest.mark.parametrize(("lost", "won", "n"), [(3, 1, 48), (20, 9, 246), (40, 0, 120), (0, 6, 40), (1, 0, 20)])
def test_the_interval_of_the_drop_is_that_of_the_paired_bootstrap(lost: int, won: int, n: int) -> None:
    """Against twenty thousand draws by scipy; theirs moves by an item, ours does not."""
    before = np.array([1.0] * lost + [0.0] * won + [1.0] * (n - lost - won))
    after = np.array([0.0] * lost + [1.0] * won + [1.0] * (n - lost - won))
    drawn = scipy.stats.bootstrap(
        (before, after),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        paired=True,
        method="percentile",
        n_resamples=20_000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    low, high = paired_bootstrap(lost, won, n)
    assert low == pytest.approx(drawn.low, abs=1.01 / n)
    assert high == pytest.approx(drawn.high, abs=1.01 / n)


def test_pairs_that_never_differ_do_not_make_the_drop_certain() -> None:
    low, high = paired_bootstrap(0, 0, 40)
    assert (low, high) == (-high, high)
    assert high == pytest.approx(1 - 0.025 ** (1 / 40))
    assert paired_bootstrap(0, 0, 0) == (-1.0, 1.0)


def test_pairs_that_all_fell_to_one_side_do_not_make_the_drop_certain() -> None:
    """Every resample is equal to them; a pair that is won, where none of n was, may still be another."""
    edge = 1 - 0.025 ** (1 / 40)
    assert paired_bootstrap(40, 0, 40) == (pytest.approx(1 - 2 * edge), 1.0)
    assert paired_bootstrap(0, 40, 40) == (-1.0, pytest.approx(2 * edge - 1))
    low, high = paired_bootstrap(0, 1, 1)
    assert low < 0 < high, "one item that was won tells nothing"


@pytest.mark.parametrize("wrong", [(-1, 0, 3), (0, -1, 3), (2, 2, 3)])
def test_counts_that_are_none_are_refused(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="lost and"):
        paired_bootstrap(*wrong)


def test_a_large_suite_is_no_different() -> None:
    low, high = paired_bootstrap(520, 480, 10_000)
    half = 1.96 * math.sqrt(1_000 / 10_000 - 0.004**2) / 100
    assert (low, high) == (pytest.approx(0.004 - half, abs=2e-4), pytest.approx(0.004 + half, abs=2e-4))


def test_a_percentile_has_the_interval_of_its_ranks() -> None:
    """Against scipy's quantile test, which inverts the same binomial."""
    times = [float(n) for n in np.random.default_rng(3).permutation(200)]
    value, low, high = percentile(times, 0.95)
    expected = scipy.stats.quantile_test(times, p=0.95).confidence_interval(0.95)
    assert value == 189.0
    assert (low, high) == (expected.low, expected.high)
    assert percentile([5.0], 0.95) == (5.0, 5.0, 5.0)
    with pytest.raises(ValueError, match="at least one value"):
        percentile([], 0.95)
