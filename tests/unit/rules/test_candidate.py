"""Candidates on a pointer: what starts, widens and ends them, and where R goes meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tests.fleets.in_process.log import OPERATOR, PIPELINE, RELEASER, Acme, entry, ref, rid

from loradeck.rules.errors import Refused
from loradeck.rules.moves import candidate, records, recover, rollbacks
from loradeck.rules.moves.chain import event_hash
from loradeck.rules.moves.draft import Actor
from loradeck.rules.moves.rollback_target import ways_back
from loradeck.rules.moves.rollbacks import Already, rebase
from loradeck.rules.serving import residency, retention
from loradeck.rules.serving.flip import Verdict, decide, gap_after_flip
from loradeck.schemas.candidate import Candidate, Comparison, Figure, StepPlan
from loradeck.schemas.dataset_ledger import DataPolicy
from loradeck.schemas.gate import CompareGate, GateConfig
from loradeck.schemas.ids import Role, digest_of
from loradeck.schemas.log import MOVES, Draft, Event, EventKind, PointerState
from loradeck.schemas.moves import (
    CandidateAbortRequest,
    CandidateCompareRequest,
    CandidateFinishRequest,
    CandidateHoldRequest,
    CandidateStartRequest,
    CandidateStepRequest,
    HoldRequest,
    RollbackRequest,
)
from loradeck.schemas.route import RouteConfig
from loradeck.schemas.state import PreviewAction
from loradeck.schemas.table import CandidateRef, Gap, RouteResidency
from loradeck.schemas.tenant import TenantState

GUARD = Actor(name="guard", role=Role.OPERATOR, automation=True)
SALT = "5a1c02b7"
MANY = 1000
TENANT = TenantState(name="acme", routes={"production": RouteConfig()})


def of(label: str, permille: int = 50, **changes: object) -> Candidate:
    return Candidate(generation=1, permille=permille, salt=SALT, release=rid(label)).model_copy(update=changes)


def seen(pointer: PointerState) -> dict[str, Any]:
    return {"expected_generation": pointer.generation, "idempotency_key": "candidate-key"}


def seen_share(pointer: PointerState) -> dict[str, Any]:
    return {**seen(pointer), "expected_step": pointer.candidate.step if pointer.candidate else 0}


def start_request(pointer: PointerState, label: str) -> CandidateStartRequest:
    return CandidateStartRequest(release=rid(label), **seen(pointer))


def step_request(pointer: PointerState, permille: int) -> CandidateStepRequest:
    return CandidateStepRequest(permille=permille, **seen_share(pointer))


def hold_request(pointer: PointerState, *, held: bool, reason: str = "") -> CandidateHoldRequest:
    return CandidateHoldRequest(held=held, reason=reason, **seen(pointer))


def finish_request(pointer: PointerState) -> CandidateFinishRequest:
    release = pointer.candidate.release if pointer.candidate else rid("none")
    return CandidateFinishRequest(release=release, **seen(pointer))


class Deck(Acme):
    """acme's pointer, with candidates."""

    def start(self, label: str, permille: int = 50, actor: Actor = RELEASER) -> Event:
        candidate.check_start(self.pointer, self.facts, of(label), TENANT, lacking=())
        request = start_request(self.pointer, label)
        return self.commit(candidate.start(self.pointer, of(label, permille), request, actor, keys=MANY))

    def step(self, permille: int, actor: Actor = RELEASER) -> Event:
        return self.commit(
            candidate.step(self.pointer, self.facts, step_request(self.pointer, permille), actor, keys=MANY)
        )

    def finish(self, actor: Actor = RELEASER) -> Event:
        return self.commit(candidate.finish(self.pointer, self.facts, finish_request(self.pointer), actor))

    def abort(self, actor: Actor = RELEASER) -> Event:
        request = CandidateAbortRequest(**seen(self.pointer))
        return self.commit(candidate.abort(self.pointer, request, actor))

    def roll_back_as(self, actor: Actor) -> Event:
        draft = rollbacks.rollback(self.pointer, self.rollback_request(), self.target(), actor)
        assert isinstance(draft, Draft)
        return self.commit(draft)

    def commit(self, draft: Draft) -> Event:
        (event,) = self.log.commit(draft)
        return event

    def since(self, generation: int) -> list[Event]:
        return [e for e in self.log.events if (e.generation or 0) > generation]

    def rebased(self, request: RollbackRequest) -> RollbackRequest | Already:
        return rebase(request, self.pointer, self.target(), self.since(request.expected_generation))


@pytest.fixture
def deck() -> Deck:
    """v2 is live over v1, both fit."""
    deck = Deck()
    deck.promote("v1")
    deck.promote("v2")
    return deck


def code(refused: Callable[[], object]) -> str:
    with pytest.raises(Refused) as error:
        refused()
    assert error.value.status == 409
    return error.value.code


# ---- start, step, finish, abort ------------------------------------------------------------------------------------


def test_start_finish_and_abort_are_moves_and_a_step_is_none(deck: Deck) -> None:
    before = deck.pointer
    started = deck.start("v3")
    assert (deck.live, deck.beneath) == ("v2", ["v1"])
    out = deck.pointer.candidate
    assert out is not None
    assert (out.release, out.generation, out.step) == (rid("v3"), before.generation + 1, 0)
    moved = deck.pointer
    event = deck.step(500)
    assert event.kind not in MOVES
    assert (deck.pointer.generation, deck.pointer.last_move) == (moved.generation, started.id)
    assert deck.pointer.candidate == out.model_copy(update={"permille": 500, "step": 1})
    finished = deck.finish()
    assert (deck.live, deck.beneath, deck.pointer.candidate) == ("v3", ["v2", "v1"], None)
    assert finished.generation == before.generation + 2
    assert "candidate_ended" not in finished.payload
    deck.start("v4")
    assert deck.abort().payload["candidate_ended"] == rid("v4")
    assert (deck.live, deck.beneath, deck.pointer.candidate) == ("v3", ["v2", "v1"], None)
    assert (deck.pointer.held, deck.quarantined) == (False, [])


def test_a_second_candidate_and_a_promote_beside_one_are_refused(deck: Deck) -> None:
    deck.start("v3")
    assert code(lambda: deck.start("v4")) == "candidate_out"
    assert code(lambda: deck.promote("v4")) == "candidate_out"


def test_a_held_pointer_lets_a_candidate_only_shrink_and_end(deck: Deck) -> None:
    deck.start("v3")
    deck.hold(True)
    assert code(lambda: deck.step(51)) == "held"
    assert code(deck.finish) == "held"
    deck.step(10)
    deck.abort()
    assert code(lambda: deck.start("v4")) == "held"


def test_a_breached_candidate_shrinks_and_ends_and_neither_grows_nor_starts(deck: Deck) -> None:
    deck.start("v3")
    deck.breach("v3")
    assert code(lambda: deck.step(51)) == "candidate_unfit"
    assert code(deck.finish) == "candidate_unfit"
    deck.step(0)
    deck.abort()
    assert code(lambda: deck.start("v3")) == "candidate_unfit"


def test_steps_name_the_step_that_was_seen(deck: Deck) -> None:
    deck.start("v3")
    deck.step(100)
    pointer = deck.pointer
    for generation, step in ((pointer.generation, 0), (pointer.generation - 1, 1)):
        request = step_request(pointer, 7).model_copy(update={"expected_generation": generation, "expected_step": step})
        late = partial(candidate.step, pointer, deck.facts, request, RELEASER, keys=MANY)
        assert code(late) == "moved"
    assert code(lambda: deck.step(100)) == "no_change"
    deck.abort()
    assert code(lambda: deck.step(1)) == "no_candidate"
    assert code(deck.abort) == "no_candidate"
    assert code(deck.finish) == "no_candidate"


@pytest.mark.parametrize(
    ("split", "keys", "refused"),
    [
        (of("v3"), 49, True),
        (of("v3"), 50, False),
        (of("v3", 0), 3, False),
        (of("v3", named=("k",)), 3, False),
        (of("v3", shadow=True), 3, False),
    ],
)
def test_a_share_of_too_few_keys_is_refused(split: Candidate, keys: int, refused: bool) -> None:
    if refused:
        with pytest.raises(Refused) as why:
            candidate.check_keys(split, keys)
        assert why.value.code == "too_few_keys"
        assert "--shadow" in why.value.fix
    else:
        candidate.check_keys(split, keys)


def test_neither_a_start_nor_a_step_gives_a_share_of_too_few_keys(deck: Deck) -> None:
    few = candidate.FEWEST_KEYS - 1
    request = start_request(deck.pointer, "v3")
    assert code(lambda: candidate.start(deck.pointer, of("v3"), request, RELEASER, keys=few)) == "too_few_keys"
    deck.start("v3", permille=0)
    wider = step_request(deck.pointer, 100)
    assert code(lambda: candidate.step(deck.pointer, deck.facts, wider, RELEASER, keys=few)) == "too_few_keys"


def test_a_shadow_needs_the_consent_of_its_tenant(deck: Deck) -> None:
    start = partial(candidate.check_start, deck.pointer, deck.facts, of("v3", shadow=True), lacking=())
    assert code(lambda: start(TENANT)) == "shadow_not_allowed"
    start(TENANT.model_copy(update={"data": DataPolicy(shadow=True)}))
    candidate.check_consent(of("v3"), TENANT)  # what callers get needs none


def test_none_starts_while_a_placed_router_cannot_divide_callers_or_nothing_is_live(deck: Deck) -> None:
    start = partial(candidate.check_start, deck.pointer, deck.facts, of("v3"), TENANT)
    assert code(lambda: start(lacking=("gpu-01",))) == "feature_missing"
    assert code(lambda: deck.start("v2")) == "already_live"
    assert code(lambda: Deck().start("v2")) == "nothing_live"


# ---- R --------------------------------------------------------------------------------------------------------------


def test_r_pops_the_candidate_quarantines_it_and_holds(deck: Deck) -> None:
    deck.start("v3")
    assert (deck.target().release, deck.target().asks) == (rid("v2"), None)
    event = deck.rollback()
    assert (deck.live, deck.beneath, deck.pointer.candidate) == ("v2", ["v1"], None)
    assert (deck.pointer.held, deck.quarantined) == (True, ["v3"])
    assert event.payload["candidate_ended"] == rid("v3")


def test_a_base_alone_that_was_the_candidate_is_not_quarantined(deck: Deck) -> None:
    deck.start("base")
    target = replace(deck.target(), candidate_is_base=True)
    draft = rollbacks.rollback(deck.pointer, deck.rollback_request(), target, OPERATOR)
    assert isinstance(draft, Draft)
    assert draft.pointer is not None
    assert draft.pointer.quarantined == ()


def test_r_steps_over_a_breached_live_release_and_the_candidate_is_out(deck: Deck) -> None:
    deck.start("v3")
    deck.breach("v2")
    target = deck.target()
    assert (target.release, target.skipped[0]) == (rid("v1"), (rid("v2"), "breached: bad 31.0% of 2310"))
    deck.rollback()
    assert (deck.live, deck.pointer.candidate, deck.quarantined) == ("v1", None, ["v2"])


def test_with_nothing_fit_beneath_a_breached_live_release_r_asks_before_it_pops(deck: Deck) -> None:
    deck.start("v3")
    deck.breach("v2")
    deck.breach("v1")
    target = deck.target()
    assert (target.action, target.release) == (PreviewAction.ROLLBACK, rid("v2"))
    assert target.asks == "breached: bad 31.0% of 2310"
    assert code(deck.rollback) == "needs_confirmation"
    deck.rollback(confirmed=True)
    assert (deck.live, deck.quarantined) == ("v2", ["v3"])


def test_a_start_and_a_finish_say_which_gates_were_overridden(deck: Deck) -> None:
    over, passed = {"override": True}, ("gate_failed",)
    request = start_request(deck.pointer, "v3").model_copy(update=over)
    started = candidate.start(deck.pointer, of("v3"), request, RELEASER, keys=MANY, overridden=passed)
    assert (started.override, started.payload) == (True, {"overridden": ["gate_failed"]})
    deck.start("v3")
    last = finish_request(deck.pointer).model_copy(update=over)
    finished = candidate.finish(deck.pointer, deck.facts, last, RELEASER, overridden=passed)
    assert (finished.override, finished.payload) == (True, {"overridden": ["gate_failed"]})


def test_r_never_goes_to_the_candidate_though_it_lies_beneath_too(deck: Deck) -> None:
    deck.start("v1")
    deck.breach("v2")
    target = deck.target()
    assert (target.release, target.asks) == (rid("v2"), "breached: bad 31.0% of 2310")
    assert (rid("v1"), "the candidate") in target.skipped


def test_a_step_leaves_a_press_of_r_as_it_was(deck: Deck) -> None:
    deck.start("v3")
    request = deck.rollback_request()
    deck.step(500, GUARD)
    deck.rollback(request)
    assert (deck.live, deck.pointer.candidate) == ("v2", None)


def test_r_stands_over_an_automatic_finish_since_it_goes_where_it_went(deck: Deck) -> None:
    deck.start("v3")
    request = deck.rollback_request()
    deck.finish(GUARD)
    deck.attest("v3")
    rebased = deck.rebased(request)
    assert isinstance(rebased, RollbackRequest)
    deck.rollback(rebased)
    assert (deck.live, deck.beneath, deck.quarantined) == ("v2", ["v1"], ["v3"])


def test_where_guard_was_first_r_has_succeeded_and_goes_no_further(deck: Deck) -> None:
    deck.start("v3")
    request = deck.rollback_request()
    event = deck.roll_back_as(GUARD)
    assert deck.rebased(request) == Already(event=event)
    deck = _promoted()
    request = deck.rollback_request()
    event = deck.roll_back_as(GUARD)
    assert deck.live == "v2"
    assert deck.rebased(request) == Already(event=event)


def _promoted() -> Deck:
    deck = Deck()
    for label in ("v1", "v2", "v3"):
        deck.promote(label)
    return deck


def test_r_does_not_stand_over_a_person_another_target_or_events_that_are_missing(deck: Deck) -> None:
    request = deck.rollback_request()
    assert deck.rebased(request) == request
    deck.start("v3", actor=PIPELINE)
    assert code(lambda: deck.rebased(request)) == "moved"
    request = deck.rollback_request()
    deck.finish(GUARD)
    assert code(lambda: rebase(request, deck.pointer, deck.target(), ())) == "moved"
    deck.breach("v2")
    with pytest.raises(Refused, match="target_changed") as refusal:
        deck.rebased(request)
    target = deck.target()
    assert refusal.value.context == {"action": "rollback", "to": target.release, "prepare": target.prepare}


# ---- nothing else brings one back -----------------------------------------------------------------------------------


def test_undo_of_a_start_is_an_abort_and_of_an_abort_nothing(deck: Deck) -> None:
    started = deck.start("v3")
    deck.step(100)
    deck.undo(started)
    assert (deck.live, deck.beneath, deck.pointer.candidate) == ("v2", ["v1"], None)
    deck.start("v3")
    aborted = deck.abort()
    assert code(lambda: deck.undo(aborted)) == "not_undoable"


def test_undo_of_a_finish_or_of_r_restores_the_release_and_not_the_candidate(deck: Deck) -> None:
    deck.start("v3")
    deck.undo(deck.finish())
    assert (deck.live, deck.pointer.candidate) == ("v2", None)
    deck.start("v3")
    deck.undo(deck.rollback())
    assert (deck.live, deck.pointer.candidate, deck.quarantined, deck.pointer.held) == ("v2", None, [], False)


def test_a_rewind_ends_a_candidate_also_where_the_release_is_that_of_the_time(deck: Deck) -> None:
    deck.start("v3")
    rev = deck.log.ledger.rev
    (step,) = deck.rewind_plan(rev).steps
    assert (step.from_release, step.to_release, step.candidate) == (rid("v2"), rid("v2"), rid("v3"))
    deck.rewind(rev)
    assert (deck.live, deck.pointer.candidate) == ("v2", None)
    assert deck.rewind_plan(rev).steps == ()


def test_f_ends_a_candidate(deck: Deck) -> None:
    deck.start("v3")
    deck.fallback()
    assert (deck.live, deck.pointer.candidate) == ("base", None)


def split_entry(generation: int, step: int) -> CandidateRef:
    return CandidateRef(generation=generation, step=step, permille=50, salt=SALT, release=ref("v3"))


def test_recovery_restores_no_candidate_and_notices_steps_that_were_lost(deck: Deck) -> None:
    deck.start("v3")
    pointer = deck.pointer
    known = entry("v2", pointer.generation, beneath=["v1"])
    for step, events in ((0, 0), (3, 1)):
        held = known.model_copy(update={"candidate": split_entry(pointer.generation, step)})
        drafts, _ = recover.drafts(
            deck.log.ledger.pointers, [known, held], tenants={"acme": TENANT}, actor=RELEASER, reason="restored"
        )
        assert len(drafts) == events
    (draft,) = drafts
    assert draft.pointer is not None
    assert (draft.pointer.candidate, draft.pointer.release, draft.pointer.held) == (None, rid("v2"), True)
    assert draft.pointer.generation == pointer.generation + 1


# ---- on the way -----------------------------------------------------------------------------------------------------


def test_a_router_drops_an_older_share_of_the_same_start_and_takes_a_newer_one_and_a_tombstone() -> None:
    shares = [entry("v2", 4).model_copy(update={"candidate": split_entry(4, step)}) for step in (1, 2)]
    old, new = shares
    assert decide(entry("v2", 4), old, True, None, waiting=new) is Verdict.STALE
    assert decide(entry("v2", 4), new, True, None, waiting=old) is Verdict.SAME
    assert decide(new, entry(None, 4), True, None) is Verdict.TOMBSTONE


def test_a_candidate_is_kept_by_collection_and_gets_a_slot_after_the_ways_back(deck: Deck) -> None:
    deck.start("v3")
    assert rid("v3") in retention.roots([deck.pointer], {})
    assert ways_back(deck.pointer, deck.facts) == (rid("v1"),)
    wanted = entry("v2", 4, beneath=["v1", "v0"]).model_copy(update={"candidate": split_entry(4, 0)})
    assert [r.label for r in residency.wanted(residency.claims([wanted]))] == ["v2", "v1", "v3", "v0"]


def test_without_a_candidate_events_states_and_entries_are_as_they_were(deck: Deck) -> None:
    assert "candidate" not in deck.pointer.model_dump_json()
    assert "candidate" not in entry("v1", 3).model_dump_json()
    event = deck.log.events[-1]
    assert event_hash(event) == digest_of(
        event.model_dump(mode="json", exclude={"hash": True, "pointer": {"candidate"}}, exclude_defaults=True)
    )


@pytest.mark.parametrize(
    ("gap", "residency", "held"),
    [
        (Gap.LEFT, RouteResidency.ON_DEMAND, Gap.REFUSE),
        (Gap.BASE, RouteResidency.ON_DEMAND, Gap.BASE),
        (Gap.REFUSE, RouteResidency.ON_DEMAND, Gap.REFUSE),
        (Gap.LEFT, RouteResidency.ALWAYS, Gap.LEFT),
    ],
)
def test_after_a_flip_an_on_demand_route_is_never_answered_by_the_left_release(
    gap: Gap, residency: RouteResidency, held: Gap
) -> None:
    assert gap_after_flip(gap, residency) is held


# ---- in any order ---------------------------------------------------------------------------------------------------

labels = st.sampled_from([f"v{i}" for i in range(1, 6)])
actors = st.sampled_from([RELEASER, GUARD])


class Moves(RuleBasedStateMachine):
    """Any moves in any order on one pointer."""

    def __init__(self) -> None:
        super().__init__()
        self.deck = Deck()
        self.deck.promote("v1")
        self.deck.promote("v2")
        self.pressed: list[RollbackRequest] = []
        self.generation = self.deck.pointer.generation

    def attempt(self, move: Callable[[], Event | Sequence[Event]]) -> Event | None:
        """Makes a move. A refusal changes nothing."""
        before = self.deck.pointer
        try:
            made = move()
        except Refused:
            assert self.deck.pointer == before
            return None
        events = [made] if isinstance(made, Event) else list(made)
        for event in events:
            assert self.deck.pointer.generation == before.generation + (event.kind in MOVES)
            if event.kind in MOVES and event.kind is not EventKind.CANDIDATE_START:
                assert self.deck.pointer.candidate is None, f"{event.kind} left a candidate"
        return events[0] if events else None

    @rule(label=labels, soaked=st.booleans())
    def promote(self, label: str, soaked: bool) -> None:
        self.attempt(lambda: self.deck.promote(label, attest=soaked))

    @rule(label=labels, actor=actors)
    def start(self, label: str, actor: Actor) -> None:
        self.attempt(lambda: self.deck.start(label, actor=actor))

    @rule(permille=st.integers(0, 1000), actor=actors)
    def step(self, permille: int, actor: Actor) -> None:
        self.attempt(lambda: self.deck.step(permille, actor))

    @rule(actor=actors)
    def finish(self, actor: Actor) -> None:
        self.attempt(lambda: self.deck.finish(actor))

    @rule(actor=actors)
    def abort(self, actor: Actor) -> None:
        self.attempt(lambda: self.deck.abort(actor))

    @rule(actor=actors)
    def roll_back(self, actor: Actor) -> None:
        self.attempt(lambda: self.deck.roll_back_as(actor))

    @rule()
    def fall_back(self) -> None:
        self.attempt(self.deck.fallback)

    @rule()
    def undo(self) -> None:
        last = next((e for e in self.deck.log.events if e.id == self.deck.pointer.last_move), None)
        if last is not None:
            self.attempt(lambda: self.deck.undo(last))

    @rule(data=st.data())
    def rewind(self, data: st.DataObject) -> None:
        rev = data.draw(st.integers(1, self.deck.log.ledger.rev))
        self.attempt(lambda: self.deck.rewind(rev))

    @rule(held=st.booleans())
    def hold(self, held: bool) -> None:
        self.attempt(lambda: self.deck.hold(held))

    @rule(label=labels)
    def breach(self, label: str) -> None:
        self.deck.breach(label)

    @rule()
    def clear(self) -> None:
        """What was breached is forgotten, so that not every release ends as unfit."""
        self.deck.facts = replace(self.deck.facts, breached={})

    @rule()
    def look(self) -> None:
        """Somebody reads where R goes, and presses it later."""
        if self.deck.target().action is PreviewAction.ROLLBACK:
            self.pressed.append(self.deck.rollback_request(confirmed=True))

    @rule()
    def press(self) -> None:
        if not self.pressed:
            return
        request, before = self.pressed.pop(), self.deck.pointer
        since = self.deck.since(request.expected_generation)
        by_people = any(e.kind in MOVES and "automation" not in e.payload for e in since)
        rebased = self.outcome(request)
        if isinstance(rebased, str):
            assert rebased == ("moved" if by_people else "target_changed")
            return
        assert not by_people or request.expected_generation == before.generation
        if isinstance(rebased, Already):
            assert before.release == request.to, "it has succeeded, and goes no further"
            assert before.candidate is None
            return
        if self.attempt(lambda: self.deck.rollback(rebased)) is not None:
            assert (self.deck.pointer.release, self.deck.pointer.candidate) == (request.to, None)

    def outcome(self, request: RollbackRequest) -> RollbackRequest | Already | str:
        """What a rebase gives; the code of its refusal."""
        try:
            return self.deck.rebased(request)
        except Refused as refused:
            return refused.code

    @invariant()
    def the_generation_only_grows(self) -> None:
        assert self.deck.pointer.generation >= self.generation
        self.generation = self.deck.pointer.generation

    @invariant()
    def r_never_goes_to_the_candidate_and_further_only_over_an_unfit_live_release(self) -> None:
        pointer, target = self.deck.pointer, self.deck.target()
        if pointer.candidate is None:
            return
        assert target.action is PreviewAction.ROLLBACK, "a candidate can always be taken out"
        assert target.release != pointer.candidate.release
        assert target.release == pointer.release or pointer.release in dict(target.skipped)

    @invariant()
    def a_candidate_was_started_at_its_generation(self) -> None:
        out = self.deck.pointer.candidate
        assert out is None or out.generation == self.deck.pointer.generation


TestMoves = Moves.TestCase
TestMoves.settings = settings(max_examples=150, stateful_step_count=25)


PLAN = StepPlan(steps=(200, 500), margin=0.02)


def held(deck: Deck) -> str:
    out = deck.pointer.candidate
    assert out is not None
    assert out.plan is not None
    return out.plan.held


def test_steps_are_held_and_resumed_below_the_generation_and_the_share_stays() -> None:
    deck = with_plan()
    before = deck.pointer
    event = deck.commit(candidate.hold(before, hold_request(before, held=True, reason="dinner"), RELEASER))
    assert (event.kind, event.payload["steps"], deck.pointer.generation) == (
        EventKind.CANDIDATE_STEP,
        "held",
        before.generation,
    )
    out = deck.pointer.candidate
    assert out is not None
    assert (out.permille, out.step, held(deck)) == (50, 0, f"{RELEASER.name}: dinner")
    with pytest.raises(Refused) as refused:
        candidate.hold(deck.pointer, hold_request(before, held=True), RELEASER)
    assert refused.value.code == "no_change"
    deck.commit(candidate.hold(deck.pointer, hold_request(before, held=False), RELEASER))
    assert held(deck) == ""


def test_a_person_who_narrows_a_share_holds_its_plan_and_the_hub_which_widens_it_does_not() -> None:
    deck = with_plan()
    deck.step(200, STEPS)
    assert held(deck) == ""
    deck.step(300)
    assert held(deck) == "", "a person went on further"
    deck.step(100)
    assert held(deck) == f"{RELEASER.name} has narrowed the share"


def test_a_shadow_is_not_stepped() -> None:
    deck = with_plan()
    tenant = TENANT.model_copy(update={"data": DataPolicy(shadow=True)})
    deck.abort()
    with pytest.raises(Refused) as refused:
        candidate.check_start(deck.pointer, deck.facts, of("v2", plan=PLAN, shadow=True), tenant, lacking=())
    assert refused.value.code == "shadow_steps"


def test_a_candidate_without_a_plan_is_not_held() -> None:
    deck = with_plan(plan=None)
    with pytest.raises(Refused) as refused:
        candidate.hold(deck.pointer, hold_request(deck.pointer, held=True), RELEASER)
    assert refused.value.code == "no_plan"


STEPS = Actor(name="steps", role=Role.RELEASER, automation=True)


def with_plan(plan: StepPlan | None = PLAN) -> Deck:
    deck = Deck()
    deck.promote("v1")
    request = start_request(deck.pointer, "v2")
    deck.commit(candidate.start(deck.pointer, of("v2", plan=plan), request, RELEASER, keys=MANY))
    return deck


GATED = RouteConfig(gate=GateConfig(suite=digest_of({"suite": 1}), compare=CompareGate(margin=0.05)))
FROZEN = RouteConfig(freeze=((0, 1000),))
HELD_UP = Refused("related_incident", "it is related to what an incident is about")


def may_widen(permille: int, config: RouteConfig, *, now_ms: int = 500, by: Actor = RELEASER, **said: Any) -> object:
    """The codes that an override passes, or the code of the refusal."""
    deck = Deck()
    deck.promote("v1")
    deck.start("v2")
    given: dict[str, Any] = {"gate_results": [], "held_up": None, "override": False, "reason": "", "tenant": TENANT}
    wider = of("v2", permille)
    try:
        return candidate.check_wider(deck.pointer, wider, config, by, now_ms=now_ms, **given | said)
    except Refused as refused:
        return refused.code


def test_a_wider_share_obeys_freezes_and_incidents_as_a_promote_does_and_passes_them_by_override() -> None:
    assert may_widen(200, FROZEN) == "frozen"
    assert may_widen(200, FROZEN, now_ms=1000) == ()
    assert may_widen(200, RouteConfig(), held_up=HELD_UP) == "related_incident"
    over = {"override": True, "reason": "the fix"}
    assert may_widen(200, FROZEN, held_up=HELD_UP, **over) == ("frozen", "related_incident")
    assert may_widen(200, FROZEN, override=True) == "reason_required"
    assert may_widen(200, FROZEN, by=OPERATOR, **over) == "forbidden"


def test_from_half_of_the_callers_on_a_wider_share_needs_the_ab_that_a_finish_needs() -> None:
    assert may_widen(candidate.MOST_BEFORE_AB, GATED) == ()
    assert may_widen(501, GATED) == may_widen(1000, GATED) == "gate_missing"
    assert may_widen(1000, GATED, override=True, reason="now") == ("gate_missing",)
    assert may_widen(1000, RouteConfig(gate=GateConfig(suite=digest_of({"suite": 1})))) == ()
    assert not candidate.needs_ab(GATED, 1000, shadow=True)


def test_a_hold_that_the_hub_sets_by_itself_ends_the_plan_and_that_of_a_person_does_not() -> None:
    for by, ends in ((GUARD, "guard: it is bad"), (OPERATOR, "")):
        deck = with_plan()
        asked = {"held": True, "expected_generation": deck.pointer.generation, "idempotency_key": "hold-key"}
        deck.commit(records.hold(deck.pointer, HoldRequest(**asked, reason="guard: it is bad"), by))
        assert (deck.pointer.held, held(deck)) == (True, ends)


def begin_ab(deck: Deck, *, seen_keys: int = MANY, **changes: Any) -> Event:
    asked: dict[str, Any] = {"figure": Figure.BAD, "until_ms": 2_000, **seen_share(deck.pointer)}
    request = CandidateCompareRequest(**asked).model_copy(update=changes)
    return deck.commit(candidate.compare(deck.pointer, deck.facts, request, RELEASER, keys=seen_keys, now_ms=1_000))


def test_an_ab_begins_with_a_step_so_that_routers_count_anew_and_holds_the_plan() -> None:
    deck = with_plan()
    generation = deck.pointer.generation
    event = begin_ab(deck, permille=500)
    out = deck.pointer.candidate
    assert out is not None
    assert (event.kind, event.payload["compares"], out.permille, out.step) == (EventKind.CANDIDATE_STEP, "bad", 500, 1)
    assert out.comparison == Comparison(figure=Figure.BAD, step=1, from_ms=1_000, until_ms=2_000)
    assert (held(deck), deck.pointer.generation) == (f"{RELEASER.name} has begun an A/B", generation)
    deck.step(400)
    assert deck.pointer.candidate is not None
    assert deck.pointer.candidate.comparison is None, "another share ends it without a result"


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"until_ms": None}, "bad_horizon"),
        ({"keys": 20}, "bad_horizon"),
        ({"until_ms": 999}, "bad_horizon"),
        ({"until_ms": 10**15}, "bad_horizon"),
        ({"until_ms": None, "keys": 26}, "bad_horizon"),  # an arm of 5 % has fifty places
        ({"permille": 0}, "no_arms"),
        ({"permille": 1000}, "no_arms"),
        ({"expected_step": 7}, "moved"),
        ({"permille": 500, "seen_keys": 3}, "too_few_keys"),
    ],
)
def test_an_ab_needs_two_arms_and_a_horizon_that_is_stated_before(asked: dict[str, Any], code: str) -> None:
    deck = with_plan()
    with pytest.raises(Refused) as refused:
        begin_ab(deck, **asked)
    assert refused.value.code == code
    assert begin_ab(deck, until_ms=None, keys=25).kind is EventKind.CANDIDATE_STEP
