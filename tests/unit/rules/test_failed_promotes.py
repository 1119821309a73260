"""Which failed promotes still need a person."""

from __future__ import annotations

import pytest
from tests.fakes import console_fleet as seed

from loradeck.rules.moves.forward import ANSWERED_BY, answers, unanswered
from loradeck.schemas.ids import Role
from loradeck.schemas.jobs import Job, JobState, PrepareSpec
from loradeck.schemas.log import Event, EventKind

COVE = ("cove", "production")


def prepare(state: JobState, *, route: str = "production", **result: str) -> Job:
    spec = PrepareSpec(tenant="cove", route=route, release=seed.view("cove", "v3").id, expected_generation=4)
    return Job(
        id="p1", kind="prepare", tenant="cove", spec=spec, state=state, created_ms=1, by="ci-bot", result=result or None
    )


def event(kind: EventKind, role: Role = Role.OPERATOR) -> Event:
    return seed.hub_state().events[-1].model_copy(update={"kind": kind, "role": role})


@pytest.mark.parametrize("later", [JobState.RUNNING, JobState.DONE, JobState.CANCELLED])
def test_only_the_newest_promote_of_a_pointer_counts(later: JobState) -> None:
    failed = prepare(JobState.FAILED)
    assert unanswered([failed]) == unanswered([prepare(later), failed]) == {COVE: failed}
    assert unanswered([failed, prepare(later)]) == {}
    assert unanswered([failed, prepare(later, route="staging")]) == {COVE: failed}


def test_an_answered_one_stays_answered() -> None:
    assert unanswered([prepare(JobState.FAILED, **{ANSWERED_BY: "e1"})]) == {}


@pytest.mark.parametrize("kind", [EventKind.PROMOTE, EventKind.ROLLBACK, EventKind.HOLD, EventKind.ANNOTATE])
def test_a_move_or_a_persons_hold_or_note_answers_it(kind: EventKind) -> None:
    assert answers(event(kind))


def test_an_agents_hold_and_settings_do_not() -> None:
    assert not answers(event(EventKind.HOLD, Role.AGENT))
    assert not answers(event(EventKind.ROUTE))
