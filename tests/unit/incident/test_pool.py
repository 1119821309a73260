"""The demo's claims on its pool: broken only by a counterexample, inconclusive where evidence is missing."""

from __future__ import annotations

from typing import Any

import pytest

from incident.pool import Drained, Stand, judge
from incident.report import Report
from incident.traffic import Answer, Prompt
from incident.verdict import Verdict

V1, OTHER = "1" * 64, "2" * 64
HELD, BROKEN, INCONCLUSIVE = Verdict.HELD, Verdict.BROKEN, Verdict.INCONCLUSIVE


def answer(request: str, text: str = "right", status: int = 200) -> Answer:
    prompt = Prompt(id="p1", messages=())
    return Answer(
        id=request, node="gw-01", tenant="cedar", prompt=prompt, sent_ns=0, done_ns=1, status=status, text=text
    )


def stand(node: str = "gpu-01", **more: Any) -> Stand:
    fields: dict[str, Any] = {
        "tenant": "cedar",
        "replicas": 1,
        "pool": ("gpu-01", "gpu-02"),
        "assigned": (node,),
        "levels": {node: "proven"},
        "release": V1,
        "answers": (answer("r1"),),
        "admitted": {"r1": (node, V1)},
    }
    return Stand(**(fields | more))


def drained(**more: Any) -> Drained:
    fields: dict[str, Any] = {
        "node": "gpu-01",
        "before": stand(),
        "after": stand("gpu-02"),
        "meanwhile": (answer("r2"),),
        "seconds": 4.0,
    }
    return Drained(**(fields | more))


def judged(before: Stand | None = None, moved: Drained | None = None) -> tuple[Verdict, Verdict]:
    report = Report(labels={}, replicas=2)
    judge(report, [before or stand()], moved or drained())
    first, second = report.claims
    return first.verdict, second.verdict


def test_a_tenant_that_is_answered_where_it_is_assigned_and_moved_without_a_failed_request_holds() -> None:
    assert judged() == (HELD, HELD)


@pytest.mark.parametrize(
    ("what", "verdict"),
    [
        ({"assigned": ("gpu-01", "gpu-02")}, BROKEN),
        ({"pool": ("gpu-02",)}, BROKEN),
        ({"levels": {"gpu-01": "listed"}}, BROKEN),
        ({"answers": (answer("r1", status=503),)}, BROKEN),
        ({"admitted": {"r1": ("gpu-02", V1)}}, BROKEN),
        ({"admitted": {"r1": ("gpu-01", OTHER)}}, BROKEN),
        ({"assigned": (), "admitted": {}}, INCONCLUSIVE),
        ({"levels": {"gpu-01": "flipped"}}, INCONCLUSIVE),
        ({"admitted": {}}, INCONCLUSIVE),
        ({"answers": (), "admitted": {}}, INCONCLUSIVE),
    ],
)
def test_where_a_tenant_stands_is_broken_by_what_was_seen_and_left_open_by_what_was_not(
    what: dict[str, Any], verdict: Verdict
) -> None:
    assert judged(before=stand(**what)) == (verdict, HELD)


@pytest.mark.parametrize(
    ("what", "verdict"),
    [
        ({"meanwhile": (answer("r2"), answer("r3", status=503))}, BROKEN),
        ({"after": stand("gpu-02", answers=(answer("r1", "wrong"),))}, BROKEN),
        ({"after": stand("gpu-02", admitted={"r1": ("gpu-01", V1)})}, BROKEN),
        ({"after": stand("gpu-02", levels={"gpu-02": "failed"})}, BROKEN),
        ({"after": stand("gpu-01")}, INCONCLUSIVE),
        ({"meanwhile": ()}, INCONCLUSIVE),
    ],
)
def test_a_drain_is_broken_by_a_failed_or_other_answer_and_left_open_by_a_node_that_was_not_left(
    what: dict[str, Any], verdict: Verdict
) -> None:
    assert judged(moved=drained(**what)) == (HELD, verdict)
