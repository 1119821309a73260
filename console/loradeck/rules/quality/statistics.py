"""Statistics of right and wrong answers: exact tests, confidence intervals and sample sizes.

Two releases answer the same items, so answers are compared in pairs: only the items on which the two differ matter.
`lost` are the items that the live release had right and the candidate has wrong, `won` the reverse. Nothing is drawn at
random: equal counts give equal figures, for ever. The standard library is enough: scipy.stats adds 90 MB to the 46 MB
that a hub imports. The tests compare with scipy.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

ALPHA = 0.05
"""One-sided level of a test: how often it sees a drop where there is none."""

POWER = 0.80
"""How often a suite must see a drop of a given size, to count as able to see it."""

DISCORDANT = 0.10
"""Share of items on which two releases are assumed to differ, before anything was measured."""

Z95 = 1.959963984540054
"""Standard normal deviate of a two-sided interval of 95 %."""

_TAIL = 1e-12
"""Probability below which terms of a summed distribution are left out."""


def mcnemar(lost: int, won: int) -> float:
    """Exact one-sided p-value of McNemar's test: the probability of losing so many, or more, of the items that differ.

    It assumes that losing and winning an item are equally likely; 1 if no item differs. McNemar, Psychometrika 12
    (1947) 153; the exact form is the sign test on the discordant pairs.

    Raises: ValueError: a negative count.
    """
    if lost < 0 or won < 0:
        raise ValueError(f"{lost} lost and {won} won are not counts")
    n = lost + won
    return sum(math.comb(n, k) for k in range(lost, n + 1)) / (1 << n)


def t95(freedom: int) -> float:
    """Student's deviate of a two-sided interval of 95 %, by Cornish and Fisher's expansion.

    Abramowitz and Stegun 26.7.5: within 1 % from 2 degrees of freedom on.
    """
    z = Z95
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / math.pow(freedom, power) for power, term in enumerate(terms, start=1))


def exceeds(difference: float, limit: float) -> bool:
    """Tells whether a difference of shares is above a limit, and not by rounding alone: 0.8 - 0.6 is not above 0.2."""
    return difference - limit > 1e-9


def fisher(k: int, n: int, others: int, of_others: int) -> float:
    """Exact one-sided p-value that k of n are so few, beside `others` of `of_others`; 1 if either is empty.

    It is the hypergeometric probability of k or fewer. Fisher, Statistical Methods for Research Workers (1934), 21.02.
    """
    whole, all_n = k + others, n + of_others
    some = _log_choose(all_n, n)
    terms = (
        math.exp(_log_choose(whole, x) + _log_choose(all_n - whole, n - x) - some)
        for x in range(max(0, n - (all_n - whole)), k + 1)
    )
    return min(1.0, math.fsum(terms))


def fell(before: float, now: float, n: float, limit: float, comparisons: int) -> bool:
    """Tells whether a share of n answers fell by more than a limit, and by more than chance would.

    Where nothing changes, one of so many comparisons says so once in twenty at most: Fisher's test, Bonferroni's bound.
    """
    k, others, of = round(now * n), round(before * n), round(n)
    return exceeds(before - now, limit) and fisher(k, of, others, of) <= ALPHA / comparisons


def holm(ps: Sequence[float]) -> list[float]:
    """Adjusted p-values of tests that are made together: one at most `alpha` is seen at that level over all of them.

    Holm, Scandinavian Journal of Statistics 6 (1979) 65.
    """
    adjusted, least = [0.0] * len(ps), 0.0
    for place, index in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        least = max(least, min(1.0, (len(ps) - place) * ps[index]))
        adjusted[index] = least
    return adjusted


def upper_bound(k: int, n: int, alpha: float = ALPHA) -> float:
    """Exact one-sided upper confidence bound of a share, k of n seen; 1 if n is 0.

    It is the largest share under which k or fewer are seen at least `alpha` of the time. Clopper and Pearson,
    Biometrika 26 (1934) 404. With k = 0 it is 1 - alpha ** (1 / n): no failure in 300 leaves 1 %.

    Raises: ValueError: k is not within 0..n.
    """
    if not 0 <= k <= n:
        raise ValueError(f"{k} of {n} is not a share")
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


def lower_bound(k: int, n: int) -> float:
    """Exact one-sided lower confidence bound of a share, k of n seen; 0 if n is 0. See `upper_bound`."""
    return 1.0 - upper_bound(n - k, n) if n else 0.0


def wilson(k: float, n: float, z: float = Z95) -> tuple[float, float]:
    """Wilson score interval of a share, k of n, at 95 % by default; (0, 1) if n is 0.

    Counts that were divided by a design effect are no whole numbers.

    Wilson, J. Am. Stat. Assoc. 22 (1927) 209.

    Raises: ValueError: k is not within 0..n.
    """
    if not 0 <= k <= n:
        raise ValueError(f"{k} of {n} is not a share")
    if n == 0:
        return (0.0, 1.0)
    p, zz = k / n, z * z
    middle = (p + zz / (2 * n)) / (1 + zz / n)
    half = z * math.sqrt(p * (1 - p) / n + zz / (4 * n * n)) / (1 + zz / n)
    # At 0 of n and n of n rounding could put the share itself just outside its interval.
    low = 0.0 if k == 0 else max(0.0, middle - half)
    high = 1.0 if k == n else min(1.0, middle + half)
    return (low, high)


def paired_bootstrap(lost: float, won: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Bootstrap interval (percentiles) of the drop, (lost - won) / n, over resamples of the n pairs.

    Of clusters, a part of one may be lost: then each cluster that is drawn is lost with that probability, as where one
    item of it is drawn in its place.

    Nothing is drawn: the number of resampled pairs that differ, and of losses among them, are two binomial counts, so
    the bootstrap's distribution is summed exactly (the ideal bootstrap of Efron and Tibshirani, 1993, section 6). If no
    pair differs, or all fell to one side, every resample is equal and would claim to know the drop exactly; then the
    exact bounds of what was seen in none of n give the interval. (-1, 1) if n is 0.

    Raises: ValueError: more pairs differ than there are.
    """
    _check_comparison(lost, won, n)
    if n == 0:
        return (-1.0, 1.0)
    differ, tail = min(lost + won, n), (1 - level) / 2
    if differ == 0 or n in (lost, won):
        drop, edge = (lost - won) / n, upper_bound(0, n, tail)
        reach = edge if differ == 0 else 2 * edge  # a lost pair that is won counts twice
        return max(-1.0, drop - reach), min(1.0, drop + reach)
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


def drop_bound(lost: float, won: float, n: float, alpha: float = ALPHA) -> float:
    """One-sided upper confidence bound of the drop, (lost - won) / n: the largest drop that the counts do not rule out.

    `alpha`: how often it is under a drop that is there. 1 if n is 0. Counts of clusters, of which a part may be lost,
    are no whole numbers: their mean varies no more than that of as many items, so that the bound holds for them too.

    It inverts the score test of a difference of paired shares, which keeps its level at the sizes of suites, also where
    few pairs or none differ (Wald's bound would then be the drop itself). Tango, Statistics in Medicine 17 (1998) 891.

    Raises: ValueError: more pairs differ than there are.
    """
    _check_comparison(lost, won, n)
    if lost >= n:
        return 1.0
    z = NormalDist().inv_cdf(1 - alpha)

    def ruled_out(drop: float) -> bool:
        # The likeliest share of won pairs if the drop were this one, by which the variance is taken.
        b, c = drop * (2 * n - lost + won) - lost - won, -won * drop * (1 - drop)
        wins = (math.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n)
        variance = n * (2 * wins + drop - drop * drop)
        return (n * drop - (lost - won)) ** 2 >= z * z * variance

    low, high = max(-1.0, (lost - won) / n), 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if ruled_out(middle) else (middle, high)
    return high


def _check_comparison(lost: float, won: float, n: float) -> None:
    if lost < 0 or won < 0 or exceeds(lost + won, n):
        raise ValueError(f"{lost} lost and {won} won of {n} are not a comparison")


def paired_items(drop: float, discordant: float = DISCORDANT) -> int:
    """Number of items from which a paired one-sided test sees a drop with probability `POWER`.

    `drop`: net share of items lost, 0 to 1. `discordant`: share of items on which the two differ; at least `drop`.
    Connor, Biometrics 43 (1987) 207: n = ((z_a sqrt(pd) + z_b sqrt(pd - d^2)) / d)^2. So many also bound the drop of an
    equal release under `drop`: Connor's 246 items for 5 points stand beside the 248 of n = (z_a + z_b)^2 pd / d^2.

    Raises: ValueError: the drop is not above 0 and at most 1; no number of items sees a drop of 0.
    """
    if not 0 < drop <= 1:
        raise ValueError(f"no number of items shows a drop of {drop}")
    differ = max(discordant, drop)
    z_alpha, z_power = NormalDist().inv_cdf(1 - ALPHA), NormalDist().inv_cdf(POWER)
    root = (z_alpha * math.sqrt(differ) + z_power * math.sqrt(max(0.0, differ - drop * drop))) / drop
    return math.ceil(round(root * root, 9))


def visible_drop(n: int, discordant: float = DISCORDANT) -> float | None:
    """The smallest drop that n paired items see with probability `POWER`; None if they see none at all."""
    if n < paired_items(1.0, discordant):
        return None
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if paired_items(middle, discordant) <= n else (middle, high)
    return high


def items_to_bound(share: float) -> int:
    """Number of items that must all pass for the lower bound of their share to reach `share`: 299 for 99 %.

    Raises: ValueError: the share is outside 0..1, or 1, which no number of items bounds.
    """
    if not 0 <= share < 1:
        raise ValueError(f"no number of items bounds a share by {share}")
    return max(1, math.ceil(round(math.log(ALPHA) / math.log(share), 9))) if share else 1


def percentile(values: Sequence[float], share: float) -> tuple[float, float, float]:
    """A percentile and its 95 % confidence interval, as (value, low, high), free of any assumed distribution.

    `share`: 0.95 for the 95th. The value is the smallest one that this share of all does not exceed; its interval lies
    between two ranks, which follow from a binomial count. Conover, Practical Nonparametric Statistics (1999), section
    3.2. With too few values a rank would lie outside; then the extreme value stands.

    Raises: ValueError: there are no values.
    """
    if not values:
        raise ValueError("a percentile needs at least one value")
    ordered, n, tail = sorted(values), len(values), 0.025
    first, last, seen = 0, n - 1, 0.0
    for k, probability in _binomial(n, share):
        seen += probability
        if seen <= tail:
            first = k
        if seen >= 1 - tail:
            last = min(last, k)
            break
    return ordered[min(n - 1, max(0, math.ceil(round(n * share, 9)) - 1))], ordered[min(n - 1, first)], ordered[last]


def ratio(tops: Sequence[float], bottoms: Sequence[float]) -> tuple[float, float]:
    """Ratio of two sums over the same units, and its standard error; of one unit that is 0, and says nothing.

    A loss a token over rows is one: rows are the units, since tokens of a row are alike. With a bottom of 1 for each it
    is a mean and its error. Cochran, Sampling Techniques (1977), 6.4: by the residuals of the ratio.
    """
    n, whole = len(tops), math.fsum(bottoms)
    value = math.fsum(tops) / whole
    off = math.fsum((top - value * bottom) ** 2 for top, bottom in zip(tops, bottoms, strict=True))
    return value, math.sqrt(off * n / max(1, n - 1)) / whole


def _binomial(n: int, p: float) -> list[tuple[int, float]]:
    """Terms (k, probability) of the binomial distribution, without the far tails."""
    if p in (0.0, 1.0) or n == 0:
        return [(n if p == 1.0 else 0, 1.0)]
    one, other = math.log(p), math.log1p(-p)
    # Eight standard deviations hold all but 1e-12; 12 more counts cover skewed distributions.
    reach = 8 * math.sqrt(n * p * (1 - p)) + 12
    first, last = max(0, math.floor(n * p - reach)), min(n, math.ceil(n * p + reach))
    terms = [(k, math.exp(_log_choose(n, k) + k * one + (n - k) * other)) for k in range(first, last + 1)]
    return [(k, probability) for k, probability in terms if probability > _TAIL]


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
