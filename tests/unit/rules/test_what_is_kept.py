"""What undos, lifts and rewinds keep of a pointer, and what they take away."""

from __future__ import annotations

import time

import pytest
from tests.fleets.in_process.log import ACME, OPERATOR, RELEASER, Acme, rid

from loradeck.rules.clocks import utc
from loradeck.rules.errors import Refused
from loradeck.rules.moves import records, rewind, rollbacks
from loradeck.rules.moves.rollback_target import PointerFacts
from loradeck.rules.moves.rollbacks import _quarantined_before
from loradeck.schemas.counts import NO_COUNTS, Counts
from loradeck.schemas.log import EventKind, Lifted, PointerState, Quarantine
from loradeck.schemas.moves import LiftRequest, RewindPlan, RewindRequest, RewindStep, UndoRequest

POINTER = PointerState(tenant="acme", route="production", generation=7, release=rid("v1"), beneath=(rid("v0"),))
BREACHED = PointerFacts(breached={rid("v1"): "bad 31.0% of 2310"}, breaches={rid("v1"): 9})


def quarantine(label: str, event: str) -> Quarantine:
    return Quarantine(release=rid(label), event=event * 32)


A, B, C = quarantine("v1", "a"), quarantine("v2", "b"), quarantine("v3", "c")


def with_(*quarantined: Quarantine) -> PointerState:
    return POINTER.model_copy(update={"quarantined": quarantined})


# ---- undo ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("was", "after", "now", "kept"),
    [
        ((A,), (A, B), (A, B), (A,)),  # nothing since: as before
        ((A,), (A, B), (A, B, C), (A, C)),  # what was set since stays
        ((A,), (A, B), (B,), ()),  # what a person lifted since stays lifted
        ((A, C), (A, C, B), (C, B), (C,)),
        ((A, B), (A,), (A, C), (A, C, B)),  # what the event took away comes back
        ((A, B), (A,), (A, B), (A, B)),  # once
        ((), (A,), (), ()),
    ],
)
def test_an_undo_takes_back_the_quarantines_that_its_event_set_and_no_others(
    was: tuple[Quarantine, ...],
    after: tuple[Quarantine, ...],
    now: tuple[Quarantine, ...],
    kept: tuple[Quarantine, ...],
) -> None:
    assert _quarantined_before(with_(*now), with_(*was), with_(*after)) == kept


def test_an_undo_that_comes_too_late_is_refused_with_where_the_pointer_is(acme: Acme) -> None:
    first = acme.promote("v1")
    acme.promote("v2")
    with pytest.raises(Refused) as refused:
        acme.undo(first)
    assert refused.value.code == "moved"
    assert first.id in refused.value.detail
    assert refused.value.context == {
        "generation": 2,
        "release": rid("v2"),
        "last_move": acme.pointer.last_move,
    }
    with pytest.raises(Refused) as refused:
        rollbacks.undo(
            {}, [first], {}, UndoRequest(event=first.id, confirmed=True, idempotency_key="undo-key-1"), OPERATOR
        )
    assert refused.value.context == {"generation": None, "release": None, "last_move": None}


# ---- lifts -----------------------------------------------------------------------------------------------------

LIVE, TOTAL = Counts.over(finished=10, failed=1), Counts.over(finished=90, failed=3)


def lift(label: str, facts: PointerFacts, pointer: PointerState = POINTER) -> PointerState:
    request = LiftRequest(release=rid(label), idempotency_key="lift-key-1", reason="it was the node")
    draft = records.lift(pointer, request, RELEASER, facts, live=LIVE, total=TOTAL)
    assert draft.kind is EventKind.LIFT
    assert draft.pointer is not None
    return draft.pointer


def test_a_lifted_breach_keeps_the_counts_up_to_now_and_the_breach_that_it_ends() -> None:
    assert lift("v1", BREACHED).lifted == (Lifted(release=rid("v1"), breach=9, generation=7, live=LIVE, total=TOTAL),)


def test_a_release_that_is_not_live_has_no_counts_in_this_generation() -> None:
    facts = PointerFacts(breached={rid("v0"): "bad"})
    assert lift("v0", facts).lifted == (Lifted(release=rid("v0"), breach=0, generation=7, live=NO_COUNTS, total=TOTAL),)


def test_a_lift_replaces_the_one_before_of_its_release_and_leaves_those_of_others() -> None:
    other = Lifted(release=rid("v0"), breach=3, generation=2)
    earlier = Lifted(release=rid("v1"), breach=4, generation=5)
    pointer = POINTER.model_copy(update={"lifted": (earlier, other)})
    lifted = lift("v1", BREACHED, pointer).lifted
    assert [(one.release, one.breach) for one in lifted] == [(rid("v0"), 3), (rid("v1"), 9)]


def test_a_lift_without_a_reason_is_refused() -> None:
    with pytest.raises(Refused) as refused:
        records.lift(
            POINTER,
            LiftRequest.model_construct(release=rid("v1"), idempotency_key="lift-key-1", reason=""),
            RELEASER,
            BREACHED,
        )
    assert refused.value.code == "reason_required"


# ---- rewind ----------------------------------------------------------------------------------------------------


def test_a_rewind_moves_what_its_plan_does_not_skip_each_behind_its_fence() -> None:
    other = ("acme", "staging")
    now = {ACME: POINTER, other: POINTER.model_copy(update={"route": "staging", "generation": 4})}
    then = {key: pointer.model_copy(update={"release": rid("v0"), "beneath": ()}) for key, pointer in now.items()}
    steps = [
        RewindStep(
            tenant="acme",
            route=route,
            generation=generation,
            from_release=rid("v1"),
            to_release=rid("v0"),
            skipped=skipped,
        )
        for route, generation, skipped in (("production", 7, "breached"), ("staging", 4, None))
    ]
    request = RewindRequest(to_rev=3, idempotency_key="rewind-key", reason="bad day", incident="INC-7")
    plan = RewindPlan(to_rev=3, at_ms=None, steps=tuple(steps))
    (draft,) = rewind.drafts(plan, now, then, request, OPERATOR, known={rid("v0"), rid("v1")})
    assert (draft.kind, draft.tenant, draft.route) == (EventKind.REWIND, "acme", "staging")
    assert (draft.from_release, draft.expected_generation) == (rid("v1"), 4)
    assert draft.pointer is not None
    assert (draft.pointer.release, draft.pointer.generation) == (rid("v0"), 5)
    assert (draft.actor, draft.role, draft.reason, draft.incident) == (OPERATOR.name, OPERATOR.role, "bad day", "INC-7")
    assert draft.payload == {"to_rev": 3}


# ---- freeze ----------------------------------------------------------------------------------------------------


def test_a_freeze_window_is_shown_in_utc_wherever_the_hub_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        assert utc(1_798_135_200_000) == "2026-12-24 18:00 UTC"
        assert utc(1_798_135_199_999) == "2026-12-24 17:59 UTC"
        assert utc(10**18) == "1000000000000000000 ms"
    finally:
        monkeypatch.undo()
        time.tzset()
