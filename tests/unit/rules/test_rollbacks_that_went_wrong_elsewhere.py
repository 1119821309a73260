"""Each of these happened to somebody. The issue's number is in the name."""

from __future__ import annotations

import pytest
from tests.fleets.in_process.log import ACME, OPERATOR, PIPELINE, Acme, digest, entry, gate_result, ref, rid

from loradeck.rules.errors import Refused
from loradeck.rules.moves import chain, rollbacks
from loradeck.rules.moves.fold import FoldedLog
from loradeck.rules.moves.rollback_target import PointerFacts
from loradeck.rules.serving import flip, residency, retention
from loradeck.rules.serving.flip import Verdict
from loradeck.schemas.gate import GateConfig
from loradeck.schemas.log import EventKind
from loradeck.schemas.moves import RollbackRequest
from loradeck.schemas.route import RouteConfig
from loradeck.schemas.state import PreviewAction
from loradeck.schemas.table import Gap, Pin
from loradeck.schemas.tenant import TenantState


def test_helm_1796_the_default_target_is_never_a_failed_revision(acme: Acme) -> None:
    acme.promote("v1")
    acme.promote("v2", attest=False)  # never proven anywhere
    acme.promote("v3")
    acme.promote("v4")
    acme.breach("v3")
    assert acme.beneath == ["v3", "v2", "v1"]
    target = acme.target()
    assert (acme.label(target.release), target.asks) == ("v1", None)
    assert target.skipped == ((rid("v3"), "breached: bad 31.0% of 2310"), (rid("v2"), "never attested here"))
    acme.rollback()
    assert acme.live == "v1"


@pytest.mark.parametrize("fault", ["quarantined", "revoked", "breached", "never attested"])
def test_argo_undo_does_not_take_the_second_highest_whatever_its_health(acme: Acme, fault: str) -> None:
    acme.promote("v1")
    acme.promote("v2")
    third = acme.promote("v3")
    if fault == "quarantined":
        acme.rollback()
        acme.rollback()
        acme.lift("v3")
        acme.rewind(third.rev)  # v3 stands over v2 again, and v2 is still quarantined
    elif fault == "revoked":
        acme.revoke("v2")
    elif fault == "breached":
        acme.breach("v2")
    else:
        acme.facts = PointerFacts(attested=(rid("v3"), rid("v1")), soaked=acme.facts.soaked)
    assert (acme.live, acme.beneath) == ("v3", ["v2", "v1"])
    target = acme.target()
    assert acme.label(target.release) == "v1"
    assert [acme.label(skipped) for skipped, _ in target.skipped] == ["v2"]
    assert target.skipped[0][1].startswith(fault)


def test_kubernetes_105732_the_target_is_what_lay_beneath_not_what_has_the_newest_date(acme: Acme) -> None:
    acme.promote("v2")
    acme.promote("v1")  # an older version, promoted later
    acme.promote("v3")
    acme.attest("v9", "v2")  # attested last, wherever and whenever it was made
    assert acme.beneath == ["v1", "v2"]
    assert acme.label(acme.target().release) == "v1"


def test_nomad_10337_a_rollback_that_cannot_move_says_so_and_never_reports_success(acme: Acme) -> None:
    acme.config = RouteConfig(fallback=False)
    acme.promote("v1")
    target = acme.target()
    assert target.action is PreviewAction.NONE
    assert target.refused == "no earlier release to go back to, and this route allows no fallback to the base alone"
    before = acme.log.copy()
    with pytest.raises(Refused) as refusal:
        acme.rollback()
    assert refusal.value.code == "no_prior"
    assert refusal.value.title == target.refused
    assert acme.log.events == before.events
    assert acme.pointer == before.pointer()


def test_nomad_10337_the_live_release_is_never_the_target_of_its_own_rollback(acme: Acme) -> None:
    acme.promote("base")
    acme.promote("v1")
    acme.fallback()
    assert (acme.live, acme.beneath) == ("base", ["base"])
    target = acme.target()
    assert target.action is PreviewAction.NONE
    assert target.release is None
    with pytest.raises(Refused, match="no_prior"):
        acme.rollback()


def test_nomad_3357_generations_do_not_wrap_at_255(acme: Acme) -> None:
    acme.promote("v1")
    promoted = acme.promote("v2")
    for _ in range(150):
        acme.undo(acme.log.events[-1])
        acme.undo(acme.log.events[-1])
    generations = [e.generation for e in acme.log.events]
    assert generations == list(range(1, 303))
    assert acme.live == "v2"
    assert chain.verify(acme.log.events) is None
    old, new = entry("v1", 255), entry("v2", 256)
    assert flip.decide(old, new, ready=True, pin=None) is Verdict.FLIP
    assert flip.decide(new, old, ready=True, pin=None) is Verdict.STALE
    with pytest.raises(Refused, match="moved"):
        acme.rollback(RollbackRequest(expected_generation=302 - 256, to=rid("v1"), idempotency_key="wrapped-key"))
    assert promoted.generation == 2


def _blocked_forward(acme: Acme) -> None:
    """Everything that can bind a forward move binds here."""
    acme.config = RouteConfig(
        gate=GateConfig(suite=digest("suite"), min_exact=0.9), freeze=((0, 2**60),), fallback=True
    )
    acme.gates = [gate_result(v, against, passed=False) for v in ("v1", "v2", "v3") for against in ("v1", "v2", "v3")]
    acme.tenant = TenantState(name="acme", suspended=True)
    acme.hold(True)
    with pytest.raises(Refused):
        acme.promote("v4")


@pytest.mark.parametrize("move", ["rollback", "fallback", "undo", "rewind"])
def test_argo_rollouts_2168_no_gate_freeze_hold_or_suspension_blocks_a_move_backward(acme: Acme, move: str) -> None:
    acme.promote("v1")
    second = acme.promote("v2")
    third = acme.promote("v3")
    _blocked_forward(acme)
    if move == "rollback":
        acme.rollback()
    elif move == "fallback":
        acme.fallback()
    elif move == "undo":
        acme.undo(third)
    else:
        acme.rewind(second.rev)
    assert acme.live == ("base" if move == "fallback" else "v2")


def test_helm_12516_a_pending_operation_does_not_block_the_way_back(acme: Acme) -> None:
    acme.promote("v1")
    acme.promote("v2")
    acme.pending = "job-7"
    assert acme.target().action is PreviewAction.CANCEL_PREPARE
    answer = rollbacks.rollback(acme.pointer, acme.rollback_request(), acme.target(), OPERATOR)
    assert answer == rollbacks.Cancel(prepare="job-7")
    assert acme.pointer.generation == 2
    acme.pending = None
    acme.rollback()
    assert acme.live == "v1"


@pytest.mark.parametrize("move", ["fallback", "undo", "rewind"])
def test_helm_12516_the_other_ways_back_do_not_even_wait_for_the_cancel(acme: Acme, move: str) -> None:
    first = acme.promote("v1")
    second = acme.promote("v2")
    acme.pending = "job-7"
    if move == "fallback":
        acme.fallback()
    elif move == "undo":
        acme.undo(second)
    else:
        acme.rewind(first.rev)
    with pytest.raises(Refused, match="moved"):  # the prepare finishes, and its commit finds another generation
        acme.promote("v3", generation=2)


def test_helm_2941_of_two_racing_operators_one_moves_and_the_other_is_told(acme: Acme) -> None:
    for label in ("v1", "v2", "v3"):
        acme.promote(label)
    both_saw = acme.rollback_request()
    acme.rollback(both_saw)
    assert (acme.live, acme.pointer.generation) == ("v2", 4)
    after_first = acme.log.copy()
    with pytest.raises(Refused) as refusal:
        acme.rollback(both_saw)
    assert refusal.value.code == "moved"
    assert refusal.value.context["generation"] == 4
    assert refusal.value.context["last_move"] == acme.log.events[-1].id
    assert acme.log.events == after_first.events
    assert acme.live == "v2"  # not two back


def test_helm_2941_the_target_is_what_the_caller_saw_or_nothing_moves(acme: Acme) -> None:
    for label in ("v1", "v2", "v3"):
        acme.promote(label)
    saw = acme.rollback_request()
    acme.revoke("v2")  # between the frame and the key, and no generation moved
    with pytest.raises(Refused) as refusal:
        acme.rollback(saw)
    assert refusal.value.code == "target_changed"
    assert refusal.value.context["to"] == rid("v1")
    assert (acme.live, acme.pointer.generation) == ("v3", 3)


def test_argo_cd_5351_automation_cannot_put_the_bad_release_back(acme: Acme) -> None:
    acme.promote("v1")
    acme.promote("v2")
    acme.rollback()
    for label, code in (("v2", "quarantined"), ("v3", "held")):
        with pytest.raises(Refused) as refusal:
            acme.promote(label, actor=PIPELINE, override=True, reason="sync")
        assert refusal.value.code == code
    acme.hold(False)
    with pytest.raises(Refused, match="quarantined"):
        acme.promote("v2", actor=PIPELINE, override=True, reason="sync")
    assert acme.live == "v1"


def test_argo_cd_5351_reconciling_never_undoes_a_pin_made_on_the_node() -> None:
    now = entry("v2", 4)
    pin = Pin(
        tenant="acme", route="production", release=ref("v1"), over=(1, 4), actor="op1", reason="hub gone", at_ms=0
    )
    for wanted in (now, entry("v2", 5), entry("v3", 6, epoch=2)):
        assert flip.decide(now, wanted, ready=True, pin=pin) is Verdict.PINNED
        assert flip.in_force(wanted, pin, {rid("v1"), rid("v2"), rid("v3")}).release == ref("v1")


def test_nomad_3052_no_release_that_a_way_back_leads_to_is_ever_collected(acme: Acme) -> None:
    names = [f"v{i}" for i in range(1, 9)]
    for label in names:
        acme.promote(label)
    kept = retention.roots([acme.pointer], {ACME: acme.facts.attested})
    released = {rid(name) for name in (*names, "v20")}
    assert retention.collectable(released, kept, listed=()) == {rid("v20")}
    while acme.target().action is PreviewAction.ROLLBACK:
        target = acme.target().release
        assert target in retention.roots([acme.pointer], {})
        acme.rollback()
    assert acme.live == "v1"


def test_nomad_3052_an_undo_finds_what_it_returns_to(acme: Acme) -> None:
    acme.promote("v1")
    acme.promote("v2")
    moved = acme.undo(acme.log.events[-1])  # v2 was left and is not beneath
    assert rid("v2") not in retention.roots([acme.pointer], {})
    before = acme.log.before([moved])
    assert rid("v2") in retention.roots([acme.pointer], {}, before=before.values())


def test_launchdarkly_202_after_a_flip_no_stale_entry_is_taken_up_again() -> None:
    left, now = entry("v2", 4), entry("v1", 5)
    everything = {rid("v1"), rid("v2"), rid("v3")}
    assert flip.decide(left, now, ready=True, pin=None) is Verdict.FLIP
    for stale in (left, entry("v2", 3), entry("v3", 4), entry("v2", 5)):
        assert flip.decide(now, stale, ready=True, pin=None) is Verdict.STALE
    for gap in Gap:
        held = now.model_copy(update={"gap": gap})
        assert flip.in_force(held, None, everything, left=left).release == ref("v1")


def test_launchdarkly_202_an_old_hub_with_a_higher_generation_is_stale_by_its_epoch() -> None:
    now = entry("v1", 5, epoch=3)
    assert flip.decide(now, entry("v2", 99, epoch=2), ready=True, pin=None) is Verdict.STALE


def test_flagger_1591_a_flip_that_is_stuck_half_way_ends_by_itself_and_never_blocks_the_next() -> None:
    now, wanted, newer = entry("v2", 4), entry("v1", 5), entry("v3", 6)
    assert flip.decide(now, wanted, ready=False, pin=None) is Verdict.WAIT
    assert flip.in_force(wanted, None, {rid("v2")}, left=now).release == ref("v2")
    assert flip.decide(now, wanted, ready=True, pin=None, waiting=wanted) is Verdict.FLIP
    assert flip.decide(now, newer, ready=True, pin=None, waiting=wanted) is Verdict.FLIP
    assert flip.decide(now, wanted, ready=True, pin=None, waiting=newer) is Verdict.STALE


def test_flagger_1591_an_unsettled_pointer_can_be_rolled_back_again(acme: Acme) -> None:
    for label in ("v1", "v2", "v3"):
        acme.promote(label)
    acme.rollback()  # nothing says that any router has flipped
    acme.rollback()
    assert (acme.live, acme.quarantined) == ("v1", ["v3", "v2"])


def test_nomad_14200_a_rollback_loads_and_restarts_nothing(acme: Acme) -> None:
    acme.promote("v1")
    acme.promote("v2")
    loaded = {rid("v1"), rid("v2")}
    acme.rollback()
    after = entry("v1", acme.pointer.generation)
    residence = residency.plan(residency.claims([after], slots=2), loaded)
    assert (residence.load, residence.unload, residence.short) == ((), (), ())
    assert flip.decide(entry("v2", 2), after, ready=rid("v1") in loaded, pin=None) is Verdict.FLIP


def test_nomad_14200_a_rewind_of_many_tenants_moves_each_once_and_only_those_that_differ(acme: Acme) -> None:
    first = acme.promote("v1")
    assert acme.rewind_plan(first.rev).steps == ()
    acme.promote("v2")
    events = acme.rewind(first.rev)
    assert [e.kind for e in events] == [EventKind.REWIND]
    assert acme.rewind(first.rev) == []


def test_a_refused_move_leaves_log_and_pointer_as_they_were(acme: Acme) -> None:
    for label in ("v1", "v2"):
        acme.promote(label)
    acme.attest("v1", soak=False)
    acme.facts = PointerFacts(attested=acme.facts.attested, soaked=frozenset())
    before = acme.log.copy()
    attempts = {
        "needs_confirmation": lambda: acme.rollback(),
        "moved": lambda: acme.promote("v3", generation=1),
        "already_live": lambda: acme.promote("v2"),
        "target_changed": lambda: acme.rollback(
            RollbackRequest(expected_generation=2, to=rid("v7"), idempotency_key="a-wrong-target")
        ),
        "forbidden": lambda: acme.promote("v3", actor=OPERATOR, override=True, reason="now"),
        "plan_required": lambda: acme.rewind_plan(1, dry_run=False),
    }
    for code, attempt in attempts.items():
        with pytest.raises(Refused) as refusal:
            attempt()
        assert refusal.value.code == code
        assert refusal.value.status in (403, 409, 422)
    assert acme.log.events == before.events
    assert acme.log.ledger.pointers == before.ledger.pointers


def test_the_folded_log_is_the_pointer(acme: Acme) -> None:
    for label in ("v1", "v2", "v3"):
        acme.promote(label)
    acme.rollback()
    acme.hold(False)
    acme.lift("v3")
    again = FoldedLog()
    again.extend(acme.log.events)
    assert again.pointers == acme.log.ledger.pointers
    assert chain.verify(acme.log.events) is None
