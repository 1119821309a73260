"""What a sample of answers can tell: exact tests, intervals and sizes, for answers that are right or wrong.

Two releases answer the same items, so answers are compared in pairs: only the items on which the two differ say
anything. `lost` are the items that the live release had right and the candidate has not, `won` the reverse.
Everything here is computed, nothing is drawn: the same counts give the same figures, for ever. The standard library
is enough for it: scipy.stats adds 90 MB to the 46 MB that a hub imports. The tests compare with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

ALPHA = 0.05
"""One-sided level of a test: how often a drop is seen where there is none."""

POWER = 0.80
"""How often a drop of a size is seen where there is one, for the suite to count as able to see it."""

DISCORDANT = 0.10
"""Share of items on which two releases are taken to differ, before anything was measured."""

_TAIL = 1e-12
"""What is left out at either end of a distribution that is summed."""


def mcnemar(lost: int, won: int) -> float:
    """Exact one-sided p of McNemar's test: how likely it is to lose so many, or more, of the items that differ,
    where losing and winning one are equally likely. 1 where no item differs.

    McNemar, Psychometrika 12 (1947) 153; the exact form is the sign test on the discordant pairs.

    Raises:
        ValueError: a negative count.
    """
    if lost < 0 or won < 0:
        raise ValueError(f"{lost} lost and {won} won are no counts")
    n = lost + won
    return sum(math.comb(n, k) for k in range(lost, n + 1)) / (1 << n)


def upper_bound(k: int, n: int, alpha: float = ALPHA) -> float:
    """Exact one-sided upper bound of a share, k of n seen: the largest share under which k or fewer are seen at
    least `alpha` of the time. 1 where n is 0.

    Clopper and Pearson, Biometrika 26 (1934) 404. With k = 0 it is 1 - alpha ** (1 / n): no failure in 300 leaves
    1 %.

    Raises:
        ValueError: k is not within 0..n.
    """
    if not 0 <= k <= n:
        raise ValueError(f"{k} of {n} is no share")
    if k == n:
        return 1.0
    terms = [_log_choose(n, i) for i in range(k + 1)]

    def at_most_k(share: float) -> float:
        one, other = math.log(share), math.log1p(-share)
        return math.fsum(math.exp(term + i * one + (n - i) * other) for i, term in enumerate(terms))

    low, high = k / n, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if at_most_k(middle) > alpha else (low, middle)
    return high


def lower_bound(k: int, n: int, alpha: float = ALPHA) -> float:
    """Exact one-sided lower bound of a share, k of n seen. 0 where n is 0."""
    return 1.0 - upper_bound(n - k, n, alpha) if n else 0.0


def paired_bootstrap(lost: int, won: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Bootstrap interval (percentiles) of the drop, (lost - won) / n, where pairs are drawn from the n pairs.

    Not by drawing: how many of n drawn pairs differ, and how many of those are losses, are two binomial counts, so
    the bootstrap's distribution is summed exactly (the ideal bootstrap of Efron and Tibshirani, 1993, section 6).
    Where no pair differs every draw is alike and would claim to know the drop exactly; then it is the exact bounds
    of a loss and of a win that was seen in none of n.

    Raises:
        ValueError: more pairs differ than there are.
    """
    if lost < 0 or won < 0 or lost + won > n:
        raise ValueError(f"{lost} lost and {won} won of {n} is no comparison")
    if n == 0:
        return (-1.0, 1.0)
    differ, tail = lost + won, (1 - level) / 2
    if differ == 0:
        edge = upper_bound(0, n, tail)
        return (-edge, edge)
    weight: dict[int, float] = {}
    for d, p in _binomial(n, differ / n):
        for k, q in _binomial(d, lost / differ):
            weight[2 * k - d] = weight.get(2 * k - d, 0.0) + p * q
    # Sums to 1 but for the tails that were left out; scaled, so that the upper percentile is always reached.
    whole, seen, low = math.fsum(weight.values()), 0.0, None
    for drop in sorted(weight):
        seen += weight[drop] / whole
        if low is None and seen >= tail:
            low = drop
        if seen >= 1 - tail:
            break
    assert low is not None
    return (low / n, drop / n)


def paired_items(drop: float, discordant: float = DISCORDANT, power: float = POWER, alpha: float = ALPHA) -> int:
    """Items from which on a paired one-sided test sees a drop so often as `power` says.

    `drop`: share of items lost, net, 0 to 1. `discordant`: share of items on which the two differ; at least `drop`.
    Connor, Biometrics 43 (1987) 207: n = ((z_a sqrt(pd) + z_b sqrt(pd - d^2)) / d)^2.

    Raises:
        ValueError: the drop is not above 0 and up to 1: no number of items sees a drop of nothing.
    """
    if not 0 < drop <= 1:
        raise ValueError(f"a drop of {drop} is seen by no number of items")
    differ = max(discordant, drop)
    z_alpha, z_power = NormalDist().inv_cdf(1 - alpha), NormalDist().inv_cdf(power)
    root = (z_alpha * math.sqrt(differ) + z_power * math.sqrt(max(0.0, differ - drop * drop))) / drop
    return math.ceil(round(root * root, 9))


def visible_drop(n: int, discordant: float = DISCORDANT) -> float | None:
    """The smallest drop that n paired items see 80 % of the time; None where they see none at all."""
    if n < paired_items(1.0, discordant):
        return None
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if paired_items(middle, discordant) <= n else (middle, high)
    return high


def items_to_bound(share: float, alpha: float = ALPHA) -> int:
    """Items that must all pass for the lower bound of their share to reach `share`: 299 for 99 %.

    Raises:
        ValueError: the share is not within 0..1, or 1, which no number of items bounds.
    """
    if not 0 <= share < 1:
        raise ValueError(f"no number of items bounds a share by {share}")
    return max(1, math.ceil(round(math.log(alpha) / math.log(share), 9))) if share else 1


def percentile(values: Sequence[float], share: float, level: float = 0.95) -> tuple[float, float, float]:
    """A percentile with its interval, which needs no distribution: which ranks it lies between is a binomial count.

    `share`: 0.95 for the 95th. The smallest value that this share of all does not exceed. Conover, Practical
    Nonparametric Statistics (1999), section 3.2. Too few values reach no rank beyond; then the extreme one stands.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("no values have a percentile")
    ordered, n, tail = sorted(values), len(values), (1 - level) / 2
    first, last, seen = 0, n - 1, 0.0
    for k, probability in _binomial(n, share):
        seen += probability
        if seen <= tail:
            first = k
        if seen >= 1 - tail:
            last = min(last, k)
            break
    return ordered[min(n - 1, max(0, math.ceil(round(n * share, 9)) - 1))], ordered[min(n - 1, first)], ordered[last]


def _binomial(n: int, p: float) -> list[tuple[int, float]]:
    """(k, probability) of k of n, without the far tails."""
    if p in (0.0, 1.0) or n == 0:
        return [(n if p == 1.0 else 0, 1.0)]
    one, other = math.log(p), math.log1p(-p)
    # Eight standard deviations hold all but 1e-12 and a few more counts what is skewed.
    reach = 8 * math.sqrt(n * p * (1 - p)) + 12
    first, last = max(0, math.floor(n * p - reach)), min(n, math.ceil(n * p + reach))
    terms = [(k, math.exp(_log_choose(n, k) + k * one + (n - k) * other)) for k in range(first, last + 1)]
    return [(k, probability) for k, probability in terms if probability > _TAIL]


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
