"""Tells whether a student pays: what serving it saves beside its teacher, on one engine, and what having it costs."""

from dataclasses import dataclass

from loradeck.rules.errors import Refused
from loradeck.rules.quality.statistics import drop_bound, percentile
from loradeck.schemas.attestation import EngineBuild, EvaluationReport
from loradeck.schemas.payoff import Prices

P99 = 0.99


@dataclass(frozen=True)
class Served:
    """What serving a release takes: its p99 (ms) with a 95 % interval over `n` answers, and what 1,000 tokens cost."""

    p99_ms: float
    low: float
    high: float
    n: int
    per_1k: float


@dataclass(frozen=True)
class Payoff:
    """A student beside its teacher. Money is in the prices' currency, by the month.

    `lost`, `won`: items of the suite that the student has wrong and the teacher right, and the reverse; `bound`: the
    largest drop that these counts do not rule out (95 %, one-sided).
    """

    teacher: Served
    student: Served
    saved: float
    costs: float
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
        told = f"{self.saved:,.2f} saved a month, {self.costs:,.2f} it costs"
        return f"SAVES MORE THAN IT COSTS: {told}" if self.pays else f"SAVES LESS THAN IT COSTS: {told}"


def payoff(teacher: EvaluationReport, student: EvaluationReport, prices: Prices) -> Payoff:
    """Compares a student with its teacher, by their reports on one suite.

    Raises: Refused `incomparable`: the reports are of two suites, of two engines, of engines that were asked in other
        ways, or say no speed.
    """
    _check(teacher, student)
    theirs, ours = _served(teacher, prices), _served(student, prices)
    right = {item.id: item.exact for item in teacher.items}
    lost = sum(right.get(item.id, False) and not item.exact for item in student.items)
    won = sum(item.exact and not right.get(item.id, True) for item in student.items)
    return Payoff(
        teacher=theirs,
        student=ours,
        saved=(theirs.per_1k - ours.per_1k) * prices.tokens_per_month / 1000,
        costs=prices.upkeep_per_month + prices.made_once / prices.months,
        lost=lost,
        won=won,
        bound=drop_bound(lost, won, sum(item.id in right for item in student.items)),
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


def _served(report: EvaluationReport, prices: Prices) -> Served:
    assert report.speed is not None
    assert report.engine is not None
    times = [item.ms for item in report.items if item.ms is not None]
    value, low, high = percentile(times, P99) if times else (0.0, 0.0, 0.0)
    hours = report.speed.seconds / 3600
    spent = hours * prices.device_hour * report.engine.tensor_parallel
    return Served(value, low, high, len(times), spent / report.speed.tokens * 1000)
