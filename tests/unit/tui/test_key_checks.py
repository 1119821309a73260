"""The gate: each rule of DESIGN section 7, without a toolkit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.fakes import console_fleet as seed
from tests.fakes.console_stage import Clock

from loradeck.schemas.attestation import CheckResult, GateResult
from loradeck.schemas.feed import FeedStatus
from loradeck.schemas.ids import Role
from loradeck.schemas.log import EventKind
from loradeck.schemas.moves import MoveResult, PromoteRequest, RollbackRequest, UndoRequest
from loradeck.schemas.state import PreviewAction, TenantRow
from loradeck.tui.key_checks.decide import DECIDED, decide, newest, offer
from loradeck.tui.key_checks.rollback import shown_of
from loradeck.tui.key_checks.seen_frames import Frame
from loradeck.tui.key_checks.verdict import ROLES, Act, Ask, Refuse, Verdict, barrier
from loradeck.tui.keys.action import ORDERS, Action
from loradeck.tui.keys.default_bindings import BINDINGS
from loradeck.tui.keys.personal_keys import DEFAULT
from loradeck.tui.model.lists import RowFilter
from loradeck.tui.model.sent_moves import OwnMove, Phase
from loradeck.tui.model.state import ConsoleState

ACME = ("acme", "production")
Armed = Callable[[], Frame]


def change(state: ConsoleState, key: tuple[str, str] = ACME, **fields: Any) -> TenantRow:
    state.tenants[key] = state.tenants[key].model_copy(update=fields)
    return state.tenants[key]


def change_preview(state: ConsoleState, **fields: Any) -> TenantRow:
    row = state.tenants[ACME]
    return change(state, preview=row.preview.model_copy(update=fields))


def refused(verdict: Verdict) -> str:
    assert isinstance(verdict, Refuse), verdict
    return verdict.why


def asked(verdict: Verdict) -> Ask:
    assert isinstance(verdict, Ask), verdict
    return verdict


def acted(verdict: Verdict) -> Act:
    assert isinstance(verdict, Act), verdict
    return verdict


# ---- R: arming -----------------------------------------------------------------------------------------------


def test_R_acts_at_once_on_a_preview_seen_for_half_a_second(state: ConsoleState, armed: Armed) -> None:
    (move,) = acted(decide(Action.ROLLBACK, state, armed())).moves
    assert isinstance(move.request, RollbackRequest)
    preview = state.tenants[ACME].preview
    assert preview.target is not None
    assert (move.row, move.request.expected_generation, move.request.to) == (ACME, 41, preview.target.id)
    assert not move.request.confirmed


def test_R_sends_the_generation_and_target_of_the_frame_or_nothing(state: ConsoleState, armed: Armed) -> None:
    frame = armed()
    pointer = state.tenants[ACME].pointer.model_copy(update={"generation": 42})
    change(state, pointer=pointer)
    change_preview(state, generation=42)
    assert "changed under you (now gen 42)" in refused(decide(Action.ROLLBACK, state, frame))


def test_another_target_of_the_same_generation_is_not_armed(state: ConsoleState, armed: Armed) -> None:
    frame = armed()
    change_preview(state, target=seed.view("acme", "v6"))
    assert "changed under you" in refused(decide(Action.ROLLBACK, state, frame))


def test_figures_that_tick_do_not_disarm(state: ConsoleState, armed: Armed) -> None:
    frame = armed()
    change_preview(state, streams=99, served_requests=5_000_000, estimate_ms=9)
    acted(decide(Action.ROLLBACK, state, frame))


@pytest.mark.parametrize("seen_for", [0.0, 0.3, 0.499])
def test_a_preview_seen_for_less_than_half_a_second_is_not_armed(
    state: ConsoleState, armed: Armed, clock: Clock, seen_for: float
) -> None:
    frame = replace(armed(), seen_at=clock() - seen_for)
    assert "less than half a second" in refused(decide(Action.ROLLBACK, state, frame))


def test_written_is_not_seen(state: ConsoleState, armed: Armed, clock: Clock) -> None:
    frame = replace(armed(), written_at=clock() - 60, seen_at=None)
    assert "your terminal has not shown" in refused(decide(Action.ROLLBACK, state, frame))


def test_the_preview_of_another_row_does_not_arm_this_one(state: ConsoleState, armed: Armed) -> None:
    frame = armed()
    state.tenant_list.choose(("aspen", "production"))
    assert "not on your screen yet" in refused(decide(Action.ROLLBACK, state, frame))


def test_a_panel_without_the_target_does_not_arm(state: ConsoleState, armed: Armed) -> None:
    frame = replace(armed(), shown=shown_of(state.tenants[ACME], panel=True))
    assert "esc closes the panel" in refused(decide(Action.ROLLBACK, state, frame))


def test_without_any_frame_nothing_is_armed(state: ConsoleState) -> None:
    refused(decide(Action.ROLLBACK, state, Frame()))


# ---- R: locked, asks, refused --------------------------------------------------------------------------------


def own(state: ConsoleState, verdict: Verdict, phase: Phase, result: MoveResult | None = None) -> OwnMove:
    """The verdict's move was sent and is in a phase now."""
    assert isinstance(verdict, Act | Ask)
    made = state.sent(verdict.moves[0])[0]
    made.phase, made.result, made.answered_at = phase, result, state.clock()
    return made


@pytest.mark.parametrize("phase", [Phase.SENDING, Phase.UNKNOWN])
def test_R_is_locked_while_a_move_of_ours_is_open(state: ConsoleState, armed: Armed, phase: Phase) -> None:
    own(state, decide(Action.ROLLBACK, state, armed()), phase)
    assert refused(decide(Action.ROLLBACK, state, armed())).startswith("R locked")


@pytest.mark.parametrize("phase", [Phase.SENDING, Phase.UNKNOWN, Phase.PENDING])
def test_R_cancels_the_prepare_of_a_promote_of_ours(state: ConsoleState, clock: Clock, phase: Phase) -> None:
    row = state.tenants["cove", "production"]
    state.tenant_list.choose(row.key)
    promote = offer(state, row, seed.view("cove", "v3"), None, override=False)
    own(state, promote, phase)
    frame = Frame(shown=shown_of(row), written_at=clock() - 2, seen_at=clock() - 1)
    (move,) = acted(decide(Action.ROLLBACK, state, frame)).moves
    assert isinstance(move.request, RollbackRequest)
    assert move.request.cancels == row.preview.prepare == "job-5f2a91c0"


@pytest.mark.parametrize("phase", [Phase.REFUSED, Phase.NOT_SENT])
def test_a_move_that_never_happened_locks_nothing(state: ConsoleState, armed: Armed, phase: Phase) -> None:
    own(state, decide(Action.ROLLBACK, state, armed()), phase)
    acted(decide(Action.ROLLBACK, state, armed()))


def test_R_is_locked_between_the_answer_and_the_row(state: ConsoleState, armed: Armed) -> None:
    verdict = decide(Action.ROLLBACK, state, armed())
    event, _ = seed.rolled_back(state.tenants[ACME], seed.Log())
    own(state, verdict, Phase.COMMITTED, MoveResult(events=(event,), rev=event.rev, epoch=3))
    assert "its row is not here yet" in refused(decide(Action.ROLLBACK, state, armed()))


def moved_just_now(state: ConsoleState, *, acks: int, proofs: int, ago_s: float = 1) -> TenantRow:
    event, row = seed.rolled_back(
        state.tenants[ACME], seed.Log(), acks=acks, proofs=proofs, at_ms=int(seed.NOW_MS - ago_s * 1000)
    )
    state.events[event.rev] = event
    state.tenants[ACME] = row
    return row


def test_R_is_locked_until_the_last_move_is_done(state: ConsoleState, armed: Armed) -> None:
    moved_just_now(state, acks=3, proofs=1)
    assert "still moving: flipped 3/4, proven 1/4" in refused(decide(Action.ROLLBACK, state, armed()))


def test_a_move_that_is_never_done_stops_locking_and_asks(state: ConsoleState, armed: Armed) -> None:
    moved_just_now(state, acks=3, proofs=3, ago_s=11)
    assert "the last move is not done (flipped 3/4, proven 3/4)" in asked(decide(Action.ROLLBACK, state, armed())).line


def test_going_further_back_asks(state: ConsoleState, armed: Armed) -> None:
    moved_just_now(state, acks=4, proofs=4)
    ask = asked(decide(Action.ROLLBACK, state, armed()))
    assert "one release further back" in ask.line
    assert isinstance(ask.moves[0].request, RollbackRequest)
    assert ask.moves[0].request.confirmed


def test_an_unflagged_row_older_than_a_day_asks(state: ConsoleState, armed: Armed) -> None:
    state.tenant_list.choose(("delta", "production"))
    assert "has not moved for 41d" in asked(decide(Action.ROLLBACK, state, armed())).line


def test_a_flagged_row_older_than_a_day_acts(state: ConsoleState, armed: Armed) -> None:
    state.tenant_list.choose(("delta", "production"))
    change(state, ("delta", "production"), flags=("BAD",))
    acted(decide(Action.ROLLBACK, state, armed()))


def test_an_unflagged_row_under_a_day_acts(state: ConsoleState, armed: Armed) -> None:
    change(state, flags=())
    acted(decide(Action.ROLLBACK, state, armed()))


def test_what_the_hub_asks_for_is_asked(state: ConsoleState, armed: Armed) -> None:
    state.tenant_list.choose(("birch", "staging"))
    ask = asked(decide(Action.ROLLBACK, state, armed()))
    assert "asks: not soaked" in ask.line
    assert ask.line.startswith("R birch/staging v4/B2 > v3/B2 (live by ci-bot")


def test_the_question_names_from_to_author_and_reason(state: ConsoleState, armed: Armed) -> None:
    change_preview(state, asks="not soaked")
    line = asked(decide(Action.ROLLBACK, state, armed())).line
    assert line == 'R acme/production v9/B2 > v7/B2 (live by ci-bot "hotfix for v8"); asks: not soaked'


def test_without_a_prior_R_is_refused_with_the_reason(state: ConsoleState, armed: Armed) -> None:
    state.tenant_list.choose(("cedar", "production"))
    why = refused(decide(Action.ROLLBACK, state, armed()))
    assert "v3 is its first release" in why
    assert "F goes to the base alone" in why


def test_with_nothing_at_all_R_is_refused(state: ConsoleState, armed: Armed) -> None:
    change_preview(state, action=PreviewAction.NONE, target=None, refused="nothing is live")
    assert refused(decide(Action.ROLLBACK, state, armed())) == "R off: nothing is live"


def test_while_a_prepare_is_pending_R_only_cancels_it(state: ConsoleState, armed: Armed) -> None:
    state.tenant_list.choose(("cove", "production"))
    (move,) = acted(decide(Action.ROLLBACK, state, armed())).moves
    assert isinstance(move.request, RollbackRequest)
    assert (move.request.cancels, move.request.to) == ("job-5f2a91c0", None)


def test_a_silent_hub_makes_R_ask(state: ConsoleState, armed: Armed, clock: Clock) -> None:
    clock.now += 5
    assert "silent for 5.0s" in asked(decide(Action.ROLLBACK, state, armed())).line


# ---- barred ----------------------------------------------------------------------------------------------------

MOVING = [Action.ROLLBACK, Action.UNDO, Action.FALLBACK, Action.HOLD, Action.PROMOTE, Action.REWIND, Action.ANNOTATE]
ACTIONS = [*MOVING, *sorted(ORDERS)]


def test_every_moving_action_has_a_role() -> None:
    bound = {binding.action for binding in BINDINGS if binding.moves} - {Action.CONFIRM, Action.OVERRIDE}
    assert set(ROLES) == set(ACTIONS) == bound | {Action.ANNOTATE}


def moved(action: Action, state: ConsoleState, frame: Frame) -> Verdict:
    """The gate's verdict; of an action that needs more than a selection, what bars it."""
    if action in DECIDED:
        return decide(action, state, frame)
    return barrier(action, state) or Ask("")


@pytest.mark.parametrize("action", ACTIONS)
def test_no_read_only_leak(state: ConsoleState, armed: Armed, action: Action) -> None:
    state.read_only = "--read-only"
    why = refused(moved(action, state, armed()))
    assert why == f"{DEFAULT.shown(action)} off: read-only (--read-only)"
    state.marks.append(ACME)
    refused(moved(action, state, armed()))


@pytest.mark.parametrize("action", ACTIONS)
def test_a_viewer_moves_nothing(state: ConsoleState, armed: Armed, action: Action) -> None:
    assert state.me is not None
    state.me = state.me.model_copy(update={"role": Role.VIEWER})
    assert f"it needs the role {ROLES[action].value}" in refused(moved(action, state, armed()))


@pytest.mark.parametrize("action", ACTIONS)
def test_an_agents_token_moves_nothing(state: ConsoleState, armed: Armed, action: Action) -> None:
    assert state.me is not None
    state.me = state.me.model_copy(update={"role": Role.AGENT})
    refused(moved(action, state, armed()))


def test_an_operator_rolls_back_and_does_not_promote(state: ConsoleState, armed: Armed) -> None:
    assert state.me is not None
    state.me = state.me.model_copy(update={"role": Role.OPERATOR})
    acted(decide(Action.ROLLBACK, state, armed()))
    verdict = offer(state, state.tenants[ACME], seed.view("acme", "v10"), None, override=False)
    assert "it needs the role releaser" in refused(verdict)


@pytest.mark.parametrize("action", ACTIONS)
def test_without_a_link_nothing_is_sent_and_the_way_out_is_named(
    state: ConsoleState, armed: Armed, clock: Clock, action: Action
) -> None:
    state.link_down("it broke")
    clock.now += 14
    assert "no link to the hub for 14s" in refused(moved(action, state, armed()))


@pytest.mark.parametrize("action", ACTIONS)
def test_before_the_first_list_nothing_is_sent(action: Action) -> None:
    assert "nothing is loaded yet" in refused(moved(action, ConsoleState(), Frame()))


@pytest.mark.parametrize("action", MOVING)
def test_a_hub_that_refuses_moves_is_not_asked(state: ConsoleState, armed: Armed, action: Action) -> None:
    assert state.status is not None
    state.apply(FeedStatus(status=state.status.model_copy(update={"refusing": "log_behind"})))
    assert "log_behind" in refused(moved(action, state, armed()))
    state.apply(FeedStatus(status=state.status.model_copy(update={"refusing": "settling"})))
    assert "10 s at most (settling)" in refused(moved(action, state, armed()))
    state.apply(FeedStatus(status=state.status.model_copy(update={"refusing": None})))
    assert not isinstance(moved(action, state, armed()), Refuse) or "the hub" not in refused(
        moved(action, state, armed())
    )


def test_while_a_node_is_ahead_of_the_log_only_what_goes_forward_is_not_asked_for(
    state: ConsoleState, armed: Armed
) -> None:
    assert state.status is not None
    state.apply(FeedStatus(status=state.status.model_copy(update={"waiting": "log_behind"})))
    for action in (Action.PROMOTE, Action.UNDO):
        assert "loradeck hub recover (log_behind)" in refused(moved(action, state, armed()))
    assert not isinstance(moved(Action.ROLLBACK, state, armed()), Refuse)


# ---- marks -----------------------------------------------------------------------------------------------------


def test_any_mark_makes_R_open_the_frozen_list(state: ConsoleState, armed: Armed) -> None:
    state.marks += [ACME, ("gale", "production")]
    ask = asked(decide(Action.ROLLBACK, state, armed()))
    assert [move.row for move in ask.moves] == [ACME, ("gale", "production")]
    assert len({move.key for move in ask.moves}) == 2


def test_the_list_of_marked_rows_says_how_each_does_and_how_many_are_not_bad(state: ConsoleState) -> None:
    state.marks = [ACME, DELTA]
    ask = asked(decide(Action.ROLLBACK, state, Frame()))
    assert "; 1 of them NOT BAD" in ask.line
    assert "BAD 31.0% bad of 2,310" in ask.listed[0]
    assert "  not bad:" in ask.listed[1]


def test_hidden_marks_come_first_and_say_so(state: ConsoleState, armed: Armed) -> None:
    state.marks += [ACME, ("gale", "production")]
    state.set_filter(RowFilter.parse("acme"))
    ask = asked(decide(Action.ROLLBACK, state, armed()))
    assert ask.moves[0].row == ("gale", "production")
    assert "hidden by the filter" in ask.listed[0]
    assert "1 hidden by the filter" in ask.line


def test_marked_rows_that_cannot_go_back_stay_and_are_listed(state: ConsoleState, armed: Armed) -> None:
    state.marks += [("cedar", "production"), ACME]
    ask = asked(decide(Action.ROLLBACK, state, armed()))
    assert [move.row for move in ask.moves] == [ACME]
    assert ask.listed[0].startswith("stays  cedar/production: v3 is its first release")


def test_marks_that_cannot_move_at_all_are_refused(state: ConsoleState, armed: Armed) -> None:
    state.marks.append(("cedar", "production"))
    refused(decide(Action.ROLLBACK, state, armed()))


# ---- u ---------------------------------------------------------------------------------------------------------


def undoable(state: ConsoleState, armed: Armed, *, risk: str | None = None) -> OwnMove:
    """A settled move of our own, and what is known against the release that an undo would serve again."""
    verdict = decide(Action.ROLLBACK, state, armed())
    row = moved_just_now(state, acks=4, proofs=4)
    change(state, undo_asks=risk)
    assert row.last_event is not None
    return own(state, verdict, Phase.COMMITTED, MoveResult(events=(row.last_event,), rev=row.last_event.rev, epoch=3))


def test_u_acts_at_once_on_a_fresh_move_of_ones_own(state: ConsoleState, armed: Armed) -> None:
    mine = undoable(state, armed)
    (move,) = acted(decide(Action.UNDO, state, armed())).moves
    assert isinstance(move.request, UndoRequest)
    assert mine.event is not None
    assert (move.request.event, move.request.confirmed) == (mine.event.id, False)


def test_u_asks_however_fresh_the_move_where_it_would_serve_again_what_was_left_for_a_reason(
    state: ConsoleState, armed: Armed
) -> None:
    undoable(state, armed, risk="quarantined, breached: bad 31.0% of 2310, left by R")
    ask = asked(decide(Action.UNDO, state, armed()))
    assert "v7/B2 > v9/B2" in ask.line
    assert "v9/B2 is quarantined, breached: bad 31.0% of 2310, left by R" in ask.line
    (move,) = ask.moves
    assert isinstance(move.request, UndoRequest)
    assert move.request.confirmed


def moved_together(state: ConsoleState, *keys: tuple[str, str]) -> list[OwnMove]:
    """What R on these marked rows has done: each is committed, and its row is here."""
    state.marks = list(keys)
    owns = state.sent(*asked(decide(Action.ROLLBACK, state, Frame())).moves)
    state.marks = []
    log = seed.Log()
    for one in owns:
        event, row = seed.rolled_back(state.tenants[one.move.row], log, acks=9, proofs=9)
        state.events[event.rev] = event
        state.tenants[row.key] = row.model_copy(update={"flipped": row.placed, "proven": row.placed, "settled": True})
        one.phase, one.answered_at = Phase.COMMITTED, state.clock()
        one.result = MoveResult(events=(event,), rev=event.rev, epoch=3)
    return owns


DELTA = ("delta", "production")


def test_u_on_one_of_the_rows_that_R_moved_together_offers_all_of_them_as_one_transaction(
    state: ConsoleState, armed: Armed
) -> None:
    owns = moved_together(state, ACME, DELTA)
    ask = asked(decide(Action.UNDO, state, armed()))
    assert ask.line.startswith("u 2 rows in one transaction: undoes your R on 2 rows")
    assert "2 would serve again what is quarantined, breached, left by R or cold" in ask.line
    assert "v9/B2 is quarantined, breached: bad 31.0% of 2310, left by R" in ask.listed[0]
    (move,) = ask.moves
    assert isinstance(move.request, UndoRequest)
    assert move.request.events == tuple(one.event.id for one in owns if one.event is not None)
    assert move.request.confirmed


def test_what_has_moved_since_is_no_part_of_the_undo(state: ConsoleState, armed: Armed) -> None:
    moved_together(state, ACME, DELTA)
    change(state, DELTA, pointer=state.tenants[DELTA].pointer.model_copy(update={"last_move": "e" * 32}))
    ask = asked(decide(Action.UNDO, state, armed()))
    assert ask.line.startswith("u 1 row in one transaction: undoes your R on 2 rows, 1 stay")


def test_u_waits_until_the_outcome_is_known_on_every_row(state: ConsoleState, armed: Armed) -> None:
    moved_together(state, ACME, DELTA)[1].phase = Phase.UNKNOWN
    assert "not known yet on every row" in refused(decide(Action.UNDO, state, armed()))


def test_u_with_marks_undoes_the_marked_rows_alone(state: ConsoleState, armed: Armed) -> None:
    owns = moved_together(state, ACME, DELTA)
    state.marks = [DELTA]
    (move,) = asked(decide(Action.UNDO, state, armed())).moves
    assert isinstance(move.request, UndoRequest)
    assert owns[1].event is not None
    assert move.request.events == (owns[1].event.id,)


def test_u_asks_after_a_minute(state: ConsoleState, armed: Armed, clock: Clock) -> None:
    undoable(state, armed)
    clock.now += 61
    state.heard_at = clock.now
    assert "undoes your own move" in asked(decide(Action.UNDO, state, armed())).line


def test_u_asks_on_somebody_elses_move(state: ConsoleState, armed: Armed) -> None:
    line = asked(decide(Action.UNDO, state, armed())).line
    assert line == 'u acme/production v9/B2 > v8/B2: undoes a move of ci-bot "hotfix for v8", 14m old'


def test_u_and_h_ask_why_where_they_undo_what_a_guard_did(state: ConsoleState, armed: Armed) -> None:
    row = moved_just_now(state, acks=4, proofs=4)
    assert row.last_event is not None
    assert not asked(decide(Action.UNDO, state, armed())).wants_reason
    assert not asked(decide(Action.HOLD, state, armed())).wants_reason
    guards = row.last_event.model_copy(update={"actor": "guard", "payload": {"automation": True}})
    state.events[guards.rev] = guards
    change(state, last_event=guards)
    assert asked(decide(Action.UNDO, state, armed())).wants_reason
    assert asked(decide(Action.HOLD, state, armed())).wants_reason


def test_u_needs_the_row_as_it_is_now_on_the_screen(state: ConsoleState, armed: Armed) -> None:
    before = armed()
    undoable(state, armed)
    assert "not on your screen yet" in refused(decide(Action.UNDO, state, before))


def test_u_needs_the_frame_to_be_seen(state: ConsoleState, armed: Armed) -> None:
    undoable(state, armed)
    refused(decide(Action.UNDO, state, replace(armed(), seen_at=None)))


@pytest.mark.parametrize("phase", [Phase.SENDING, Phase.UNKNOWN])
def test_u_waits_for_the_outcome_of_an_open_move(state: ConsoleState, armed: Armed, phase: Phase) -> None:
    own(state, decide(Action.ROLLBACK, state, armed()), phase)
    refused(decide(Action.UNDO, state, armed()))


def test_u_without_a_move_is_refused(state: ConsoleState, armed: Armed) -> None:
    change(state, pointer=state.tenants[ACME].pointer.model_copy(update={"last_move": None}))
    refused(decide(Action.UNDO, state, armed()))


# ---- F, h, p, q --------------------------------------------------------------------------------------------------


def test_F_always_asks_and_names_the_base(state: ConsoleState, armed: Armed) -> None:
    ask = asked(decide(Action.FALLBACK, state, armed()))
    assert ask.line == 'F acme/production v9/B2 > base alone/B2 (live by ci-bot "hotfix for v8")'


def test_F_on_the_base_alone_is_refused(state: ConsoleState, armed: Armed) -> None:
    change(state, live=seed.view("acme", "base"))
    refused(decide(Action.FALLBACK, state, armed()))


@pytest.mark.parametrize(("key", "held"), [(("acme", "production"), True), (("aspen", "production"), False)])
def test_h_always_asks_and_toggles(state: ConsoleState, armed: Armed, key: tuple[str, str], held: bool) -> None:
    state.tenant_list.choose(key)
    ask = asked(decide(Action.HOLD, state, armed()))
    assert getattr(ask.moves[0].request, "held", None) is held


def gate(passed: bool) -> GateResult:
    check = CheckResult(
        name="json", passed=passed, value=0.97 if passed else 0.71, threshold=0.95, n=400, low=0, high=1
    )
    return GateResult(release=seed.digest("r"), against=None, suite=seed.digest("s"), passed=passed, checks=(check,))


def test_p_offers_the_highest_version_that_is_not_live(state: ConsoleState) -> None:
    views = [seed.view("acme", label) for label in ("v2", "v10", "v9", "base")]
    found = newest(views, state.tenants[ACME])
    assert found is not None
    assert found.label == "v10"
    assert newest([seed.view("acme", "v9")], state.tenants[ACME]) is None


def test_p_always_asks_with_the_gate(state: ConsoleState) -> None:
    ask = asked(offer(state, state.tenants[ACME], seed.view("acme", "v10"), gate(True), override=False))
    assert ask.line.startswith("p acme/production v9/B2 > v10/B2: gate passed (1 check)")
    assert isinstance(ask.moves[0].request, PromoteRequest)
    assert not ask.moves[0].request.override
    assert not ask.wants_reason


@pytest.mark.parametrize(("override", "on_demand"), [(False, True), (True, False)])
def test_p_says_what_the_hub_has_to_ask_about_it(state: ConsoleState, override: bool, on_demand: bool) -> None:
    given = state.tenants[ACME], seed.view("acme", "v10"), gate(True), "prior cold"
    ask = asked(offer(state, *given, None, on_demand, override=override))
    assert ask.line.endswith("; asks: prior cold")
    assert isinstance(request := ask.moves[0].request, PromoteRequest)
    assert request.on_demand is on_demand, "what was shown is what is sent"


def test_p_against_the_gate_is_refused_and_names_the_override(state: ConsoleState) -> None:
    why = refused(offer(state, state.tenants[ACME], seed.view("acme", "v10"), gate(False), override=False))
    assert why == "p off: gate json 71 < 95; :promote! v10 overrides, with a reason"


def test_an_override_wants_a_typed_reason(state: ConsoleState) -> None:
    ask = asked(offer(state, state.tenants[ACME], seed.view("acme", "v10"), gate(False), override=True))
    assert ask.wants_reason
    assert isinstance(ask.moves[0].request, PromoteRequest)
    assert ask.moves[0].request.override
    assert ask.moves[0].because("hotfix").request.reason == "hotfix"
    assert ask.moves[0].because("hotfix").key == ask.moves[0].key


@pytest.mark.parametrize("override", [False, True])
def test_no_override_passes_a_quarantine_or_a_hold(state: ConsoleState, override: bool) -> None:
    row = moved_just_now(state, acks=4, proofs=4)
    assert "held" in refused(offer(state, row, seed.view("acme", "v10"), gate(True), override=override))
    row = change(state, pointer=row.pointer.model_copy(update={"held": False}))
    why = refused(offer(state, row, seed.view("acme", "v9"), gate(True), override=override))
    assert "v9 is quarantined here; loradeck lift acme production v9 ends that" in why


def test_q_leaves_when_nothing_is_open(state: ConsoleState) -> None:
    assert acted(decide(Action.QUIT, state, Frame())).moves == ()


def test_q_leaves_also_when_read_only(state: ConsoleState) -> None:
    state.read_only = "--read-only"
    acted(decide(Action.QUIT, state, Frame()))


@pytest.mark.parametrize("phase", [Phase.SENDING, Phase.UNKNOWN])
def test_q_asks_while_a_move_of_ours_is_open(state: ConsoleState, armed: Armed, phase: Phase) -> None:
    own(state, decide(Action.ROLLBACK, state, armed()), phase)
    assert "is not finished" in asked(decide(Action.QUIT, state, Frame())).line


def test_q_asks_until_our_move_is_finished(state: ConsoleState, armed: Armed) -> None:
    verdict = decide(Action.ROLLBACK, state, armed())
    row = moved_just_now(state, acks=4, proofs=2)
    assert row.last_event is not None
    own(state, verdict, Phase.COMMITTED, MoveResult(events=(row.last_event,), rev=1, epoch=3))
    asked(decide(Action.QUIT, state, Frame()))
    state.tenants[ACME] = row.model_copy(update={"settled": True})
    acted(decide(Action.QUIT, state, Frame()))


def test_names_and_reasons_cannot_carry_control_sequences(state: ConsoleState, armed: Armed) -> None:
    row = state.tenants[ACME]
    assert row.last_event is not None
    event = row.last_event.model_copy(update={"reason": "\x1b[2Jx[/bold]", "kind": EventKind.PROMOTE})
    change(state, last_event=event)
    line = asked(decide(Action.FALLBACK, state, armed())).line
    assert "\x1b" not in line
    assert "[/bold]" in line


def test_the_gate_changes_nothing(state: ConsoleState, armed: Armed) -> None:
    before = (dict(state.tenants), list(state.own), list(state.marks), state.tell)
    for action in DECIDED:
        decide(action, state, armed())
    assert (dict(state.tenants), list(state.own), list(state.marks), state.tell) == before
