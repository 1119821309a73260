"""A/B: two arms of callers and one figure, compared once, at a horizon that was stated before the first request.

Since nobody may look and stop, the interval is the plain one of 95 %, narrower than the bound by which steps are taken.
The result is recorded and moves nothing. A gate may ask for one; each further one of a release has half the risk.
"""

from datetime import UTC, datetime

from loradeck.rules.quality.arm_comparison import Difference, Outcomes, keys_of
from loradeck.rules.quality.health import seen
from loradeck.schemas.attestation import CheckResult, GateResult
from loradeck.schemas.candidate import ArmsCompared, ArmShare, Comparison, ComparisonResult, Figure
from loradeck.schemas.gate import CompareGate

COMPARE = "compare"
"""The name of a gate's check of an A/B."""


def awaited(comparison: Comparison, candidate: Outcomes, live: Outcomes, now_ms: int, placed: frozenset[str]) -> str:
    """Says in words what the end of an A/B waits for; '' once it is over. `placed`: the pointer's nodes."""
    if comparison.keys is None:
        until_ms = comparison.until_ms or 0
        return "" if now_ms >= until_ms else f"{datetime.fromtimestamp(until_ms / 1000, UTC):%Y-%m-%d %H:%M} UTC"
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


def check(gate: CompareGate, result: ComparisonResult | None) -> CheckResult:
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
