"""Comparison of two arms of callers, with the key as its unit, since requests of one caller or user are alike.

Routers cannot report each key, so keys are put into bins by a hash (`loradeck.rules.serving.arms.seat`), and sums of
bins are reported. Keys fall into bins by chance, so bins are independent of each other, and a bin's sum varies as the
sums of its keys do. That is enough to see how far the answers to one key are alike:

- A share is the ratio of two sums over bins, and its variance that of the ratio's residuals with bins as clusters
  (Cochran, Sampling Techniques, 1977, section 6.4; Deng, Knoblich and Lu, "Applying the Delta Method in Metric
  Analytics", KDD 2018). Over the binomial variance of as many independent requests it is the design effect (Kish,
  Survey Sampling, 1965): so many requests are worth one.
- The design effect of few bad answers says nothing. So it is averaged with the largest one there can be, all answers to
  a key being alike, which weighs as much as one bad answer. With none at all, the keys alone count, by the exact bound
  (Clopper and Pearson's).
- Intervals are Wilson's of the counts divided by the design effect, with Student's deviate in the place of the normal
  one; less than five keys of equal size (one who asks the most is one) say nothing. The interval of the difference is
  Newcombe's (Statistics in Medicine 17, 1998, 873, method 10).

An A/B compares two arms by one figure, once, at a horizon that was stated before the first request. Since nobody may
look and stop, its interval is the plain one of 95 %, narrower than the bound by which steps are taken. The result is
recorded and moves nothing. A gate may ask for one; each further one of a release has half the risk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

from loradeck.rules.clocks import utc
from loradeck.rules.quality.detection import ROLLBACK_LEVEL, evidence_since_move
from loradeck.rules.quality.guard import CONFIDENCE_Z
from loradeck.rules.quality.health import Units, apart, seen, total
from loradeck.rules.quality.statistics import ALPHA, wilson
from loradeck.schemas.attestation import CheckResult, GateResult
from loradeck.schemas.candidate import ArmsCompared, ArmShare, Comparison, ComparisonResult, Figure
from loradeck.schemas.counts import BINS, Bin
from loradeck.schemas.gate import CompareGate

_KEYS_IN_MIND = 50
"""The number of keys at which the always-valid interval is the narrowest."""

_FEWEST_KEYS = 5.0
"""Keys of equal size below which a share is not known at all. Student's deviate is not computed for less."""


class NodeOutcomes(NamedTuple):
    """What a node has said of one arm: different keys at least, and the sums of its bins."""

    keys: int
    bins: Mapping[int, Bin]


Outcomes = Mapping[str, NodeOutcomes]
"""Node -> what it has said of one arm."""


class Share(NamedTuple):
    """A share of bad ones with its 95 % interval. `keys`: how many keys it is worth."""

    bad: int
    n: int
    low: float
    high: float
    keys: float


class Difference(NamedTuple):
    """The candidate's share less that of the live release, with an interval."""

    candidate: Share
    live: Share
    value: float
    low: float
    high: float


def keys_of(said: Outcomes, without: str = "") -> int:
    """Different keys of an arm, at least: the most that one node has seen."""
    return max((of.keys for node, of in said.items() if node != without), default=0)


def units_of(said: Outcomes, figure: Figure) -> list[Units]:
    """The bins of an arm: bad answers of those that are checked, or failed requests of those that were admitted."""
    sums = [(0, 0)] * BINS
    for of in said.values():
        _add(sums, of, figure)
    return sums


def each_left_out(
    candidate: Outcomes, live: Outcomes, figure: Figure
) -> Iterator[tuple[str, Sequence[Units], Sequence[Units]]]:
    """Lists each node that has said something, with the bins of both arms without its word."""
    totals = [(arm, units_of(arm, figure)) for arm in (candidate, live)]
    for node in sorted(candidate.keys() | live.keys()):
        rest = [list(total) for _, total in totals]
        for (arm, _), sums in zip(totals, rest, strict=True):
            if node in arm:
                _add(sums, arm[node], figure, times=-1)
        yield node, rest[0], rest[1]


def _add(sums: list[Units], of: NodeOutcomes, figure: Figure, times: int = 1) -> None:
    bad, n = (3, 2) if figure is Figure.BAD else (1, 0)
    for at, counts in of.bins.items():
        sums[at] = (sums[at][0] + times * counts[bad], sums[at][1] + times * counts[n])


class Level(NamedTuple):
    """How sure a one-sided bound is: the probability that it is wrong, and the normal deviate by the number of keys."""

    alpha: float
    deviate: Callable[[float], float]


def always_valid(alpha: float) -> Level:
    """The level of a bound that may be looked at after every answer: it is ever wrong with a probability of `alpha`.

    It is that of an asymptotic confidence sequence (Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform
    central limit theory and asymptotic confidence sequences", Annals of Statistics 52, 2024, 2613, proposition B.1).
    """

    def deviate(keys: float) -> float:
        x = 8 * max(keys, 1.0) / _KEYS_IN_MIND  # near 8 it is the narrowest for the usual alphas
        return math.sqrt(2 * (1 + 1 / x) * math.log1p(math.sqrt(1 + x) / (2 * alpha)))

    return Level(alpha, deviate)


def fixed(alpha: float) -> Level:
    """The level of a bound that is looked at once, at a time that was fixed before."""
    z = NormalDist().inv_cdf(1 - alpha)
    return Level(alpha, lambda keys: z)


AT_95 = fixed(0.025)
"""The level of either end of an interval of 95 %."""


def difference(candidate: Sequence[Units], live: Sequence[Units], level: Level = AT_95) -> Difference | None:
    """Compares the shares of two arms; None: one of them has nothing to count.

    Args:
        candidate: of each bin, how many were bad, and how many there were.
        level: of either end of the interval of the difference.
    """
    given, beside = _Arm.of(candidate), _Arm.of(live)
    if given is None or beside is None:
        return None
    expected = given.expected + beside.expected
    residual = given.residual + beside.residual
    one, other = (arm.worth((arm.alike + residual) / (1 + expected)) for arm in (given, beside))
    z = level.deviate(min(given.keys, beside.keys))
    at = Level(level.alpha, lambda keys: z)
    (low, high), (other_low, other_high) = (_interval(arm, n, at) for arm, n in ((given, one), (beside, other)))
    value = given.share - beside.share
    return Difference(
        given.shown(one),
        beside.shown(other),
        value,
        value - math.hypot(given.share - low, other_high - beside.share),
        value + math.hypot(high - given.share, beside.share - other_low),
    )


def highest(figure: Figure, candidate: Outcomes, live: Outcomes, placed: frozenset[str], number: int = 1) -> float:
    """The upper end of the difference, by all nodes, or by all but the one whose word lowers it most.

    One node's word counts only for a pointer that is placed there alone; 1: nothing to compare. `number`: of the A/B.
    """
    level = fixed(ALPHA / 2 ** min(number, 40))  # less risk than that is rounded to none
    found = [difference(units_of(candidate, figure), units_of(live, figure), level)]
    if len(placed | candidate.keys() | live.keys()) > 1:
        found += [difference(given, beside, level) for _, given, beside in each_left_out(candidate, live, figure)]
    return max(1.0 if one is None else one.high for one in found)


def is_worse(figure: Figure, candidate: Outcomes, live: Outcomes, limit: float) -> bool:
    """Tells whether guard would take a candidate out whichever of its callers is left out, a bin of keys at a time.

    A caller who asks what no release could answer is in one arm alone. The rest has to be evidence enough by itself,
    and worse than what answers beside it.

    Args:
        limit: the share above which guard rolls a release back.
    """
    given, beside = units_of(candidate, figure), total(units_of(live, figure))
    bad, n = total(given)
    without = ((bad - k, n - m) for k, m in {units for units in given if units[0]})
    return bad > 0 and all(
        evidence_since_move(rest, limit) >= ROLLBACK_LEVEL and apart(rest, beside, CONFIDENCE_Z) for rest in without
    )


class _Arm(NamedTuple):
    bad: int
    n: int
    residual: float
    """Squared residuals of the bins, corrected for their number."""
    expected: float
    """What it would be for independent requests."""
    alike: float
    """The design effect if all answers to a key are alike."""

    @classmethod
    def of(cls, bins: Sequence[Units]) -> _Arm | None:
        bad, n = total(bins)
        if not n:
            return None
        share, filled = bad / n, sum(1 for _, units in bins if units)
        residual = sum((k - share * units) ** 2 for k, units in bins) * filled / max(1, filled - 1)
        # Keys fall into bins by chance, so that the squares of bins tell the sum of the squares of keys.
        squares = (sum(units**2 for _, units in bins) - n * n / len(bins)) / (1 - 1 / len(bins))
        alike = min(max(squares / n, 1.0), float(n))
        return cls(bad, n, residual, n * share * (1 - share), alike)

    @property
    def share(self) -> float:
        return self.bad / self.n

    @property
    def keys(self) -> float:
        """How many keys of equal size it is worth."""
        return self.n / self.alike

    def worth(self, pooled: float) -> float:
        """The number of independent requests that it is worth, by its own design effect or the one of both arms."""
        own = (self.alike + self.residual) / (1 + self.expected)
        return self.n / min(max(own, pooled, 1.0), self.alike)

    def shown(self, worth: float) -> Share:
        low, high = _interval(self, worth, AT_95)
        return Share(self.bad, self.n, low, high, self.keys)


def _interval(arm: _Arm, worth: float, level: Level) -> tuple[float, float]:
    if arm.keys < _FEWEST_KEYS:
        return (0.0, 1.0)
    low, high = wilson(arm.share * worth, worth, z=student(level.deviate(arm.keys), min(arm.keys, BINS) - 1))
    if not arm.bad:  # that so many keys had none is seen once, however often it is looked at
        high = min(high, 1 - level.alpha ** (1 / arm.keys))
    return (low, high)


def student(z: float, degrees: float) -> float:
    """Student's deviate with the tail of a normal deviate, for four degrees of freedom at least.

    Abramowitz and Stegun, Handbook of Mathematical Functions (1964), 26.7.5.
    """
    terms = ((z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
    return z + sum(term / degrees**power for power, term in enumerate(terms, 1))


COMPARE = "compare"
"""The name of a gate's check of an A/B."""


def awaited(comparison: Comparison, candidate: Outcomes, live: Outcomes, now_ms: int, placed: frozenset[str]) -> str:
    """Says in words what the end of an A/B waits for; '' once it is over. `placed`: the pointer's nodes."""
    if comparison.keys is None:
        until_ms = comparison.until_ms or 0
        return "" if now_ms >= until_ms else utc(until_ms)
    keys = min(_sure_keys(candidate, placed), _sure_keys(live, placed))
    return "" if keys >= comparison.keys else f"{keys} of {comparison.keys} keys in each arm"


def _sure_keys(arm: Outcomes, placed: frozenset[str]) -> int:
    return seen({node: of.keys for node, of in arm.items()}, placed)


def compared(
    figure: Figure,
    candidate: Outcomes,
    live: Outcomes,
    found: Difference | None,
    placed: frozenset[str] | None = None,
) -> ArmsCompared:
    """Both arms as they are shown and recorded.

    Args:
        found: None where one of them has nothing to count.
        placed: the pointer's nodes, so that the keys rest on no one node's word; None: it is only shown.
    """
    keys, live_keys = (keys_of(arm) if placed is None else _sure_keys(arm, placed) for arm in (candidate, live))
    if found is None:
        given, beside = (ArmShare(keys=of, bad=0, n=0, low=0.0, high=1.0) for of in (keys, live_keys))
        return ArmsCompared(figure=figure, candidate=given, live=beside, value=0.0, low=-1.0, high=1.0)
    arms = zip((keys, live_keys), (found.candidate, found.live), strict=True)
    given, beside = (ArmShare(keys=of, bad=arm.bad, n=arm.n, low=arm.low, high=arm.high) for of, arm in arms)
    return ArmsCompared(figure=figure, candidate=given, live=beside, value=found.value, low=found.low, high=found.high)


def ab_check(gate: CompareGate, result: ComparisonResult | None) -> CheckResult:
    """Checks what a gate asks of an A/B. `result`: the newest of the candidate against the live release, or None."""
    if result is None or result.comparison.figure is not gate.figure:
        note = f"no A/B of {gate.figure.value} against the live release is on record: loradeck candidate compare"
        return _checked(gate, note=note, value=1.0, n=0, low=-1.0, high=1.0, passed=False)
    arms = result.arms
    n = min(arms.candidate.keys, arms.live.keys)
    few = f"{n} keys in the smaller arm, {gate.keys} are asked for" if n < gate.keys else ""
    note, passed = few or f"A/B number {result.number} of this release", not few and result.highest < gate.margin
    return _checked(gate, note=note, value=result.highest, n=n, low=arms.low, high=arms.high, passed=passed)


def _checked(
    gate: CompareGate, *, note: str, value: float, n: int, low: float, high: float, passed: bool
) -> CheckResult:
    return CheckResult(
        name=COMPARE, passed=passed, value=value, threshold=gate.margin, n=n, low=low, high=high, note=note
    )


def for_a_start(result: GateResult) -> GateResult:
    """The result as it binds the start of a candidate: that is what an A/B needs first."""
    checks = tuple(one for one in result.checks if one.name != COMPARE)
    return result.model_copy(update={"checks": checks, "passed": all(one.passed for one in checks)})
