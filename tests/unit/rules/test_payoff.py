"""Whether a student pays: p99 and price of both on one engine, what is saved, what it costs, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from loradeck.rules.errors import Refused
from loradeck.rules.quality.decision import payoff
from loradeck.schemas.attestation import EngineBuild, EvaluationReport, ItemResult, ServedSpeed
from loradeck.schemas.decision import PayoffPrices

BUILD = EngineBuild(engine="vllm 0.32.0", device="cuda", dtype="bfloat16")
PRICES = PayoffPrices(
    currency="EUR", device_hour=3.6, tokens_per_month=1e8, made_once=1200, months=12, upkeep_per_month=150
)
"""3.6 an hour is 0.001 a second."""


def report(
    right: str,
    *,
    ms: float,
    tokens: int,
    seconds: float,
    tp: int = 1,
    lengths: tuple[int, ...] | None = None,
    **changes: Any,
) -> EvaluationReport:
    """A report whose items are right ('+') or wrong ('-') in turn, each answered in the same time.

    `lengths`: of the answers, in tokens.
    """
    items = tuple(
        ItemResult(id=str(i), answer="x", exact=c == "+", valid=True, ms=ms, tokens=lengths and (3, lengths[i]))
        for i, c in enumerate(right)
    )
    fields = {
        "release": "a" * 64,
        "suite": "5" * 64,
        "n": len(items),
        "exact": right.count("+"),
        "valid": len(items),
        "items": items,
        "seconds": 1.0,
        "engine": BUILD.model_copy(update={"tensor_parallel": tp}),
        "speed": ServedSpeed(tokens=tokens, seconds=seconds, at_once=8),
    }
    return EvaluationReport.model_validate(fields | changes)


TEACHER = report("++++-", ms=900, tokens=1000, seconds=2.0, tp=4)


def test_a_student_is_priced_by_its_devices_time_and_pays_where_that_saves_more_than_it_costs() -> None:
    found = payoff(TEACHER, report("+++-+", ms=200, tokens=2000, seconds=2.0), PRICES)
    assert found.teacher.per_1k == pytest.approx(0.008), "2 s of four devices for 1,000 tokens"
    assert found.student.per_1k == pytest.approx(0.001)
    assert (found.saved, found.costs) == (pytest.approx(700), pytest.approx(250))
    assert found.pays
    assert found.verdict == "SAVES MORE THAN IT COSTS: 700.00 (-, n = 5) saved a month, 250.00 it costs"
    assert (found.teacher.p99_ms, found.student.p99_ms, found.student.n) == (900, 200, 5)
    assert (found.lost, found.won) == (1, 1)
    assert 0 < found.bound < 1


def test_what_a_student_saves_has_an_interval_by_what_each_answer_took() -> None:
    lengths = (100, 180, 240, 220, 260)
    teacher = report("++++-", ms=900, tokens=1000, seconds=2.0, tp=4, lengths=lengths)
    found = payoff(teacher, report("+++-+", ms=200, tokens=2000, seconds=2.0, lengths=lengths), PRICES)
    low, high = found.span
    assert low is not None
    assert high is not None
    assert found.costs < low < found.saved < high
    assert low + high == pytest.approx(2 * found.saved)
    right, p99, tokens, price = found.teacher.cells
    assert (right, p99) == ("80.0% (37.6% to 96.4%, n = 5)", "900 (900 to -, n = 5)")
    assert tokens == "200 (121 to 279, n = 5)"
    assert price.startswith("0.008 (0.00")
    near = payoff(teacher, report("+++-+", ms=200, tokens=2000, seconds=10.0, lengths=lengths), PRICES)
    assert near.verdict.startswith("SAVES MORE THAN IT COSTS, NOT SURELY: 300.00 (")


def test_a_student_that_saves_pennies_saves_less_than_it_costs() -> None:
    student = report("+++++", ms=850, tokens=1000, seconds=7.9)
    found = payoff(TEACHER, student, PRICES)
    assert not found.pays
    assert found.verdict == "SAVES LESS THAN IT COSTS: 10.00 (-, n = 5) saved a month, 250.00 it costs"
    slower = payoff(TEACHER, report("+++++", ms=99, tokens=1000, seconds=9.0), PRICES)
    assert slower.saved < 0
    assert not slower.pays


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"suite": "6" * 64}, "different suites"),
        ({"speed": None}, "the student's report says no speed"),
        ({"speed": ServedSpeed(tokens=1, seconds=1, at_once=1)}, "not served alike"),
        ({"engine": BUILD.model_copy(update={"dtype": "float16"})}, "not served alike"),
        ({"engine": BUILD.model_copy(update={"engine": "vllm 0.33.0"})}, "not served alike"),
        ({"engine": None}, "not served alike"),
    ],
)
def test_what_was_not_measured_alike_is_not_compared(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(Refused, match=said):
        payoff(TEACHER, report("+++++", ms=1, tokens=1, seconds=1).model_copy(update=changes), PRICES)
