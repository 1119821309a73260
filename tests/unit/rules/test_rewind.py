"""Rewind: the plan, what it skips, and that executing it moves what was seen and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fleets.in_process.log import OPERATOR, Acme, digest

from loradeck.rules.errors import Refused
from loradeck.rules.moves import rewind, rollbacks
from loradeck.rules.moves.rollback_target import PointerFacts
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.log import EventKind, PointerState, Quarantine
from loradeck.schemas.moves import RewindPlan, RewindRequest, UndoRequest

NAMES = ("acme", "bolt", "cedar")
KNOWN = {digest(w) for w in ("old", "older", "new")}


def pointers(word: str | None, generation: int, **changes: Any) -> dict[PointerKey, PointerState]:
    return {
        (name, "production"): PointerState(
            tenant=name,
            route="production",
            generation=generation,
            release=digest(word) if word else None,
            **changes,
        )
        for name in NAMES
    }


def plan(now: dict[PointerKey, PointerState], then: dict[PointerKey, PointerState], **changes: Any) -> RewindPlan:
    facts = changes.pop("facts", {})
    known = changes.pop("known", KNOWN)
    offboarded = changes.pop("offboarded", ())
    request = RewindRequest(to_rev=3, idempotency_key="rewind-key", **changes)
    return rewind.plan(now, then, request, facts, to_rev=3, at_ms=1000, known=known, offboarded=offboarded)


def outcome(made: RewindPlan) -> dict[str, str | None]:
    return {step.tenant: step.skipped for step in made.steps}


def test_a_plan_says_for_each_pointer_from_where_to_where_at_which_generation() -> None:
    made = plan(pointers("new", 7), pointers("old", 4))
    assert (made.to_rev, made.at_ms) == (3, 1000)
    assert [(s.tenant, s.generation, s.from_release, s.to_release, s.skipped) for s in made.steps] == [
        (name, 7, digest("new"), digest("old"), None) for name in NAMES
    ]


def test_a_selection_leaves_the_others_out() -> None:
    assert outcome(plan(pointers("new", 7), pointers("old", 4), tenants=("bolt",))) == {"bolt": None}


def test_what_serves_the_same_as_then_is_left_out() -> None:
    now = {**pointers("new", 7), ("bolt", "production"): pointers("old", 9)["bolt", "production"]}
    assert outcome(plan(now, pointers("old", 4))) == {"acme": None, "cedar": None}


def test_offboarded_tenants_are_left_out() -> None:
    assert outcome(plan(pointers("new", 7), pointers("old", 4), offboarded={"acme"})) == {"bolt": None, "cedar": None}


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (PointerFacts(revoked={digest("old"): "leak"}), "revoked: leak"),
        (PointerFacts(breached={digest("old"): "bad 31.0% of 2310"}), "breached: bad 31.0% of 2310"),
    ],
)
def test_revoked_and_breached_targets_are_skipped_and_listed(facts: PointerFacts, reason: str) -> None:
    made = plan(pointers("new", 7), pointers("old", 4), facts={("bolt", "production"): facts})
    assert outcome(made) == {"acme": None, "bolt": reason, "cedar": None}


def test_quarantined_targets_are_skipped_by_what_is_quarantined_now() -> None:
    quarantine = (Quarantine(release=digest("old"), event="e" * 32),)
    assert set(outcome(plan(pointers("new", 7, quarantined=quarantine), pointers("old", 4))).values()) == {
        "quarantined"
    }
    assert set(outcome(plan(pointers("new", 7), pointers("old", 4, quarantined=quarantine))).values()) == {None}


def test_a_pointer_that_had_nothing_live_is_never_emptied() -> None:
    for then in ({}, pointers(None, 0)):
        assert set(outcome(plan(pointers("new", 7), then)).values()) == {"nothing was live then"}


def test_nomad_3052_a_target_that_was_collected_is_skipped_and_listed() -> None:
    made = plan(pointers("new", 7), pointers("old", 4), known={digest("new")})
    assert set(outcome(made).values()) == {"that release is no longer kept"}


def test_nomad_3052_what_lay_beneath_then_and_was_collected_does_not_come_back_as_a_way_back() -> None:
    now = pointers("new", 7)
    then = pointers("old", 4, beneath=(digest("collected"), digest("older")))
    request = RewindRequest(to_rev=3, dry_run=False, generations={"acme/production": 7}, idempotency_key="rewind-key")
    made = plan(now, then, dry_run=False, generations=request.generations)
    (draft,) = rewind.drafts(made, now, then, request, OPERATOR, known=KNOWN)
    assert draft.pointer is not None
    assert draft.pointer.beneath == (digest("older"),)


def test_executing_without_the_plan_is_refused() -> None:
    with pytest.raises(Refused) as refusal:
        plan(pointers("new", 7), pointers("old", 4), dry_run=False)
    assert refusal.value.code == "plan_required"


def test_a_pointer_that_moved_since_the_plan_or_was_not_in_it_stays_and_is_listed() -> None:
    seen = {"acme/production": 7, "bolt/production": 6}
    made = plan(pointers("new", 7), pointers("old", 4), dry_run=False, generations=seen)
    assert outcome(made) == {
        "acme": None,
        "bolt": "moved since the plan: generation 7, the plan saw 6",
        "cedar": "not in the plan",
    }


def test_the_events_bring_back_release_and_beneath_and_keep_holds_and_quarantines() -> None:
    quarantine = (Quarantine(release=digest("worse"), event="e" * 32),)
    now = pointers("new", 7, beneath=(digest("old"),), held=True, quarantined=quarantine)
    then = pointers("old", 4, beneath=(digest("older"),))
    request = RewindRequest(
        to_rev=3,
        dry_run=False,
        generations={"acme/production": 7},
        idempotency_key="rewind-key",
        reason="back to 14:05",
        incident="INC-4711",
    )
    made = plan(now, then, dry_run=False, generations=request.generations)
    (draft,) = rewind.drafts(made, now, then, request, OPERATOR, known={digest("old"), digest("older")})
    assert draft.pointer is not None
    assert (draft.pointer.release, draft.pointer.beneath) == (digest("old"), (digest("older"),))
    assert (draft.pointer.generation, draft.expected_generation) == (8, 7)
    assert (draft.pointer.held, draft.pointer.quarantined) == (True, quarantine)
    assert (draft.kind, draft.reason, draft.incident) == (EventKind.REWIND, "back to 14:05", "INC-4711")
    assert draft.payload == {"to_rev": 3}


def test_an_undo_of_its_txn_gives_back_every_pointer_of_a_rewind(acme: Acme) -> None:
    acme.promote("v1")
    acme.promote("v2")
    acme.promote("v3")
    before = acme.pointer
    events = acme.rewind(1)
    assert (acme.live, acme.beneath) == ("v1", [])
    request = UndoRequest(txn=events[0].txn, confirmed=True, idempotency_key="undo-key-1")
    acme.log.commit(
        *rollbacks.undo(
            acme.log.ledger.pointers, acme.log.txn(events[0].txn), acme.log.before(events), request, OPERATOR
        )
    )
    assert (acme.pointer.release, acme.pointer.beneath) == (before.release, before.beneath)
    assert acme.pointer.generation == before.generation + 2


def test_an_undo_of_a_txn_is_refused_whole_when_one_of_its_pointers_moved_since() -> None:
    now, then = pointers("new", 7), pointers("old", 4)
    request = RewindRequest(
        to_rev=3, dry_run=False, generations={f"{n}/production": 7 for n in NAMES}, idempotency_key="rewind-key"
    )
    acme = Acme()
    acme.log.ledger.pointers = dict(now)
    made = plan(now, then, dry_run=False, generations=request.generations)
    events = acme.log.commit(*rewind.drafts(made, now, then, request, OPERATOR, known=KNOWN))
    assert len(events) == 3
    assert len({e.txn for e in events}) == 1
    moved = dict(acme.log.ledger.pointers)
    moved["cedar", "production"] = moved["cedar", "production"].model_copy(update={"last_move": "f" * 32})
    undo = UndoRequest(txn=events[0].txn, confirmed=True, idempotency_key="undo-key-1")
    with pytest.raises(Refused) as refusal:
        rollbacks.undo(moved, events, now, undo, OPERATOR)
    assert refusal.value.code == "moved"
    assert "cedar" in refusal.value.title
    assert len(rollbacks.undo(acme.log.ledger.pointers, events, now, undo, OPERATOR)) == 3
