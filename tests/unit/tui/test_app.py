"""The app without a terminal: each key on the seeded fleet."""

from __future__ import annotations

import asyncio

import pytest
from rich.cells import cell_len, set_cell_size
from tests.fakes import console_fleet as seed
from tests.fakes.console_stage import Stage, notice, pane, stage
from tests.fleets.waiting import until
from textual import events

from loradeck.client.api import PointerRequest
from loradeck.client.errors import ApiError, HubUnreachable
from loradeck.client.feed import FeedLink, LinkChange
from loradeck.client.terminal_text import clean
from loradeck.schemas.attestation import Attestation, AttestationKind, CheckResult, GateResult
from loradeck.schemas.feed import FeedEvents, FeedJobs, FeedTenants
from loradeck.schemas.ids import Role
from loradeck.schemas.moves import HoldRequest, MoveResult, PromoteRequest, RollbackRequest
from loradeck.schemas.problem import Problem
from loradeck.schemas.state import PreviewAction, ReleaseView
from loradeck.tui.keys.action import Screen
from loradeck.tui.model.sent_moves import Move, Phase
from loradeck.tui.terminal.driver import set_together

ACME = ("acme", "production")


def grid(on: Stage) -> str:
    assert on.deck.front is not None
    return on.deck.front.grid.text


async def press(on: Stage, *keys: str) -> None:
    await on.press(*keys)


# ---- every key: test_every_key.py -----------------------------------------------------------------------------------


@pytest.mark.parametrize("screen", [Screen.NODES, Screen.JOBS, Screen.EVENTS])
async def test_moving_keys_do_nothing_on_other_screens(screen: Screen) -> None:
    async with stage() as on:
        on.deck.show_list(screen)
        await on.half_second()
        for key in ("R", "u", "F", "p", "h"):
            await press(on, key)
            assert on.hub.sent == []
            assert on.deck.moves.question is None
            assert "is a key of the tenants screen" in notice(on)


# ---- R -----------------------------------------------------------------------------------------------------------


async def test_R_moves_once_and_the_panel_opens() -> None:
    async with stage() as on:
        await on.roll_back(acks=4, proofs=4, after_s=2)
        (move,) = on.hub.sent
        assert isinstance(move.request, RollbackRequest)
        assert (move.row, move.request.expected_generation) == (ACME, 41)
        assert "BACK ON v7/B2" in pane(on)
        assert "PROVEN 4/4 FLIPPED 4/4 +7ms" in pane(on)


async def test_R_before_half_a_second_does_nothing_and_says_why() -> None:
    async with stage() as on:
        await press(on, "j")
        await press(on, "k")
        await press(on, "R")
        assert on.hub.sent == []
        assert "less than half a second" in notice(on)


async def test_R_held_down_at_30_Hz_moves_once() -> None:
    async with stage() as on:
        log = seed.Log()
        rows = {row.key: row for row in seed.tenants(log)}
        event, row = seed.rolled_back(rows[ACME], log, acks=4, proofs=4)
        on.hub.answer = lambda move: MoveResult(events=(event,), rev=event.rev, epoch=3)
        for i in range(45):
            await on.press("R")
            on.clock.now += 1 / 30
            if i == 20:
                await on.says(FeedTenants(rows=(row,)))
        assert len(on.hub.sent) == 1
        assert on.deck.moves.question is not None
        assert "one release further back" in on.deck.moves.question.ask.line


async def test_keys_that_came_in_one_read_are_no_commands() -> None:
    async with stage() as on:
        for _ in range(2):
            key = events.Key("R", "R")
            set_together(key, 2)
            on.deck.key_actions.pressed(key)
        await on.pause()
        assert on.hub.sent == []
        assert "2 keys came at once" in notice(on)


async def test_of_many_keys_in_one_read_only_those_that_move_the_selection_or_leave_act() -> None:
    async with stage() as on:
        for name, char in (("j", "j"), ("j", "j"), ("R", "R"), ("y", "y"), ("space", " "), ("pagedown", None)):
            key = events.Key(name, char)
            set_together(key, 6)
            on.deck.key_actions.pressed(key)
        await on.pause()
        assert on.deck.front is not None
        assert on.deck.state.tenant_list.index == 2 + on.deck.front.grid.page
        assert on.deck.state.marks == []
        assert on.hub.sent == []


async def test_the_last_result_gives_way_to_that_of_the_next_move() -> None:
    async with stage() as on:
        assert "until esc or your next move" in pane(on)
        await press(on, "i", *"INC-1 one", "enter")
        assert "INC-1 one" in pane(on)
        await press(on, "i", *"INC-2 two", "enter")
        assert "INC-2 two" in pane(on)
        assert "INC-1 one" not in pane(on)


async def test_pasted_Restart_outside_inputs_does_nothing() -> None:
    async with stage() as on:
        on.deck.post_message(events.Paste("Restart\ny"))
        await on.pause()
        assert on.hub.sent == []
        assert on.deck.moves.question is None
        assert "pasted text ignored (9 characters)" in notice(on)


async def test_the_pane_asks_and_only_y_sends() -> None:
    async with stage() as on:
        await press(on, "F")
        assert "F acme/production v9/B2 > base alone/B2" in pane(on)
        assert "nothing has been sent" in pane(on)
        for key in ("enter", "F", "n", "Y"):
            await press(on, key)
            assert on.hub.sent == []
        await press(on, "F")
        await on.half_second()
        await press(on, "y")
        assert [move.kind.value for move in on.hub.sent] == ["fallback"]


async def test_the_cause_stays_in_view_under_a_question() -> None:
    async with stage() as on:
        await press(on, "u")
        assert "undoes a move of ci-bot" in pane(on)
        assert "CAUSE" in pane(on)


async def test_any_other_key_drops_the_question() -> None:
    async with stage() as on:
        await press(on, "F")
        await press(on, "j")
        assert on.deck.moves.question is None
        await press(on, "y")
        assert on.hub.sent == []
        assert "nothing waits for y" in notice(on)


async def test_y_counts_only_once_the_question_has_been_seen() -> None:
    async with stage() as on:
        await press(on, "F")
        question = on.deck.moves.question
        assert question is not None
        on.deck.seen.frame(None, None)
        await press(on, "y")
        assert on.hub.sent == []
        assert "has not shown the question" in notice(on)


async def test_a_question_is_dropped_when_its_row_moves() -> None:
    async with stage() as on:
        await press(on, "F")
        row = on.deck.state.tenants[ACME]
        moved = row.model_copy(update={"pointer": row.pointer.model_copy(update={"generation": 42})})
        await on.says(FeedTenants(rows=(moved,)))
        on.deck._tick()
        assert on.deck.moves.question is None
        assert "question dropped: acme/production has moved since (now gen 42)" in notice(on)


async def test_marked_rows_are_rolled_back_together_after_y() -> None:
    async with stage() as on:
        await press(on, "g", "space")
        await press(on, "G", "space")
        await press(on, "R")
        assert "R on 2 marked rows" in pane(on)
        await on.half_second()
        await press(on, "y")
        assert {move.tenant for move in on.hub.sent} == {"acme", "zephyr"}
        assert on.deck.state.marks == []


# ---- answers -----------------------------------------------------------------------------------------------------


async def test_a_refusal_is_told_and_stays_until_esc() -> None:
    async with stage() as on:
        problem = Problem(
            status=409, code="moved", title="the pointer has moved", detail="acme/production is at 42", fix="look again"
        )

        def refuse(move: Move) -> MoveResult:
            raise ApiError(problem)

        on.hub.answer = refuse
        await press(on, "R")
        told = "REFUSED R acme v9/B2 > v7/B2: the pointer has moved; acme/production is at 42; look again"
        assert on.deck.state.tell is not None
        assert on.deck.state.tell.text == told
        await press(on, "j")
        assert "REFUSED R acme" in pane(on)
        await press(on, "escape")
        assert "empty: your last result" in pane(on)


async def test_a_hub_that_was_not_reached_moved_nothing() -> None:
    async with stage() as on:

        def fail(move: Move) -> MoveResult:
            raise HubUnreachable("the hub cannot be reached; nothing was sent", detail="x", fix="check")

        on.hub.answer = fail
        await press(on, "R")
        assert on.deck.state.tell is not None
        assert on.deck.state.tell.text.startswith("NOT MOVED R acme")
        await press(on, "q")
        assert on.deck.moves.question is None


async def test_a_lost_answer_is_unknown_locks_R_and_holds_q() -> None:
    async with stage() as on:
        await press(on, "R")
        await on.half_second()
        assert "OUTCOME UNKNOWN" in pane(on)
        await press(on, "R")
        assert "R locked: the outcome of your last move is unknown" in notice(on)
        await press(on, "q")
        assert on.deck.moves.question is not None
        assert "is not finished" in on.deck.moves.question.ask.line
        assert len(on.hub.sent) == 1


async def test_an_unknown_outcome_is_resolved_by_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loradeck.tui.hub.move_sender.LOOK_UP_S", 0.01)
    async with stage() as on:
        event, row = seed.rolled_back(on.deck.state.tenants[ACME], seed.Log(), acks=4, proofs=4)
        asked: list[str] = []

        async def outcome(key: str) -> MoveResult | None:
            asked.append(key)
            return MoveResult(events=(event,), rev=event.rev, epoch=3) if len(asked) > 1 else None

        on.hub.move = outcome  # type: ignore[method-assign]
        await press(on, "R")
        await until(lambda: len(asked) == 2)
        await on.says(FeedTenants(rows=(row,)))
        await on.half_second()
        assert asked == [on.hub.sent[0].key] * 2
        assert "COMMITTED" in pane(on)


async def test_a_move_whose_event_comes_by_the_feed_is_committed() -> None:
    async with stage() as on:
        await press(on, "R")
        await on.half_second()
        assert "OUTCOME UNKNOWN" in pane(on)
        log = seed.Log()
        rows = {row.key: row for row in seed.tenants(log)}
        other, _ = seed.rolled_back(rows[ACME], log, actor="op2")
        await on.says(FeedEvents(events=(other,)))
        assert [own.phase for own in on.deck.state.own] == [Phase.UNKNOWN]  # another person's, of that generation
        event, row = seed.rolled_back(rows[ACME], log, acks=4, proofs=4)
        await on.says(FeedEvents(events=(event,)), FeedTenants(rows=(row,)))
        await on.half_second()
        assert "OUTCOME UNKNOWN" not in pane(on)
        assert "PROVEN 4/4" in pane(on)


async def test_a_key_the_hub_has_never_seen_moved_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loradeck.tui.hub.move_sender.LOOK_UP_S", 0.01)
    async with stage() as on:

        async def outcome(key: str) -> MoveResult | None:
            return None

        on.hub.move = outcome  # type: ignore[method-assign]
        await press(on, "R")
        await until(lambda: not on.deck.state.unfinished)
        assert on.deck.state.tell is not None
        assert "the hub has never seen it" in on.deck.state.tell.text


# ---- promote -----------------------------------------------------------------------------------------------------


async def test_a_promote_of_ours_shows_its_prepare_and_R_cancels_it() -> None:
    key = ("cove", "production")
    async with stage(size=(140, 30)) as on:
        before = on.deck.state.tenants[key]
        preview = before.preview.model_copy(update={"action": PreviewAction.ROLLBACK, "prepare": None})
        ready = before.model_copy(update={"flags": (), "preview": preview})
        await on.says(FeedTenants(rows=(ready,)))
        on.deck.state.tenant_list.choose(key)
        waits, held = asyncio.Event(), on.hub.send

        async def send(tenant: str, route: str, request: PointerRequest, **how: object) -> MoveResult:
            if isinstance(request, PromoteRequest):
                await waits.wait()
            return await held(tenant, route, request)

        on.hub.send = send  # type: ignore[method-assign]
        await press(on, "p")
        await on.half_second()
        await press(on, "y")
        await on.half_second()
        assert "SENDING" in pane(on)
        await on.says(FeedTenants(rows=(before,)))
        for _ in range(3):
            await on.half_second()
        assert "cancels the prepare that is under way" in pane(on)
        assert "prepared 2/3, loading on gpu-05, " in pane(on)
        assert "p cove v2/B2 > v10/B2: prepared 2/3" in pane(on)
        assert "cancels     preparing" in grid(on)
        on.hub.answer = lambda move: MoveResult(events=(), rev=1, epoch=3, cancelled="job-5f2a91c0")
        await press(on, "R")
        (cancel,) = (move.request for move in on.hub.sent if isinstance(move.request, RollbackRequest))
        assert cancel.cancels == "job-5f2a91c0"
        assert on.deck.state.tell is not None
        assert "the prepare is cancelled, nothing moved" in on.deck.state.tell.text


async def test_a_promote_that_fails_after_its_answer_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("loradeck.tui.hub.move_sender.LOOK_UP_S", 0.01)
    async with stage(size=(140, 30)) as on:
        job = seed.jobs()[0].model_copy(update={"id": "p1", "message": "the prepare failed on gpu-01"})
        on.hub.answer = lambda move: MoveResult(events=(), rev=1, epoch=3, pending="p1")
        asked: list[str] = []

        async def outcome(key: str) -> MoveResult | None:
            asked.append(key)
            return MoveResult(events=(), rev=1, epoch=3, pending="p1") if len(asked) < 3 else None

        on.hub.move = outcome  # type: ignore[method-assign]
        await on.says(FeedJobs(rows=(job,)))
        await press(on, "p")
        await on.half_second()
        await press(on, "y")
        await until(lambda: on.deck.state.own[-1].phase is Phase.REFUSED)
        assert on.deck.state.tell is not None
        assert on.deck.state.tell.text == "REFUSED p acme v9/B2 > v10/B2: the prepare failed on gpu-01"


async def test_p_offers_the_newest_release_with_its_gate() -> None:
    async with stage() as on:
        await press(on, "p")
        await on.half_second()
        assert "p acme/production v9/B2 > v10/B2: no gate result on record" in pane(on)
        await press(on, "y")
        (move,) = on.hub.sent
        assert isinstance(move.request, PromoteRequest)
        assert move.request.release == seed.view("acme", "v10").id


async def test_promote_takes_the_named_version() -> None:
    async with stage() as on:
        await press(on, ":", *"promote v8", "enter")
        await on.half_second()
        assert "v9/B2 > v8/B2" in pane(on)


async def test_an_override_needs_a_typed_reason() -> None:
    async with stage() as on:

        async def failed(*, kind: AttestationKind, subject: str, tenant: str, route: str) -> list[Attestation]:
            check = CheckResult(name="json", passed=False, value=0.71, threshold=0.95, n=400, low=0, high=1)
            live = on.deck.state.tenants[tenant, route].pointer.release
            gate = GateResult(release=subject, against=live, suite=seed.digest("s"), passed=False, checks=(check,))
            return [seed.gates()[0].model_copy(update={"body": gate.model_dump(mode="json")})]

        on.hub.attestations = failed  # type: ignore[method-assign, assignment]
        await press(on, "p")
        assert ":promote! v10 overrides, with a reason" in notice(on)
        await press(on, ":", *"promote! v10", "enter")
        await on.half_second()
        assert "OVERRIDE, gate json 71 < 95" in pane(on)
        await press(on, "y", "enter")
        assert [move.request.reason for move in on.hub.sent] == ["y"]
        request = on.hub.sent[0].request
        assert isinstance(request, PromoteRequest)
        assert request.override


async def test_an_empty_reason_sends_nothing() -> None:
    async with stage() as on:
        await press(on, ":", *"promote! v10", "enter")
        await on.half_second()
        await press(on, "space", "enter")
        assert on.hub.sent == []
        await press(on, "escape")
        assert on.deck.moves.question is None
        assert on.hub.sent == []


async def test_p_without_another_release_says_what_there_is() -> None:
    async with stage() as on:

        async def only_live(tenant: str) -> list[ReleaseView]:
            return [seed.view(tenant, "v9")]

        on.hub.releases = only_live  # type: ignore[method-assign]
        await press(on, "p")
        assert "no release but the live one (known: v9)" in notice(on)


async def test_h_releases_a_hold_after_y() -> None:
    async with stage() as on:
        await press(on, "j", "j")
        assert on.deck.state.tenant_list.selected == ("aspen", "production")
        await press(on, "h")
        await on.half_second()
        await press(on, "y")
        (move,) = on.hub.sent
        assert isinstance(move.request, HoldRequest)
        assert not move.request.held


# ---- read-only ---------------------------------------------------------------------------------------------------


async def test_no_read_only_leak_whatever_is_pressed() -> None:
    async with stage(read_only="--read-only") as on:
        typed = (["R"], ["u"], ["F"], ["h"], ["p"], [":", *"rollback", "enter"], [":", *"promote! v8", "enter"])
        for keys in typed:
            await press(on, *keys)
            await on.half_second()
            await press(on, "y")
            assert on.hub.sent == []
            assert on.deck.moves.question is None


async def test_read_only_is_shown_and_says_why_at_the_key() -> None:
    async with stage(read_only="context lab") as on:
        await press(on, "R")
        assert "R off: read-only (context lab)" in notice(on)
        assert "R off: read-only" in pane(on)


async def test_a_viewers_console_moves_nothing() -> None:
    async with stage(seed.hub_state(role=Role.VIEWER)) as on:
        for key in ("R", "u", "F", "h", "p"):
            await press(on, key)
            await press(on, "y")
        assert on.hub.sent == []


# ---- lists -------------------------------------------------------------------------------------------------------


async def test_no_selection_jump_when_the_order_changes() -> None:
    async with stage() as on:
        await press(on, "G")
        on.clock.now += 3
        key = on.deck.state.tenant_list.selected
        assert key == ("zephyr", "production")
        row = on.deck.state.tenants[key]
        await on.says(FeedTenants(rows=(row.model_copy(update={"flags": ("BAD",)}),)))
        on.deck._tick()
        assert on.deck.state.tenant_list.selected == key
        first, second = grid(on).splitlines()[:2]
        assert "acme" in first
        assert second.startswith("> zephyr")


async def test_scrolling_keeps_the_selection_in_view() -> None:
    async with stage(size=(80, 24)) as on:
        for key in ("pagedown", "pagedown", "pageup", "G", "k", "g", "j"):
            await press(on, key)
            assert "> " in grid(on)
            selected = on.deck.state.tenant_list.selected
            assert selected is not None
            assert any(line.startswith(f"> {selected[0]}") for line in grid(on).splitlines())


async def test_a_filter_is_typed_applied_and_left() -> None:
    async with stage() as on:
        await press(on, "/", *"!a")
        assert "acme" not in grid(on)
        await press(on, "enter")
        assert on.deck.front is not None
        assert "filter !a" in on.deck.front.summary.text
        await press(on, "escape")
        assert "acme" in grid(on)


async def test_esc_while_typing_restores_the_filter_before() -> None:
    async with stage() as on:
        await press(on, "/", *"bolt", "enter")
        await press(on, "/", *"x", "escape")
        assert on.deck.state.tenant_list.filter.text == "bolt"
        assert "bolt" in grid(on)


async def test_a_broken_filter_is_refused_with_the_reason() -> None:
    async with stage() as on:
        await press(on, "/", "(", "enter")
        assert "no regular expression" in notice(on)
        assert "acme" in grid(on)


async def test_a_filter_without_a_match_is_not_an_empty_fleet() -> None:
    async with stage() as on:
        await press(on, "/", *"nosuch", "enter")
        assert "none of 29 rows match; esc clears the filter" in grid(on)


async def test_an_empty_fleet_is_not_loading() -> None:
    empty = seed.hub_state().model_copy(update={"tenants": (), "nodes": (), "jobs": (), "events": ()})
    async with stage(empty) as on:
        assert "no tenants yet" in grid(on)
        for key in ("R", "u", "F", "h", "p", "space", "enter", "j", "G"):
            await press(on, key)
        assert on.hub.sent == []


async def test_never_loading_shown_as_empty() -> None:
    async with stage() as on:
        on.deck.state.status = None
        on.deck.state.tenants.clear()
        on.deck.state.arrange(force=True)
        on.deck.draw_front()
        assert "loading from eu-1 ..." in grid(on)


async def test_enter_shows_a_rows_events_and_goes_back_to_its_row() -> None:
    async with stage() as on:
        await press(on, "j", "enter")
        assert on.deck.state.screen is Screen.EVENTS
        assert on.deck.front is not None
        assert {on.deck.state.events[rev].tenant for rev in on.deck.state.event_list.order} == {"bolt"}
        await press(on, "enter")
        assert on.deck.state.screen is Screen.TENANTS
        assert on.deck.state.tenant_list.selected == ("bolt", "production")


async def test_enter_shows_events_that_are_older_than_those_of_the_feed_until_the_filter_changes() -> None:
    async with stage() as on:
        row = on.deck.state.tenants["bolt", "production"]
        assert row.last_event is not None
        on.hub.history = [row.last_event.model_copy(update={"rev": 7, "reason": "the first of all"})]
        await press(on, "j", "enter")
        await on.half_second()
        assert on.deck.state.event_list.order[-1] == 7
        assert "the first of a" in grid(on)
        await press(on, "escape")
        assert 7 not in on.deck.state.event_list.order


async def test_q_goes_back_and_then_leaves() -> None:
    async with stage() as on:
        await press(on, "3")
        await press(on, "q")
        assert on.deck.state.screen is Screen.TENANTS
        assert on.deck.is_running
        await press(on, "q")
        assert not on.deck.is_running or on.deck._exit


async def test_after_help_R_has_to_be_armed_again() -> None:
    async with stage() as on:
        await press(on, "?")
        await press(on, "escape")
        await press(on, "R")
        assert on.hub.sent == []
        await on.half_second()
        await press(on, "R")
        assert len(on.hub.sent) == 1


# ---- the link ----------------------------------------------------------------------------------------------------


async def test_a_lost_link_is_shown_and_nothing_is_sent() -> None:
    async with stage() as on:
        on.hub.says.put_nowait(LinkChange(state=FeedLink.LOST, at=0.0, why="the link broke"))
        await on.pause()
        on.clock.now += 14
        await on.half_second()
        assert on.deck.front is not None
        assert "LINK LOST" in on.deck.front.header.text
        assert "figures are from 03:12:44Z" in on.deck.front.summary.text
        assert "AS OF" in pane(on)
        await press(on, "R")
        assert on.hub.sent == []
        assert "R off: no link to the hub" in notice(on)
        on.hub.says.put_nowait(LinkChange(state=FeedLink.UP, at=0.0, why=""))
        await on.pause()
        assert notice(on) == "", "what a key was told of the lost link is over"


async def test_never_stale_shown_as_live() -> None:
    async with stage() as on:
        on.clock.now += 5
        on.deck._tick()
        assert on.deck.front is not None
        assert "hub STALE 6s" in on.deck.front.header.text or "hub STALE 5s" in on.deck.front.header.text
        assert "AS OF" in pane(on)


# ---- names are data ----------------------------------------------------------------------------------------------


async def test_markup_in_names_and_reasons_is_shown_as_it_is() -> None:
    listed = seed.hub_state()
    job = listed.jobs[0].model_copy(update={"message": "[bold]x[/] \x1b[2J [/nope"})
    event = listed.events[-1].model_copy(update={"reason": "[link=x]y[/link]", "actor": "[red]op"})
    state = listed.model_copy(update={"jobs": (job,), "events": (*listed.events[:-1], event)})
    async with stage(state) as on:
        await press(on, "3")
        await until(lambda: "[bold]x[/] ␛[2J [/nope" in pane(on))
        await press(on, "6")
        await until(lambda: "[link=x]y[/link]" in pane(on))
        assert "[red]op" in grid(on)
        svg = on.deck.export_screenshot()
        assert "\x1b" not in svg


WIDE_AND_RIGHT_TO_LEFT = (
    "\u4fa1\u683c\u306e\u8aa4\u308a",
    "\u0634\u0643\u0631\u0627 3.1",
    "\u05e9\u05dc\u05d5\u05dd",
    "a\u0301\u200d\U0001f469",
    "\u202eabc",
)


@pytest.mark.parametrize("size", [(80, 24), (160, 48)])
async def test_wide_and_right_to_left_names_stay_in_their_cells(size: tuple[int, int]) -> None:
    listed = seed.hub_state()
    rest, last = listed.events[:-5], listed.events[-5:]
    drawn = []
    for names in (("op",) * 5, WIDE_AND_RIGHT_TO_LEFT):
        named = [event.model_copy(update={"actor": n, "reason": n}) for event, n in zip(last, names, strict=True)]
        async with stage(listed.model_copy(update={"events": (*rest, *named)}), size=size) as on:
            await press(on, "6")
            await on.half_second()
            drawn.append(grid(on).splitlines()[:5])
            assert "\u202e" not in grid(on) + pane(on), "nothing turns the direction of a line"
            assert clean(names[-1]) in pane(on)
    for plain, row, name in zip(*drawn, reversed(WIDE_AND_RIGHT_TO_LEFT), strict=True):
        start = plain.index(" op ") + 1
        assert set_cell_size(row, start) == plain[:start], "what stands to the left stays where it is"
        assert cell_len(row) == cell_len(plain) == size[0] - 1
        assert clean(name)[:2] in row


@pytest.mark.parametrize("size", [(80, 24), (100, 30), (160, 48), (200, 60)])
async def test_every_size_shows_whole_screens(size: tuple[int, int]) -> None:
    async with stage(size=size) as on:
        for screen in Screen:
            on.deck.show_list(screen)
            await on.half_second()
            front = on.deck.front
            assert front is not None
            parts = (
                front.header,
                front.summary,
                front.column_names,
                front.grid,
                front.pane,
                front.prompt,
                front.footer,
            )
            assert sum(part.size.height for part in parts) == size[1]
            assert all(part.size.width == size[0] for part in parts)
            assert front.grid.size.height >= 8
            assert "…" not in front.header.text


async def test_a_terminal_too_small_for_the_preview_never_arms() -> None:
    async with stage(size=(80, 12)) as on:
        await on.half_second()
        await press(on, "R")
        assert on.hub.sent == []
