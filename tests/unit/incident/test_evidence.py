"""Requests around an acknowledgement: on which side of it they were admitted, and who answered."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from incident.evidence import WINDOW_NS, Traces, judge_window
from incident.traffic import Answer, Prompt
from loradeck.schemas.trace import TraceRow

V2, V3 = "2" * 64, "3" * 64
PROMPT = Prompt(id="p", messages=(), answers={V2: "good", V3: "bad"})
ACK = 1_000_000_000


def answer(number: int, text: str, **more: Any) -> Answer:
    fields: dict[str, Any] = {"status": 200, "sent_ns": 0, "done_ns": 2 * ACK} | more
    return Answer(id=f"r{number}", node="gpu-01", tenant="acme", prompt=PROMPT, text=text, **fields)


def judged(*asked: tuple[int, str]) -> Any:
    answers = [answer(number, text) for number, (_, text) in enumerate(asked)]
    rows = {
        f"r{number}": TraceRow.model_construct(
            **(dict.fromkeys(TraceRow.model_fields) | {"request": f"r{number}", "admitted_mono_ns": at})
        )
        for number, (at, _) in enumerate(asked)
    }
    return judge_window("gpu-01", ACK, V3, answers, rows)


def test_requests_count_on_the_side_they_were_admitted_on() -> None:
    window = judged((ACK - 5, "bad"), (ACK, "bad"), (ACK + 5, "good"))
    assert (window.before, window.after, window.late) == (2, 1, 0)
    assert window.answered_by == {V3: 2, V2: 1}


def test_an_answer_of_the_left_release_is_late_however_long_after() -> None:
    window = judged((ACK + 1, "bad"), (ACK + 3 * WINDOW_NS, "bad"))
    assert (window.after, window.late) == (1, 2)


def test_an_answer_that_no_trace_has_is_judged_by_the_time_it_was_sent() -> None:
    early, after = answer(1, "bad", sent_ns=ACK - 1), answer(2, "bad", sent_ns=ACK + 1)
    window = judge_window("gpu-01", ACK, V3, [early, after], {})
    assert (window.before, window.after, window.late) == (1, 1, 1)


def test_tokens_of_no_release_are_undecided_and_failures_are_counted() -> None:
    window = judge_window("gpu-01", ACK, V3, [answer(1, "neither", sent_ns=ACK), answer(2, "good", status=503)], {})
    assert (window.undecided, window.failed, window.total) == (1, 1, 1)


class Router:
    """A node whose trace is a list, in the place of a fleet."""

    def __init__(self) -> None:
        self.node = SimpleNamespace(name="gpu-01", process=SimpleNamespace(pid=1))
        self.nodes = [self.node]
        self.rows: list[dict[str, Any]] = []
        self.asked: list[int] = []

    def answered(self, number: int) -> Answer:
        row = dict.fromkeys(TraceRow.model_fields, 0) | {"seq": len(self.rows) + 1, "request": f"r{number}"}
        row |= dict.fromkeys(("tenant", "route", "replica", "fault", "judge"), "x") | {
            "release": V2,
            "admitted_mono_ns": ACK + number,
        }
        self.rows.append(row | dict.fromkeys(("streamed", "checked", "bad"), False))
        return answer(number, "good")

    def trace(self, node: Any, after: int) -> list[dict[str, Any]]:
        self.asked.append(after)
        return [row for row in self.rows if row["seq"] > after]

    async def after_the_ack(self, traces: Traces, *answers: Answer) -> int:
        row: Any = SimpleNamespace(replicas=[SimpleNamespace(node="gpu-01", flipped_mono_ns=ACK)])
        (window,) = await traces.windows(row, V3, answers)
        return window.after


async def test_a_trace_is_read_on_from_the_last_move_and_from_its_beginning_after_a_restart() -> None:
    router = Router()
    traces = Traces(cast(Any, router))
    assert await router.after_the_ack(traces, router.answered(1), router.answered(2)) == 2
    assert await router.after_the_ack(traces, router.answered(3)) == 1
    assert router.asked == [0, 2]
    router.rows, router.node.process.pid = [], 2
    assert await router.after_the_ack(traces, router.answered(4)) == 1
    assert router.asked[-1] == 0
