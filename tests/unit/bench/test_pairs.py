"""Ratios of what was measured in turns: the median of the pairs, and the interval that its ranks give."""

from __future__ import annotations

import random

import pytest
from tests.bench.pairs import interval_of_median, ratio_at, ratio_of_medians


@pytest.mark.parametrize("n", [6, 20, 200])
def test_the_interval_holds_the_median_of_what_was_drawn_from_in_nineteen_of_twenty_samples(n: int) -> None:
    drawn = random.Random(7)
    samples = ([drawn.expovariate(1.0) for _ in range(n)] for _ in range(2000))
    inside = sum(low <= 0.6931 <= high for low, high in map(interval_of_median, samples))
    assert inside / 2000 > 0.94


def test_of_few_values_the_interval_is_from_the_smallest_to_the_largest() -> None:
    assert interval_of_median([3.0, 1.0, 2.0]) == (1.0, 3.0)


def test_a_burst_that_meets_both_halves_of_a_pair_changes_no_ratio() -> None:
    ours, theirs = [2.0, 2.2, 20.0, 1.8], [1.0, 1.1, 10.0, 0.9]
    row = ratio_of_medians("a against b", ours, theirs, reference="peer", budget=3.0, how="in turns")
    assert (row.value, row.n, row.kind) == (pytest.approx(2.0), 4, "ratio to a peer")
    assert row.how == "in turns; 95 % interval 2.00 to 2.00 x"
    assert not row.missed


def test_a_ratio_of_percentiles_says_the_median_of_the_pairs_beside_it() -> None:
    ours, theirs = [1.0] * 19 + [9.0], [1.0] * 19 + [3.0]
    row = ratio_at(99, "a against b", ours, theirs, reference="floor", budget=2.0)
    assert row.what == "a against b: p99 / p99"
    assert 2.0 < row.value < 3.0
    assert row.missed
    assert row.how == "median of the pairs 1.00 x, 95 % interval 1.00 to 1.00 x"


def test_halves_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        ratio_of_medians("a against b", [1.0], [1.0, 2.0], reference="peer")
