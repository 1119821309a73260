"""Decides by what was measured on the same items: weights, a prompt or retrieval; and whether a student pays.

The rules: facts that change belong into retrieval; style, format and procedure with thousands of verified pairs
into weights; a one-off into the prompt. Weights have to win in pairs, surely: they are an artifact to secure, evaluate,
roll back and explain.

A student pays if serving it saves more beside its teacher, on one engine, than having it costs.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from loradeck.rules.errors import Refused
from loradeck.rules.quality.figures import around, estimate, figure
from loradeck.rules.quality.figures import percentile as percentile_of
from loradeck.rules.quality.freshness import figure as mean
from loradeck.rules.quality.statistics import drop_bound, paired_bootstrap, percentile, ratio, wilson
from loradeck.schemas.attestation import EngineBuild, EvaluationReport
from loradeck.schemas.decision import ArmFigures, PayoffPrices, Prices
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


P99 = 0.99


@dataclass(frozen=True)
class Served:
    """The time and the price of a release's answers, by one evaluation.

    `p99_ms` has a 95 % interval, `low` to `high`, over `n` answers. `per_1k`: what 1,000 tokens cost; `error`: its
    standard error over answers; None: their tokens are not known.
    """

    p99_ms: float
    low: float
    high: float
    n: int
    per_1k: float
    right: Figure | None
    tokens: Figure | None
    error: float | None

    @property
    def cells(self) -> tuple[str, ...]:
        """In words: the share of items that are right, the p99, the tokens of an answer, the price of 1,000."""
        p99 = Figure(mean=self.p99_ms, low=self.low, high=self.high, n=self.n)
        price = estimate(self.per_1k, *around(self.per_1k, self.error, self.n), self.n)
        return figure(self.right, ".1%"), percentile_of(p99, P99), figure(self.tokens, ".3g"), price


@dataclass(frozen=True)
class Payoff:
    """A student beside its teacher. Money is in the prices' currency, by the month.

    `span`: the 95 % interval of what is saved, by what answers took of both; prices that people state are taken as they
    are. `items`: that both were asked. `lost`, `won`: those of them that the student has wrong and the teacher right,
    and the reverse; `bound`: the largest drop that these counts do not rule out (95 %, one-sided).
    """

    teacher: Served
    student: Served
    saved: float
    span: tuple[float | None, float | None]
    costs: float
    items: int
    lost: int
    won: int
    bound: float

    @property
    def pays(self) -> bool:
        """Whether serving the student saves more than having it costs."""
        return self.saved > self.costs

    @property
    def verdict(self) -> str:
        """The verdict in words."""
        low, high = self.span
        unsure = ", NOT SURELY" if low is not None and high is not None and low <= self.costs <= high else ""
        told = f"{estimate(self.saved, low, high, self.items, ',.2f')} saved a month, {self.costs:,.2f} it costs"
        return f"SAVES {'MORE' if self.pays else 'LESS'} THAN IT COSTS{unsure}: {told}"


def payoff(teacher: EvaluationReport, student: EvaluationReport, prices: PayoffPrices) -> Payoff:
    """Compares a student with its teacher, by their reports on one suite.

    Raises: Refused `incomparable`: the reports are of two suites, of two engines, of engines that were asked in other
        ways, or say no speed.
    """
    _check_alike(teacher, student)
    theirs, ours = _served(teacher, prices), _served(student, prices)
    right = {item.id: item.exact for item in teacher.items}
    lost = sum(right.get(item.id, False) and not item.exact for item in student.items)
    won = sum(item.exact and not right.get(item.id, True) for item in student.items)
    scale, items = prices.tokens_per_month / 1000, sum(item.id in right for item in student.items)
    saved = (theirs.per_1k - ours.per_1k) * scale
    errors = [one.error * scale for one in (theirs, ours) if one.error is not None]
    return Payoff(
        teacher=theirs,
        student=ours,
        saved=saved,
        span=around(saved, math.hypot(*errors) if len(errors) == 2 else None, items),
        costs=prices.upkeep_per_month + prices.made_once / prices.months,
        items=items,
        lost=lost,
        won=won,
        bound=drop_bound(lost, won, items),
    )


def _check_alike(teacher: EvaluationReport, student: EvaluationReport) -> None:
    one, other, fix = teacher.speed, student.speed, "loradeck job evaluate both, with the same --batch, on like nodes"
    if teacher.suite != student.suite:
        raise Refused("incomparable", "the two were evaluated on different suites", fix=fix)
    if one is None or other is None:
        whose = "teacher" if one is None else "student"
        title = f"the {whose}'s report says no speed"
        detail = (
            "it was made in process, by an agent of before, or on a suite with choices, whose answers are not written"
        )
        raise Refused("incomparable", title, detail=detail, fix=fix)
    if _engine(teacher.engine) != _engine(student.engine) or one.at_once != other.at_once:
        said = "; ".join(
            f"{report.engine.key if report.engine else '-'}, {speed.at_once} at once"
            for report, speed in ((teacher, one), (student, other))
        )
        raise Refused("incomparable", "the two were not served alike", detail=said, fix=fix)


def _engine(build: EngineBuild | None) -> EngineBuild | None:
    """The build without the number of its devices: a larger model may need more, and pays for them."""
    return build.model_copy(update={"tensor_parallel": 1}) if build is not None else None


def _served(report: EvaluationReport, prices: PayoffPrices) -> Served:
    assert report.speed is not None
    assert report.engine is not None
    times = [item.ms for item in report.items if item.ms is not None]
    value, low, high = percentile(times, P99) if times else (0.0, 0.0, 0.0)
    hours = report.speed.seconds / 3600
    spent = hours * prices.device_hour * report.engine.tensor_parallel
    per_1k, error = spent / report.speed.tokens * 1000, None
    tokens = [item.tokens[1] for item in report.items if item.tokens is not None]
    if len(times) == len(tokens) == len(report.items) and sum(times) > 0 and sum(tokens) > 0:
        # A token's time, and with it its price, varies over answers as far as their times and lengths do.
        time, off = ratio(times, tokens)
        error = per_1k * off / time
    return Served(
        p99_ms=value,
        low=low,
        high=high,
        n=len(times),
        per_1k=per_1k,
        right=share([item.exact for item in report.items]),
        tokens=mean(tokens) if error is not None else None,
        error=error,
    )
