"""The judge of the benchmark's flips under load: it must see what must not happen."""

from __future__ import annotations

from typing import Any

from tests.bench.load import Flip, judge

from incident.traffic import Answer, Prompt
from loradeck.schemas.trace import TraceRow

V1, V2 = "1" * 64, "2" * 64
PROMPT = Prompt(id="p", messages=(), answers={V1: "one", V2: "two"})
FLIPS = [Flip(100, V1), Flip(200, V2)]


def _answer(number: int, text: str, **more: Any) -> Answer:
    fields: dict[str, Any] = {"status": 200, "complete": True} | more
    return Answer(id=f"r{number}", node="n", tenant="acme", prompt=PROMPT, sent_ns=0, done_ns=999, text=text, **fields)


def _row(number: int, at_ns: int) -> TraceRow:
    fields = dict.fromkeys(TraceRow.model_fields) | {"request": f"r{number}", "admitted_mono_ns": at_ns}
    return TraceRow.model_construct(**fields)


def _judged(*asked: tuple[int, str]) -> Any:
    answers = [_answer(number, text) for number, (_, text) in enumerate(asked)]
    trace = {f"r{number}": _row(number, at) for number, (at, _) in enumerate(asked)}
    return judge(answers, set(), FLIPS, V2, trace)


def test_answers_of_the_release_in_force_at_admission_are_fine() -> None:
    verdict = _judged((50, "two"), (150, "one"), (250, "two"))
    assert (verdict.judged, verdict.late, verdict.undecided) == (3, 0, 0)


def test_an_answer_by_the_left_release_after_either_swap_is_late() -> None:
    assert _judged((101, "two")).late == 1
    assert _judged((201, "one")).late == 1


def test_an_answer_that_is_no_releases_is_told_apart() -> None:
    verdict = _judged((150, "three"))
    assert (verdict.late, verdict.undecided) == (0, 1)


def test_refused_broken_and_untraced_answers_are_counted_each_as_what_they_are() -> None:
    answers = [
        _answer(0, "", status=503, complete=False),
        _answer(1, "on", complete=False),
        _answer(2, "one"),
    ]
    verdict = judge(answers, {1}, FLIPS, V2, {})
    assert (verdict.judged, verdict.failed, verdict.cut, verdict.streams, verdict.unseen) == (0, 1, 1, 1, 1)
