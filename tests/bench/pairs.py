"""Ratios of two things that are measured in turn: a neighbour's burst of work meets both halves of a pair."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from tests.bench.kinds import Reference
from tests.bench.rows import Row, quantile


def interval_of_median(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the median of what these values are a sample of, by their ranks (binomial): of a few
    values, from the smallest to the largest.
    """
    ordered, reach = sorted(values), math.ceil(0.98 * math.sqrt(len(values)))
    low, high = (max(0, min(len(ordered) - 1, len(ordered) // 2 + step)) for step in (-reach, reach))
    return ordered[low], ordered[high]


def ratio_of_medians(
    what: str,
    ours: Sequence[float],
    others: Sequence[float],
    *,
    reference: Reference,
    budget: float | None = None,
    higher: bool = False,
    how: str = "",
) -> Row:
    """The row of a ratio: the median of the pairs' ratios, with its interval in the method. `n` counts pairs."""
    ratios = [one / other for one, other in zip(ours, others, strict=True)]
    words = f"{how}; {_interval(ratios)}" if how else _interval(ratios)
    return Row(what, statistics.median(ratios), "x", len(ratios), budget, higher, how=words, reference=reference)


def ratio_at(
    percent: int,
    what: str,
    ours: Sequence[float],
    others: Sequence[float],
    *,
    reference: Reference,
    budget: float | None = None,
    how: str = "",
) -> Row:
    """The row of a ratio of two percentiles; the median of the pairs' ratios, with its interval, is in the method."""
    ratios = [one / other for one, other in zip(ours, others, strict=True)]
    middle = f"median of the pairs {statistics.median(ratios):.2f} x, {_interval(ratios)}"
    words = f"{how}; {middle}" if how else middle
    value = quantile(ours, percent) / quantile(others, percent)
    return Row(f"{what}: p{percent} / p{percent}", value, "x", len(ratios), budget, how=words, reference=reference)


def _interval(ratios: Sequence[float]) -> str:
    low, high = interval_of_median(ratios)
    return f"95 % interval {low:.2f} to {high:.2f} x"
