"""Decides whether behaviour belongs into weights, a prompt or retrieval, by what was measured on the same items.

The rules: facts that change belong into retrieval; style, format and procedure with thousands of verified pairs
into weights; a one-off into the prompt. Weights have to win in pairs, surely: they are an artifact to secure, evaluate,
roll back and explain.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from loradeck.rules.quality.figures import estimate, figure
from loradeck.rules.quality.figures import percentile as percentile_of
from loradeck.rules.quality.statistics import paired_bootstrap, percentile, wilson
from loradeck.schemas.decision import ArmFigures, Prices
from loradeck.schemas.freshness import Figure

VERIFIED = 1000
"""Rows by people from which on a procedure is known well enough to be trained."""

ONE_OFF = 1000
"""Requests a month below which behaviour is a one-off."""


class Verdict(NamedTuple):
    """The verdict on the arms of a worksheet: whether weights are worth it, which arm is to serve, and why."""

    weights: bool
    choice: str
    gain: Figure | None
    reasons: tuple[str, ...]
    against: tuple[str, ...]


def share(right: Collection[bool]) -> Figure | None:
    """A share and its 95 % interval by Wilson; None of nothing."""
    if not right:
        return None
    low, high = wilson(sum(right), len(right))
    return Figure(mean=sum(right) / len(right), low=low, high=high, n=len(right))


def p95(ms: Sequence[float]) -> Figure:
    """The 95th percentile of times, and its interval by ranks; zeros where none was taken."""
    value, low, high = percentile(ms, 0.95) if ms else (0.0, 0.0, 0.0)
    return Figure(mean=value, low=low, high=high, n=len(ms))


def cost(
    prices: Prices, requests: int, *, tokens: tuple[float, float], seconds: float, hours: float, gb: float
) -> float:
    """Computes what 1,000 requests cost on an arm, with their part of training and storage.

    A request is paid by its tokens where those have prices, else by the time that it takes of an engine.

    Args:
        requests: a month's.
        tokens: in and out, a request.
        seconds: of the engine, a request.
        hours: of training, a month.
        gb: that are kept.
    """
    a_request = seconds / 3600 * prices.gpu_hour
    if prices.token_in_million is not None and prices.token_out_million is not None:
        a_request = (tokens[0] * prices.token_in_million + tokens[1] * prices.token_out_million) / 1e6
    return 1000 * (a_request + (hours * prices.gpu_hour + gb * prices.gb_month) / requests)


def gained(one: Mapping[str, bool], other: Mapping[str, bool], of: int = 1) -> Figure | None:
    """The share of items that one arm wins over another, in pairs, with its bootstrap interval; None without items.

    `of`: arms of which the one was chosen by the same items; the interval's level is 1 - 0.05 / `of` (Bonferroni).
    """
    both = one.keys() & other.keys()
    won, lost = (sum(a[item] and not b[item] for item in both) for a, b in ((one, other), (other, one)))
    if not both:
        return None
    low, high = paired_bootstrap(lost, won, len(both), 1 - 0.05 / of)
    return Figure(mean=(won - lost) / len(both), low=-high, high=-low, n=len(both))


def best_of(arms: Sequence[ArmFigures], *, weights: bool) -> ArmFigures | None:
    """Returns the arm with the most right items (the cheaper of equals), with or without weights; None: no arm."""
    of = [arm for arm in arms if arm.weights is weights]
    return max(of, key=lambda arm: (arm.right.mean, -arm.cost), default=None)


def decide(
    arms: Sequence[ArmFigures], right: Mapping[str, Mapping[str, bool]], changed: Collection[str], requests: int
) -> Verdict:
    """Decides which arm is to serve, and whether weights are worth it.

    Args:
        right: arm -> item -> whether its answer is right.
        changed: the items whose truth has changed.
        requests: a month.
    """
    best, tuned = (best_of(arms, weights=weights) for weights in (False, True))
    if best is None or tuned is None:
        only = best or tuned
        assert only is not None
        why = "no arm without weights was measured" if best is None else "no arm with weights was measured"
        return Verdict(False, only.name, None, (), (why,))
    gain = gained(right[tuned.name], right[best.name], sum(arm.weights for arm in arms))
    reasons, against = list[str](), list[str]()
    sure = gain is not None and gain.low > 0
    if gain is not None:
        told = f"{tuned.name} wins {figure(gain, '.1%')} of the items over {best.name}"
        if gain.mean < 0:
            lost = estimate(-gain.mean, -gain.high, -gain.low, gain.n, ".1%")
            told = f"{best.name} wins {lost} of them over {tuned.name}"
        (reasons if sure else against).append(told if sure else f"{told}: the weights do not surely win any")
    cheaper = tuned.cost < best.cost
    theirs, ours = (figure(arm.cost_of, ".3g", arm.cost) for arm in (tuned, best))
    told = f"1,000 requests cost {theirs} with {tuned.name}, {ours} with {best.name}"
    (reasons if cheaper else against).append(told)
    faster = tuned.p95_ms.high < best.p95_ms.low
    theirs, ours = (percentile_of(arm.p95_ms, 0.95) for arm in (tuned, best))
    told = f"p95 in ms is {theirs} with {tuned.name}, {ours} with {best.name}"
    (reasons if faster else against).append(told)
    told = f"{tuned.rows:,} rows by people; a procedure takes some {VERIFIED:,} that are verified"
    (reasons if tuned.rows >= VERIFIED else against).append(told)
    one_off = requests < ONE_OFF
    if one_off:
        against.append(f"{requests:,} requests a month are a one-off: a prompt is cheapest until it repeats")
    volatile = _volatile([arm for arm in arms if not arm.weights], tuned, right, changed)
    against += [volatile] if volatile else []
    weights = sure and not one_off and not volatile
    return Verdict(weights, tuned.name if weights else best.name, gain, tuple(reasons), tuple(against))


def _volatile(
    plain: Sequence[ArmFigures], tuned: ArmFigures, right: Mapping[str, Mapping[str, bool]], changed: Collection[str]
) -> str:
    """Says that retrieval surely has more of the changed truths right than weights; empty: it has not."""
    many = sum(arm.contexts for arm in plain)
    for arm in plain:
        ours, theirs = ({item: ok for item, ok in right[a.name].items() if item in changed} for a in (arm, tuned))
        gain = gained(ours, theirs, many) if arm.contexts else None
        if gain is not None and gain.low > 0:
            return f"of the truths that have changed {arm.name} wins {figure(gain, '.1%')}: they belong into retrieval"
    return ""
