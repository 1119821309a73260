"""Promote, rollback, fallback, undo, hold and lift, each by what the design says of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.fleets.in_process.log import (
    GUARD,
    OPERATOR,
    PIPELINE,
    RELEASER,
    Acme,
    digest,
    facts,
    gate_result,
    release,
    rid,
)

from loradeck.rules.errors import Refused
from loradeck.rules.moves import forward, records, rollbacks
from loradeck.rules.moves.draft import Actor
from loradeck.rules.moves.rollback_target import PointerFacts, liftable, ruled_out
from loradeck.schemas.counts import Counts
from loradeck.schemas.gate import GateConfig
from loradeck.schemas.ids import Role
from loradeck.schemas.log import EventKind, PointerState
from loradeck.schemas.manifest import Release
from loradeck.schemas.moves import (
    AnnotateRequest,
    FallbackRequest,
    HoldRequest,
    LiftRequest,
    PromoteRequest,
    RollbackRequest,
    UndoRequest,
    UnpinRequest,
)
from loradeck.schemas.route import RouteConfig
from loradeck.schemas.state import PreviewAction
from loradeck.schemas.table import Pin, ReleaseRef
from loradeck.schemas.tenant import TenantState

KEY = "some-key-of-a-caller"


def code_of(refusal: pytest.ExceptionInfo[Refused]) -> str:
    return refusal.value.code


# ---- promote ---------------------------------------------------------------------------------------------


def test_promote_pushes_the_left_release_on_what_lay_beneath_it(acme: Acme) -> None:
    acme.promote("v1")
    acme.promote("v2")
    event = acme.promote("v3")
    assert (acme.live, acme.beneath, acme.pointer.generation) == ("v3", ["v2", "v1"], 3)
    assert (event.kind, event.from_release, event.to_release) == (EventKind.PROMOTE, rid("v2"), rid("v3"))
    assert acme.pointer.last_move == event.id
    assert acme.pointer.moved_ms == event.at_ms
    assert not acme.pointer.held


def test_the_left_release_goes_beneath_though_it_was_never_attested_here(acme: Acme) -> None:
    acme.promote("v1")
    acme.promote("v2", attest=False)
    acme.promote("v3")
    assert acme.beneath == ["v2", "v1"]
    assert acme.label(acme.target().release) == "v1"


def test_releases_that_were_never_attested_push_no_other_out_of_a_full_stack(acme: Acme) -> None:
    acme.promote("v1")
    for i in range(2, 32):
        acme.promote(f"v{i}", attest=False)
    assert len(acme.beneath) == forward.BENEATH_LIMIT
    assert acme.beneath == [*(f"v{i}" for i in range(30, 21, -1)), "v1"]
    assert acme.label(acme.target().release) == "v1"


def test_a_release_stands_in_the_stack_once(acme: Acme) -> None:
    for label in ("v1", "v2", "v3", "v2", "v3", "v2"):
        acme.promote(label)
    assert (acme.live, acme.beneath) == ("v2", ["v3", "v1"])


def test_the_stack_does_not_grow_for_ever(acme: Acme) -> None:
    for i in range(1, 31):
        acme.promote(f"v{i}")
    assert acme.beneath == [f"v{i}" for i in range(29, 29 - forward.BENEATH_LIMIT, -1)]


def test_the_release_that_is_live_is_not_promoted_again(acme: Acme) -> None:
    acme.promote("v1")
    with pytest.raises(Refused) as refusal:
        acme.promote("v1", override=True, reason="again")
    assert code_of(refusal) == "already_live"


def check(acme: Acme, label: str = "v2", **changes: Any) -> tuple[str, ...]:
    known: Release | None = release(label)
    asked: dict[str, Any] = {
        "actor": RELEASER,
        "release": known,
        "gate_results": acme.gates,
        "tenant": acme.tenant,
        "now_ms": 1000,
        "slots_ok": True,
        "base_placed": True,
    }
    request = PromoteRequest(
        release=rid(label),
        expected_generation=acme.pointer.generation,
        idempotency_key=KEY,
        override=changes.pop("override", False),
        reason=changes.pop("reason", ""),
    )
    facts = changes.pop("facts", acme.facts)
    return forward.check_promote(acme.pointer, request, facts, acme.config, **{**asked, **changes})


NEVER_OVERRIDDEN: dict[str, dict[str, Any]] = {
    "offboarded": {"tenant": TenantState(name="acme", offboarded=True)},
    "suspended": {"tenant": TenantState(name="acme", suspended=True)},
    "unknown_release": {"release": None},
    "wrong_base": {"base_placed": False},
    "no_slot": {"slots_ok": False},
    "revoked": {"facts": PointerFacts(revoked={rid("v2"): "leaks a customer's name"})},
}


@pytest.mark.parametrize("code", NEVER_OVERRIDDEN)
def test_no_override_passes(acme: Acme, code: str) -> None:
    acme.promote("v1")
    for override in (False, True):
        with pytest.raises(Refused) as refusal:
            check(acme, override=override, reason="hotfix", **NEVER_OVERRIDDEN[code])
        assert code_of(refusal) == code


def test_a_release_of_another_tenant_is_refused(acme: Acme) -> None:
    other = release("v2", "bolt")
    request = PromoteRequest(release=other.id, expected_generation=0, idempotency_key=KEY)
    with pytest.raises(Refused) as refusal:
        forward.check_promote(
            acme.pointer,
            request,
            acme.facts,
            acme.config,
            actor=RELEASER,
            release=other,
            gate_results=[],
            tenant=acme.tenant,
            now_ms=0,
            slots_ok=True,
            base_placed=True,
        )
    assert code_of(refusal) == "wrong_tenant"


def test_a_quarantined_release_is_promoted_only_after_a_lift(acme: Acme) -> None:
    acme.promote("v1")
    acme.promote("v2")
    rolled = acme.rollback()
    acme.hold(False)
    with pytest.raises(Refused) as refusal:
        check(acme, override=True, reason="hotfix")
    assert code_of(refusal) == "quarantined"
    assert refusal.value.context == {"event": rolled.id}
    acme.lift("v2")
    assert acme.promote("v2").to_release == rid("v2")


def test_a_held_pointer_takes_a_promote_only_after_a_person_cleared_it(acme: Acme) -> None:
    acme.promote("v1")
    acme.promote("v2")
    acme.rollback()
    for override in (False, True):
        with pytest.raises(Refused) as refusal:
            check(acme, "v3", override=override, reason="hotfix")
        assert code_of(refusal) == "held"
    acme.hold(False)
    assert check(acme, "v3") == ()


FREEZE = {"freeze": ((500, 1500),)}


@pytest.mark.parametrize(("now_ms", "frozen"), [(499, False), (500, True), (1499, True), (1500, False)])
def test_a_freeze_window_binds_from_its_first_to_before_its_last_millisecond(
    acme: Acme, now_ms: int, frozen: bool
) -> None:
    acme.config = RouteConfig(**FREEZE)
    if frozen:
        with pytest.raises(Refused, match="frozen") as refusal:
            check(acme, now_ms=now_ms)
        assert refusal.value.detail == "1970-01-01 00:00 UTC to 1970-01-01 00:00 UTC"
    assert check(acme, now_ms=now_ms, override=True, reason="hotfix") == (("frozen",) if frozen else ())


def test_a_gate_needs_a_result_of_this_release_on_this_suite_against_the_live_one(acme: Acme) -> None:
    acme.promote("v1")
    acme.config = RouteConfig(gate=GateConfig(suite=digest("suite")))
    passing = gate_result("v2", "v1", passed=True)
    elsewhere = passing.model_copy(update={"suite": digest("another suite")})
    for gates in ([], [elsewhere], [gate_result("v2", "v7", passed=True)], [gate_result("v3", "v1", passed=True)]):
        acme.gates = gates
        with pytest.raises(Refused) as refusal:
            check(acme)
        assert code_of(refusal) == "gate_missing"
    acme.gates = [passing]
    assert check(acme) == ()


def test_the_newest_gate_result_decides(acme: Acme) -> None:
    acme.promote("v1")
    acme.config = RouteConfig(gate=GateConfig(suite=digest("suite")))
    good, bad = gate_result("v2", "v1", passed=True), gate_result("v2", "v1", passed=False)
    acme.gates = [bad, good]
    assert check(acme) == ()
    acme.gates = [good, bad]
    with pytest.raises(Refused) as refusal:
        check(acme)
    assert code_of(refusal) == "gate_failed"
    assert refusal.value.title.endswith("failed its gate: exact")
    assert [c["name"] for c in refusal.value.context["checks"]] == ["exact"]


def test_a_result_that_only_says_the_suite_is_too_small_is_no_failed_gate_and_no_pass(acme: Acme) -> None:
    acme.promote("v1")
    acme.config = RouteConfig(gate=GateConfig(suite=digest("suite")))
    bad = gate_result("v2", "v1", passed=False)
    small = bad.checks[0].model_copy(update={"too_small": True, "needed": 246, "note": "suite too small: 9 items"})
    acme.gates = [bad.model_copy(update={"checks": (small,)})]
    with pytest.raises(Refused) as refusal:
        check(acme)
    assert (code_of(refusal), refusal.value.detail) == ("suite_too_small", "suite too small: 9 items")
    assert check(acme, override=True, reason="hotfix") == ("suite_too_small",)
    acme.gates = [bad.model_copy(update={"checks": (small, *bad.checks)})]
    with pytest.raises(Refused) as refusal:
        check(acme)
    assert code_of(refusal) == "gate_failed"


def test_an_override_is_kept_in_the_event_with_what_it_passed(acme: Acme) -> None:
    acme.promote("v1")
    acme.config = RouteConfig(gate=GateConfig(suite=digest("suite")), **FREEZE)
    event = acme.promote("v2", override=True, reason=" hotfix for v1 ", now_ms=1000)
    assert event.override
    assert event.reason == "hotfix for v1"
    assert event.payload == {"overridden": ["frozen", "gate_missing"]}


@pytest.mark.parametrize(
    ("actor", "reason", "code"),
    [
        (OPERATOR, "hotfix", "forbidden"),
        (Actor(name="gpu-01", role=Role.AGENT), "hotfix", "forbidden"),
        (RELEASER, "", "reason_required"),
        (RELEASER, "   ", "reason_required"),
    ],
)
def test_an_override_takes_a_releaser_and_a_reason(acme: Acme, actor: Actor, reason: str, code: str) -> None:
    with pytest.raises(Refused) as refusal:
        check(acme, actor=actor, override=True, reason=reason)
    assert code_of(refusal) == code


def test_a_promote_whose_pointer_moved_during_its_prepare_is_refused_at_its_commit(acme: Acme) -> None:
    acme.promote("v1")
    request = PromoteRequest(release=rid("v2"), expected_generation=0, idempotency_key=KEY)
    with pytest.raises(Refused) as refusal:
        forward.promote(acme.pointer, request, PIPELINE, attested=())
    assert code_of(refusal) == "moved"


# ---- rollback --------------------------------------------------------------------------------------------


def test_a_rollback_pops_quarantines_and_holds(acme: Acme) -> None:
    for label in ("v1", "v2", "v3"):
        acme.promote(label)
    event = acme.rollback()
    assert (acme.live, acme.beneath, acme.quarantined, acme.pointer.held) == ("v2", ["v1"], ["v3"], True)
    assert acme.pointer.quarantined[0].event == event.id
    assert acme.pointer.generation == 4


def test_a_rollback_past_a_skipped_release_drops_it_from_the_stack(acme: Acme) -> None:
    for label in ("v1", "v2", "v3"):
        acme.promote(label)
    acme.breach("v2")
    acme.rollback()
    assert (acme.live, acme.beneath) == ("v1", [])


def test_r_again_goes_one_further_back(acme: Acme) -> None:
    for label in ("v1", "v2", "v3"):
        acme.promote(label)
    acme.rollback()
    acme.rollback()
    assert (acme.live, acme.quarantined) == ("v1", ["v3", "v2"])


def test_the_base_alone_is_never_quarantined(acme: Acme) -> None:
    for label in ("v1", "v2"):
        acme.promote(label)
    acme.fallback()
    assert (acme.live, acme.beneath, acme.quarantined) == ("base", ["v1"], ["v2"])
    acme.rollback()
    assert (acme.live, acme.quarantined) == ("v1", ["v2"])


@pytest.mark.parametrize(
    ("to", "code"), [("v1", None), ("v2", "target_changed"), ("v9", "target_changed"), (None, "target_changed")]
)
def test_a_rollback_goes_where_the_caller_saw_it_go_or_nowhere(acme: Acme, to: str | None, code: str | None) -> None:
    acme.promote("v1")
    acme.promote("v2")
    request = RollbackRequest(expected_generation=2, to=rid(to) if to else None, idempotency_key=KEY)
    if code is None:
        acme.rollback(request)
        assert acme.live == "v1"
    else:
        with pytest.raises(Refused) as refusal:
            acme.rollback(request)
        assert code_of(refusal) == code
        assert acme.live == "v2"


def test_a_target_that_has_not_soaked_needs_a_confirmation(acme: Acme) -> None:
    acme.promote("v1")
    acme.promote("v2")
    acme.facts = facts("v2", "v1", unsoaked=["v1", "v2"])
    with pytest.raises(Refused) as refusal:
        acme.rollback()
    assert code_of(refusal) == "needs_confirmation"
    assert refusal.value.context == {"to": rid("v1"), "asks": "not soaked"}
    acme.rollback(confirmed=True)
    assert acme.live == "v1"


def test_r_that_was_to_roll_back_does_not_cancel_a_prepare_nobody_saw(acme: Acme) -> None:
    acme.promote("v1")
    acme.promote("v2")
    seen = acme.rollback_request()
    acme.pending = "job-7"
    with pytest.raises(Refused) as refusal:
        acme.rollback(seen)
    assert code_of(refusal) == "target_changed"
    assert refusal.value.context["prepare"] == "job-7"


@pytest.mark.parametrize("now_pending", [None, "job-8"])
def test_r_that_was_to_cancel_a_prepare_moves_nothing_when_that_has_ended(acme: Acme, now_pending: str | None) -> None:
    acme.promote("v1")
    acme.promote("v2")
    acme.pending = "job-7"
    seen = acme.rollback_request()
    acme.pending = now_pending
    with pytest.raises(Refused) as refusal:
        acme.rollback(seen)
    assert code_of(refusal) == "target_changed"
    assert acme.live == "v2"


# ---- fallback --------------------------------------------------------------------------------------------


def test_a_fallback_keeps_what_lay_beneath_the_left_release_and_sets_no_hold(acme: Acme) -> None:
    for label in ("v1", "v2", "v3"):
        acme.promote(label)
    event = acme.fallback()
    assert (acme.live, acme.beneath, acme.quarantined, acme.pointer.held) == ("base", ["v2", "v1"], ["v3"], False)
    assert event.kind is EventKind.FALLBACK


@pytest.mark.parametrize(("state", "code"), [("none", "nothing_live"), ("base", "already_live"), ("v1", None)])
def test_a_fallback_is_refused_where_it_would_change_nothing(acme: Acme, state: str, code: str | None) -> None:
    if state != "none":
        acme.promote(state)
    request = FallbackRequest(expected_generation=acme.pointer.generation, idempotency_key=KEY)
    if code is None:
        assert rollbacks.fallback(acme.pointer, request, OPERATOR, rid("base"), allowed=True).pointer is not None
        code = "fallback_not_allowed"
    with pytest.raises(Refused) as refusal:
        rollbacks.fallback(acme.pointer, request, OPERATOR, rid("base"), allowed=False)
    assert code_of(refusal) == code


# ---- undo ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("move", ["promote", "rollback", "fallback", "rewind"])
def test_an_undo_restores_the_pointer_but_for_its_generation(acme: Acme, move: str) -> None:
    for label in ("v1", "v2", "v3"):
        acme.promote(label)
    before = acme.pointer
    event = {
        "promote": lambda: acme.promote("v4"),
        "rollback": acme.rollback,
        "fallback": acme.fallback,
        "rewind": lambda: acme.rewind(1)[0],
    }[move]()
    undone = acme.undo(event)
    expected = before.model_copy(
        update={
            "generation": before.generation + 2,
            "last_move": undone.id,
            "moved_ms": undone.at_ms,
            "moved_epoch": undone.epoch,
        }
    )
    assert acme.pointer == expected
    assert undone.undoes == (event.id,)


def test_an_undo_to_what_R_left_asks_and_without_a_yes_leaves_everything_as_it_is(acme: Acme) -> None:
    acme.promote("v1")
    acme.promote("v2")
    rolled = acme.rollback()
    facts = PointerFacts(breached={rid("v2"): "bad 31.0% of 2310"})
    assert rollbacks.undo_asks(rolled, acme.pointer, facts) == "quarantined, breached: bad 31.0% of 2310, left by R"
    request = UndoRequest(event=rolled.id, idempotency_key=KEY)
    with pytest.raises(Refused) as refusal:
        rollbacks.undo(acme.log.ledger.pointers, [rolled], acme.log.before([rolled]), request, OPERATOR)
    assert refusal.value.code == "needs_confirmation"


def test_an_undo_to_a_release_that_was_breached_before_the_move_asks(acme: Acme) -> None:
    acme.promote("v1")
    promoted = acme.promote("v2")
    assert rollbacks.undo_asks(promoted, acme.pointer, PointerFacts()) is None
    breached = PointerFacts(breached={rid("v1"): "bad 31.0% of 2310"})
    assert rollbacks.undo_asks(promoted, acme.pointer, breached) == "breached: bad 31.0% of 2310"


def test_an_undo_of_an_undo_is_a_redo(acme: Acme) -> None:
    acme.promote("v1")
    acme.promote("v2")
    rolled = acme.rollback()
    after = acme.pointer
    redone = acme.undo(acme.undo(rolled))
    assert redone.pointer is not None
    changed = {"generation", "last_move", "moved_ms"}
    assert redone.pointer.model_dump(exclude=changed) == after.model_dump(exclude=changed)
    assert redone.pointer.quarantined[0].event == rolled.id


def test_an_undo_of_the_first_promote_leaves_nothing_live(acme: Acme) -> None:
    acme.undo(acme.promote("v1"))
    assert acme.pointer.release is None
    assert acme.pointer.generation == 2


def test_an_undo_leaves_the_hold_and_the_lift_that_a_person_made_since(acme: Acme) -> None:
    acme.promote("v1")
    acme.promote("v2")
    acme.rollback()
    acme.hold(False)
    promoted = acme.promote("v3")
    acme.hold(True)
    acme.lift("v2")
    acme.undo(promoted)
    assert (acme.live, acme.pointer.held, acme.quarantined) == ("v1", True, [])


def test_an_undo_of_a_rollback_ends_the_hold_and_the_quarantine_that_it_set_and_no_other(acme: Acme) -> None:
    for label in ("v1", "v2", "v3"):
        acme.promote(label)
    acme.rollback()
    second = acme.rollback()
    acme.undo(second)
    assert (acme.live, acme.beneath, acme.quarantined, acme.pointer.held) == ("v2", ["v1"], ["v3"], True)


def test_undoing_what_a_guard_did_needs_a_reason(acme: Acme) -> None:
    acme.promote("v1")
    acme.promote("v2")
    rolled = acme.rollback(actor=GUARD)
    before = acme.pointer
    with pytest.raises(Refused) as refusal:
        acme.undo(rolled, reason="  ")
    assert code_of(refusal) == "reason_required"
    assert acme.pointer == before
    assert acme.undo(rolled, reason="the schema was wrong").reason == "the schema was wrong"
    assert acme.live == "v2"


@pytest.mark.parametrize("by", ["rollback", "hold"])
def test_clearing_the_hold_of_a_guard_needs_a_reason(acme: Acme, by: str) -> None:
    acme.promote("v1")
    acme.promote("v2")
    set_by = acme.rollback(actor=GUARD) if by == "rollback" else acme.hold(True, GUARD)
    with pytest.raises(Refused) as refusal:
        acme.hold(False, set_by=set_by)
    assert code_of(refusal) == "reason_required"
    assert acme.pointer.held
    acme.hold(False, set_by=set_by, reason="looked at it")
    assert not acme.pointer.held


def test_clearing_a_persons_hold_needs_no_reason(acme: Acme) -> None:
    acme.promote("v1")
    acme.hold(False, set_by=acme.hold(True))
    assert not acme.pointer.held


def test_only_the_last_move_of_a_pointer_is_undone(acme: Acme) -> None:
    first = acme.promote("v1")
    last = acme.promote("v2")
    with pytest.raises(Refused) as refusal:
        acme.undo(first)
    assert code_of(refusal) == "moved"
    assert refusal.value.context["last_move"] == last.id


def test_what_is_no_move_is_not_undone(acme: Acme) -> None:
    acme.promote("v1")
    with pytest.raises(Refused) as refusal:
        acme.undo(acme.hold(True))
    assert code_of(refusal) == "not_undoable"


def test_an_undo_does_not_bring_back_what_is_revoked(acme: Acme) -> None:
    acme.promote("v1")
    event = acme.promote("v2")
    acme.revoke("v1")
    with pytest.raises(Refused) as refusal:
        acme.undo(event)
    assert code_of(refusal) == "revoked"


@pytest.mark.parametrize(
    ("event", "txn", "events", "code"),
    [
        (None, None, (), "bad_request"),
        ("e", "t", (), "bad_request"),
        ("e", None, ("f",), "bad_request"),
        (None, "t", ("f",), "bad_request"),
        ("e", None, (), "unknown_event"),
        (None, None, ("e", "f"), "unknown_event"),
    ],
)
def test_an_undo_names_one_event_some_or_one_txn_that_exist(
    event: str | None, txn: str | None, events: tuple[str, ...], code: str
) -> None:
    request = UndoRequest(event=event, txn=txn, events=events, idempotency_key=KEY)
    with pytest.raises(Refused) as refusal:
        rollbacks.undo({}, [], {}, request, OPERATOR)
    assert code_of(refusal) == code


# ---- what moves nothing ----------------------------------------------------------------------------------


def test_holding_and_clearing_move_nothing(acme: Acme) -> None:
    acme.promote("v1")
    before = acme.pointer
    held = acme.hold(True)
    assert acme.pointer == before.model_copy(update={"held": True})
    assert (held.kind, acme.hold(False).kind) == (EventKind.HOLD, EventKind.RELEASE_HOLD)
    assert acme.pointer == before


@pytest.mark.parametrize(
    ("held", "generation", "role", "code"),
    [(False, 1, Role.OPERATOR, "no_change"), (True, 0, Role.OPERATOR, "moved"), (True, 1, Role.AGENT, None)],
)
def test_a_hold_that_does_not_fit_is_refused(
    acme: Acme, held: bool, generation: int, role: Role, code: str | None
) -> None:
    acme.promote("v1")
    actor = Actor(name="someone", role=role)
    request = HoldRequest(held=held, expected_generation=generation, idempotency_key=KEY)
    if code is not None:
        with pytest.raises(Refused) as refusal:
            records.hold(acme.pointer, request, actor)
        assert code_of(refusal) == code
        return
    acme.log.commit(records.hold(acme.pointer, request, actor))
    with pytest.raises(Refused) as refusal:
        acme.hold(False, actor)
    assert code_of(refusal) == "forbidden"


def test_a_lift_ends_every_quarantine_of_the_release_and_says_which_moves_had_set_it(acme: Acme) -> None:
    acme.promote("v1")
    acme.promote("v2")
    rolled = acme.rollback()
    with pytest.raises(Refused) as refusal:
        acme.lift("v1")
    assert code_of(refusal) == "not_quarantined"
    event = acme.lift("v2")
    assert acme.quarantined == []
    assert event.payload == {"release": rid("v2"), "events": [rolled.id]}
    assert event.pointer is not None
    assert event.pointer.last_move == rolled.id


def test_an_unpin_names_the_node_and_leaves_the_pointer(acme: Acme) -> None:
    acme.promote("v1")
    before = acme.pointer
    (event,) = acme.log.commit(records.unpin(acme.pointer, UnpinRequest(node="gpu-01", idempotency_key=KEY), OPERATOR))
    assert (acme.pointer, event.payload) == (before, {"node": "gpu-01"})
    request = UnpinRequest(node="gpu-01", idempotency_key=KEY)
    (event,) = acme.log.commit(records.unpin(acme.pointer, request, OPERATOR, until_ms=7))
    assert (acme.pointer, event.payload) == (before, {"node": "gpu-01", "until_ms": 7})


def test_a_pin_is_an_event_of_its_node_and_leaves_the_pointer(acme: Acme) -> None:
    acme.promote("v1")
    acme.promote("v2")
    before = acme.pointer
    to = release("v1")
    pin = Pin(
        tenant="acme",
        route="production",
        release=ReleaseRef(id=to.id, release=to, label="v1"),
        over=(1, 2),
        actor="ops" * 100,
        reason="r" * 1000,
        at_ms=5,
        left=rid("v2"),
    )
    (event,) = acme.log.commit(records.pinned(pin, "gpu-01"))
    assert acme.pointer == before
    assert (event.kind, event.from_release, event.to_release, event.generation) == (
        EventKind.PIN,
        rid("v2"),
        rid("v1"),
        None,
    )
    assert (event.role, len(event.reason), event.actor[-7:]) == (Role.AGENT, 500, "@gpu-01")
    assert len(event.actor) < 120, "an agent cannot make the log as long as it likes"


def test_an_annotation_names_its_event_and_touches_nothing(acme: Acme) -> None:
    moved = acme.promote("v1")
    request = AnnotateRequest(event=moved.id, incident="INC-4711", idempotency_key=KEY)
    (event,) = acme.log.commit(records.annotate(moved, request, OPERATOR))
    assert (event.pointer, event.payload, event.incident) == (None, {"event": moved.id}, "INC-4711")
    with pytest.raises(Refused) as refusal:
        records.annotate(moved, AnnotateRequest(event=moved.id, idempotency_key=KEY), OPERATOR)
    assert code_of(refusal) == "bad_request"


def test_a_lift_needs_no_generation_but_is_checked_against_the_one_it_saw(acme: Acme) -> None:
    acme.promote("v1")
    acme.promote("v2")
    acme.rollback()
    draft = records.lift(acme.pointer, LiftRequest(release=rid("v2"), idempotency_key=KEY, reason="node"), RELEASER)
    assert draft.expected_generation == 3


def test_a_lift_of_a_breach_names_it_and_only_a_later_one_counts(acme: Acme) -> None:
    acme.promote("v1")
    acme.promote("v2")
    seen = PointerFacts(breached={rid("v1"): "bad 31.0% of 2310"}, breaches={rid("v1"): 7})
    counted = Counts.over(finished=3000, checked=2310, bad=716)
    request = LiftRequest(release=rid("v1"), idempotency_key=KEY, reason="the schema was wrong")
    before = acme.pointer
    (event,) = acme.log.commit(
        records.lift(before, request, RELEASER, seen, live=Counts.over(finished=1, checked=1), total=counted)
    )
    assert event.payload == {"release": rid("v1"), "events": [], "breach": "bad 31.0% of 2310"}
    (lifted,) = acme.pointer.lifted
    assert (lifted.release, lifted.breach, lifted.total, lifted.live) == (rid("v1"), 7, counted, Counts())
    assert acme.pointer.model_copy(update={"lifted": ()}) == before, "a lift moves nothing"
    assert ruled_out(rid("v1"), acme.pointer, seen) is None
    assert not liftable(rid("v1"), acme.pointer, seen)
    later = replace(seen, breaches={rid("v1"): 8})
    assert ruled_out(rid("v1"), acme.pointer, later) == "breached: bad 31.0% of 2310"
    assert liftable(rid("v1"), acme.pointer, later)
    assert not liftable(rid("v1"), acme.pointer, replace(later, revoked={rid("v1"): "leaks"}))


def test_what_was_lifted_stays_so_through_moves_and_is_not_undone_with_one(acme: Acme) -> None:
    acme.promote("v1")
    acme.promote("v2")
    seen = PointerFacts(breached={rid("v1"): "bad 31.0% of 2310"}, breaches={rid("v1"): 7})
    promoted = acme.promote("v3")
    request = LiftRequest(release=rid("v1"), idempotency_key=KEY, reason="the schema was wrong")
    acme.log.commit(records.lift(acme.pointer, request, RELEASER, seen))
    lifted = acme.pointer.lifted
    assert lifted
    acme.undo(promoted)
    acme.promote("v3")
    acme.rollback()
    assert acme.pointer.lifted == lifted


def test_a_lift_of_what_is_neither_quarantined_nor_breached_changes_nothing(acme: Acme) -> None:
    acme.promote("v1")
    request = LiftRequest(release=rid("v1"), idempotency_key=KEY, reason="why not")
    with pytest.raises(Refused) as refusal:
        records.lift(acme.pointer, request, RELEASER, name=lambda release: f"v1 ({(release or '')[:6]})")
    assert code_of(refusal) == "not_quarantined"
    assert f"v1 ({rid('v1')[:6]})" in refusal.value.title


def test_a_new_pointer_offers_nothing(acme: Acme) -> None:
    assert acme.pointer == PointerState(tenant="acme", route="production")
    target = acme.target()
    assert (target.action, target.refused) == (PreviewAction.NONE, "nothing is live on this pointer")
