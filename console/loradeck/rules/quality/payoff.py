"""Tells whether a student pays: what serving it saves beside its teacher, on one engine, and what having it costs."""

import math
from dataclasses import dataclass

from loradeck.rules.errors import Refused
from loradeck.rules.quality.decision import share
from loradeck.rules.quality.figures import around, estimate, figure
from loradeck.rules.quality.figures import percentile as in_percentile
from loradeck.rules.quality.freshness import figure as mean
from loradeck.rules.quality.statistics import drop_bound, percentile, ratio
from loradeck.schemas.attestation import EngineBuild, EvaluationReport
from loradeck.schemas.decision import PayoffPrices
from loradeck.schemas.freshness import Figure

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
        return figure(self.right, ".1%"), in_percentile(p99, P99), figure(self.tokens, ".3g"), price


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
    _check(teacher, student)
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


def _check(teacher: EvaluationReport, student: EvaluationReport) -> None:
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
