"""What a router counts of an answer beside its end: the pace of its tokens, and what checks that only alert noticed."""

from __future__ import annotations

import time

import pytest

from loradeck.schemas.counts import TOKEN_BUCKETS_MS, TTFT_BUCKETS_MS
from loradeck.schemas.judge import Judgement
from loradeck_agent.router.counters import Counter
from loradeck_agent.router.response_checks import Verdict
from loradeck_agent.router.trace import Row


def row(**fields: object) -> Row:
    at = time.monotonic_ns()
    begun = {"request": "r1", "tenant": "acme", "route": "production", "release": "a" * 64, "generation": 1}
    return Row(**begun, replica="n1", streamed=True, admitted_ns=at, admitted_ms=0, **fields)


def counter() -> Counter:
    return Counter("acme", "production", 1, "a" * 64, "n1")


@pytest.mark.parametrize(("events", "counted"), [(102, (30,)), (9, ())])
def test_the_pace_of_an_answer_is_the_mean_between_two_of_its_tokens(events: int, counted: tuple[int, ...]) -> None:
    of, one = counter(), row(events=events)
    one.first_token_ns = one.admitted_ns
    one.finished_ns = one.first_token_ns + 100 * 25 * 10**6
    of.leave(one, "answered")
    pace = of.typed().token_ms
    assert tuple(bound for bound, n in zip(TOKEN_BUCKETS_MS, pace, strict=False) if n) == counted
    assert len(of.typed().ttft_ms) == len(TTFT_BUCKETS_MS) + 1


def test_what_a_check_has_noticed_is_said_of_the_second_of_admission_and_of_no_repetition() -> None:
    of = counter()
    for voter in (True, True, False):
        one = row(voter=voter, sampled=True)
        of.admit(one, "ann")
        of.judged(one, Verdict("", ("language",)))
    said = of.typed()
    assert said.noticed == {"language": 3}
    assert sum(n for _, n in said.noticed_votes["language"]) == 2
    assert {at for at, _ in said.noticed_votes["language"]} <= {vote[0] for vote in said.votes}
    assert said.bad == 0


def test_a_judge_is_counted_in_the_second_of_admission_with_what_it_was_asked_of_and_without_repetitions() -> None:
    of = counter()
    rows = [row(voter=voter, sampled=True, asked=("judge",)) for voter in (True, True, True, False)]
    for one in rows:
        of.admit(one, "ann")
    for one, what in zip(rows, (Judgement.FAILED, Judgement.PASSED, Judgement.SHED, Judgement.FAILED), strict=True):
        of.judge_said(one, what)
    said = of.typed()
    ((_, asked, failed),) = said.asked_votes["judge"]
    assert (asked, failed) == (3, 1)
    assert said.noticed == {"judge": 2}


def test_what_plug_ins_have_looked_at_is_counted_beside_what_was_checked() -> None:
    of = counter()
    for plugins in (("polite",), ()):
        of.judged(row(), Verdict(), plugins)
    assert (of.typed().checked, of.typed().asked) == (2, {"polite": 1})
