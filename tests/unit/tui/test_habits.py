"""What people do all day: mark what is filtered, add an incident, look at JSON, save, go to another hub."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path
from typing import Any

import pytest
from tests.fakes import console_fleet as seed
from tests.fakes.console_stage import Stage, notice, pane, stage

from loradeck.client.config import Context
from loradeck.client.errors import ApiError, ConfigError
from loradeck.schemas.feed import FeedTenants
from loradeck.schemas.incident import IncidentOpen, RelatedReleases
from loradeck.schemas.moves import AnnotateRequest, MoveResult, PromoteRequest, RewindPlan, RewindStep
from loradeck.schemas.problem import Problem
from loradeck.schemas.state import OpenIncident, ReleaseView
from loradeck.tui.app import Deck
from loradeck.tui.hub.queries import RELATED_KEPT, RESTS_S
from loradeck.tui.key_checks.decide import annotate
from loradeck.tui.key_checks.verdict import Refuse
from loradeck.tui.keys.action import Action, Screen
from loradeck.tui.model.sent_moves import Move
from loradeck.tui.model.state import ConsoleState
from loradeck.tui.widgets.page import Page

ACME = ("acme", "production")


async def command(on: Stage, text: str) -> None:
    await on.press(":", *text, "enter")
    await on.pause()


async def test_star_marks_what_the_filter_shows_and_unmarks_it_again() -> None:
    async with stage() as on:
        await on.press("space")
        first = list(on.deck.state.marks)
        await on.press("/", *"bolt|cedar", "enter", "*")
        assert set(on.deck.state.marks) == {*first, ("bolt", "production"), ("cedar", "production")}
        await on.press("*")
        assert on.deck.state.marks == first


async def test_i_opens_an_incident_over_the_row_and_adds_to_one_that_is_open() -> None:
    async with stage() as on:
        on.hub.answer = lambda _: MoveResult(events=(), rev=88500, epoch=3)
        await on.press("i", *"INC-7 bad deploy", "enter")
        (move,) = on.hub.sent
        assert (move.kind, move.row) == (Action.ANNOTATE, ACME)
        assert isinstance(move.request, IncidentOpen)
        assert [(at.tenant, at.route) for at in move.request.pointers] == [ACME]
        assert (move.request.id, move.request.reason) == ("INC-7", "bad deploy")
        tell = on.deck.state.tell
        assert tell is not None
        assert "i acme INC-7 bad deploy on 1 row" in tell.text
        assert "COMMITTED rev 88500" in tell.text
        row = on.deck.state.tenants[ACME]
        one = OpenIncident(id="INC-7", title="bad deploy", by="op1", opened_ms=seed.NOW_MS - 60_000)
        on.deck.state.tenants[ACME] = row.model_copy(update={"incident": one})
        await on.half_second()
        assert "INCIDENT INC-7 1m: bad deploy" in pane(on)
        await on.press("i", *"INC-7 it was the schema", "enter")
        note = on.hub.sent[-1].request
        assert isinstance(note, AnnotateRequest)
        assert (note.event, note.incident, note.reason) == (row.pointer.last_move, "INC-7", "it was the schema")


async def test_i_with_marks_opens_one_incident_over_all_marked_rows() -> None:
    async with stage() as on:
        await on.half_second()
        await on.press("m")
        marked = [ACME, *on.deck.state.marks]
        assert len(marked) == 4
        await on.press("i", *"INC-7 the rows of 02 March", "enter")
        (move,) = on.hub.sent
        assert isinstance(move.request, IncidentOpen)
        assert [(at.tenant, at.route) for at in move.request.pointers] == marked


async def test_a_dash_on_a_row_is_a_reason_alone_for_its_last_move() -> None:
    async with stage() as on:
        await on.press("i", *"- bad deploy", "enter")
        (move,) = on.hub.sent
        assert isinstance(move.request, AnnotateRequest)
        assert move.request.event == on.deck.state.tenants[ACME].pointer.last_move
        assert (move.request.incident, move.request.reason) == (None, "bad deploy")


async def test_i_on_the_events_screen_is_about_the_selected_event_and_a_dash_is_no_incident() -> None:
    async with stage() as on:
        await on.press("6", "j", "j")
        await on.half_second()
        selected = on.deck.state.event_list.selected
        await on.press("i", *"- twice the load", "enter")
        (move,) = on.hub.sent
        assert isinstance(move.request, AnnotateRequest)
        assert move.request.event == on.deck.state.events[selected or 0].id
        assert (move.request.incident, move.request.reason) == (None, "twice the load")


@pytest.mark.parametrize("text", ["", " ", "-", "- "])
async def test_i_with_nothing_typed_sends_nothing(text: str) -> None:
    async with stage() as on:
        await on.press("i", *text, "enter")
        assert "nothing was typed" in notice(on)
        assert on.hub.sent == []


@pytest.mark.parametrize("left_by", ["enter", "escape"])
async def test_what_i_says_of_the_line_that_it_opens_is_gone_with_the_line(left_by: str) -> None:
    async with stage() as on:
        await on.press("i", *"INC-7 empty answers")
        assert "INC-2210 what happened" in notice(on)
        await on.press(left_by)
        assert "INC-2210" not in notice(on)


async def test_i_says_what_an_id_is_made_of() -> None:
    async with stage() as on:
        await on.press("i", *"INC/7 empty answers", "enter")
        assert "id: begins with a letter or digit" in notice(on)
        assert on.hub.sent == []


async def test_i_is_off_in_a_read_only_console() -> None:
    async with stage(read_only="--read-only") as on:
        await on.press("i")
        assert "i off: read-only" in notice(on)
        assert on.deck.front is not None
        assert on.deck.front.prompt.asking is None


@pytest.mark.parametrize(
    ("key", "which"),
    [
        ("1", "tenant"),
        ("2", "node"),
        ("3", "kind"),
        ("4", "body"),
        ("5", "manifest"),
        ("6", "rev"),
        ("7", "digest"),
        ("8", "host"),
    ],
)
async def test_J_shows_the_selected_row_as_json(key: str, which: str) -> None:
    async with stage() as on:
        await on.press(key)
        await on.half_second()
        await on.half_second()
        await on.press("J")
        await on.pause()
        page = on.deck.screen
        assert isinstance(page, Page)
        shown = on.deck.state.selected
        assert shown is not None
        assert which in json.loads(shown.model_dump_json())
        assert page.body.text.startswith("{")
        assert f'"{which}"' in page.body.text
        await on.press("J")
        await on.pause()
        assert on.deck.front is not None


async def test_save_writes_all_rows_to_a_new_file_of_this_users_only(tmp_path: Path) -> None:
    file = tmp_path / "fleet.txt"
    async with stage(size=(100, 30)) as on:
        await command(on, f"save {file}")
        assert f"saved {len(on.deck.state.tenants)} rows to {file}" in notice(on)
        text = file.read_text()
        assert all(f" {tenant} " in text or f" {tenant}/" in text for tenant, _ in on.deck.state.tenants)
        assert "R GOES TO" in text
        assert "NOW   v9" in text
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        await command(on, f"save {file}")
        assert "not saved" in notice(on)
        assert "File exists" in notice(on)
        assert file.read_text() == text
        await command(on, f"save {tmp_path / 'no' / 'folder.txt'}")
        assert "No such file or directory" in notice(on)


async def test_ctx_names_what_there_is_and_ends_the_console_with_the_chosen_hub() -> None:
    async with stage() as on:
        lab = Context(name="lab", socket=Path("/run/loradeck/hub.sock"))
        on.deck.typed.contexts = lambda: {"lab": lab}
        await command(on, "ctx")
        assert notice(on) == "here: eu-1; known: lab"
        await command(on, "ctx nowhere")
        assert "no context 'nowhere'; known: lab" in notice(on)
        await command(on, "ctx lab")
        assert on.deck.return_value == lab


async def test_ctx_is_off_while_a_move_is_not_finished() -> None:
    async with stage() as on:
        lab = Context(name="lab", socket=Path("/run/loradeck/hub.sock"))
        on.deck.typed.contexts = lambda: {"lab": lab}
        await on.press("R")
        await command(on, "ctx lab")
        assert "ctx off: your last move is not finished" in notice(on)
        assert on.deck.return_value is None


async def test_unreadable_settings_are_said_and_the_console_stays() -> None:
    async with stage() as on:

        def broken() -> dict[str, Context]:
            raise ConfigError("the console's settings cannot be read", detail="config.toml", fix="correct it")

        on.deck.typed.contexts = broken
        await command(on, "ctx lab")
        assert "the console's settings cannot be read" in notice(on)
        assert isinstance(on.deck, Deck)
        assert on.deck.state.screen is Screen.TENANTS


async def test_figures_are_asked_for_where_somebody_looks() -> None:
    state = seed.hub_state()
    rows = [
        state.tenants[0].model_copy(update={"tenant": f"t{n:03}", "flags": (), "last_event": None}) for n in range(200)
    ]
    state = state.model_copy(update={"tenants": tuple(rows), "events": ()})
    async with stage(state, size=(80, 24)) as on:
        in_view = 24 - 10 - 5
        assert on.hub.shown[-1] == {(f"t{n:03}", "production") for n in range(2 * in_view)}
        await on.press("space")
        await on.press("G")
        await on.half_second()
        far = {(f"t{n:03}", "production") for n in range(200 - 2 * in_view, 200)}
        assert on.hub.shown[-1] == far | {("t000", "production")}
        before = len(on.hub.shown)
        await on.half_second()
        assert len(on.hub.shown) == before
        await on.press("2")
        await on.half_second()
        assert on.hub.shown[-1] == {("t000", "production"), ("t199", "production")}


async def test_an_incident_goes_to_the_row_that_was_selected_when_i_was_pressed() -> None:
    async with stage() as on:
        await on.press("i", *"INC-7 ")
        on.deck.state.tenant_list.choose(("bolt", "production"))
        await on.press(*"x", "enter")
        (move,) = on.hub.sent
        assert isinstance(move.request, IncidentOpen)
        assert move.row == ACME


async def test_a_note_under_way_locks_no_rollback() -> None:
    async with stage() as on:
        await on.press("i", *"INC-7 x", "enter")
        await on.half_second()
        await on.press("R")
        assert [move.kind for move in on.hub.sent] == [Action.ANNOTATE, Action.ROLLBACK]


async def test_a_rewind_whose_outcome_is_unknown_locks_R_and_another_rewind() -> None:
    async with stage() as on:
        row = on.deck.state.tenants[ACME]
        step = RewindStep(
            tenant="acme", route="production", generation=41, from_release=row.pointer.release, to_release=None
        )
        on.hub.plan = RewindPlan(to_rev=88000, at_ms=seed.NOW_MS - 60_000, steps=(step,))
        await on.press("W", *"1h ago", "enter")
        await on.half_second()
        await on.press("y")
        await on.half_second()
        await on.press("R")
        assert "R locked: your rewind is being sent" in notice(on)
        await on.press("W", *"1h ago", "enter")
        await on.half_second()
        assert "W off: your last rewind is being sent" in notice(on)
        assert len(on.hub.sent) == 1


@pytest.mark.parametrize("typed", [":save ~nosuchuser/x", "W0001-01-01"])
async def test_odd_text_is_refused_and_the_console_stays(typed: str) -> None:
    async with stage() as on:
        await on.press(*typed, "enter")
        await on.half_second()
        assert on.deck.is_running
        assert on.hub.sent == []
        assert notice(on)


async def test_an_offer_that_comes_late_does_not_take_what_is_being_typed() -> None:
    async with stage() as on:
        gate = asyncio.Event()
        ask = on.hub.releases

        async def slow(tenant: str) -> list[ReleaseView]:
            await gate.wait()
            return await ask(tenant)

        on.hub.releases = slow  # type: ignore[method-assign]
        await on.press("p")
        await on.press("/", *"ac")
        gate.set()
        await on.half_second()
        assert on.deck.moves.question is None
        assert on.deck.front is not None
        assert on.deck.front.prompt.value == "ac"
        await on.press("escape")
        gate.clear()
        await on.press("p", "2")
        gate.set()
        await on.half_second()
        assert on.deck.moves.question is None


async def test_enter_on_a_row_shows_no_events_of_a_tenant_whose_name_ends_alike() -> None:
    state = seed.hub_state()
    other = state.events[-1].model_copy(update={"rev": state.events[-1].rev + 1, "tenant": "bigacme"})
    async with stage(state.model_copy(update={"events": (*state.events, other)})) as on:
        on.deck.state.tenant_list.choose(ACME)
        await on.press("enter")
        await on.half_second()
        shown = {on.deck.state.events[rev].tenant for rev in on.deck.state.event_list.order}
        assert shown == {"acme"}


def test_a_reason_that_is_too_long_is_refused(state: ConsoleState) -> None:
    event = state.last_move(state.tenants[ACME])
    verdict = annotate(state, event, "- " + "x" * 600)
    assert isinstance(verdict, Refuse)
    assert "at most 500 characters" in verdict.why


async def test_figures_of_rows_that_nobody_looked_at_are_not_shown_as_of_now() -> None:
    state = seed.hub_state()
    rows = [
        state.tenants[0].model_copy(update={"tenant": f"t{n:03}", "flags": (), "last_event": None}) for n in range(200)
    ]
    async with stage(state.model_copy(update={"tenants": tuple(rows), "events": ()}), size=(100, 30)) as on:
        assert on.deck.front is not None
        assert " 88.0 " in on.deck.front.grid.text.splitlines()[0]
        on.clock.now += 3600
        on.deck.state.heard_at = on.clock.now
        await on.press("G")
        await on.half_second()
        last = on.deck.front.grid.text.splitlines()[-1]
        assert "t199" in last
        assert "88.0" not in last
        saved = on.deck.front.as_text()
        assert "88.0" not in next(line for line in saved.splitlines() if "t100" in line)
        await on.says(FeedTenants(rows=(rows[199],)))
        await on.half_second()
        assert " 88.0 " in on.deck.front.grid.text.splitlines()[-1]


async def test_of_marked_rows_the_one_that_was_refused_is_reported() -> None:
    async with stage() as on:
        problem = Problem(type="about:blank", title="another move was first", status=409, code="moved")

        def answer(move: Move) -> MoveResult:
            if move.tenant == "acme":
                raise ApiError(problem)
            return MoveResult(events=(), rev=88500, epoch=3)

        on.hub.answer = answer
        await on.press("/", *"acme|delta", "enter", "*", "R")
        await on.half_second()
        await on.press("y")
        await on.half_second()
        assert len(on.hub.sent) == 2
        tell = on.deck.state.tell
        assert tell is not None
        assert tell.text.startswith("R 2 rows: REFUSED acme: another move was first")
        assert "COMMITTED 1" in tell.text
        assert tell.style == "bad"


async def test_m_marks_what_shares_something_and_says_what_the_filter_hides() -> None:
    async with stage() as on:
        await on.press("/", *"acme|bolt", "enter")
        on.deck.state.tenant_list.choose(ACME)
        await on.half_second()
        await on.press("m")
        assert {tenant for tenant, _ in on.deck.state.marks} == {"elm", "aspen", "bolt"}
        assert notice(on) == "marked 3 rows, 2 of them hidden by the filter; acme itself is marked by space"
        await on.press("R")
        await on.half_second()
        assert on.deck.moves.question is not None
        assert "2 hidden by the filter" in on.deck.moves.question.ask.line
        await on.press("escape", "m")
        assert on.deck.state.marks == []


async def test_m_marks_nothing_while_it_is_not_known_what_is_shared() -> None:
    async with stage() as on:
        on.hub.away = True
        on.deck.state.related.clear()
        await on.press("j", "k", "m")
        assert "not known yet" in notice(on)
        on.hub.away = False
        await on.press("j")
        await on.half_second()
        assert "no other live release shares" in pane(on)
        await on.press("m")
        assert "no other live release shares" in notice(on)
        assert on.deck.state.marks == []


async def test_what_shares_something_is_asked_for_once_the_selection_rests_and_of_few_rows_kept() -> None:
    async with stage() as on:
        asked: list[str] = []
        answer = on.hub.related

        async def related(tenant: str, route: str) -> RelatedReleases:
            asked.append(tenant)
            return await answer(tenant, route)

        on.hub.related = related  # type: ignore[method-assign]
        await on.press("j")
        on.deck._tick()
        await on.pause()
        assert asked == []
        on.clock.now += RESTS_S + 0.01
        on.deck._tick()
        await on.pause()
        assert asked == [on.deck.state.tenant_list.order[1][0]]
        for _ in range(RELATED_KEPT + 2):
            await on.press("j")
            on.deck.state.heard_at = on.clock.now
            await on.half_second()
        assert len(asked) > RELATED_KEPT == len(on.deck.state.related)
        assert on.deck.state.tenant_list.selected in on.deck.state.related


async def test_a_key_draws_each_row_once_and_its_frame_goes_before_what_is_asked() -> None:
    async with stage() as on:
        front, drawn, order = on.deck.lists[Screen.TENANTS], [], []
        draw, show, hook = front.grid._draw, on.hub.show, on.deck.post_display_hook
        front.grid._draw = lambda *given: drawn.append(given[0]) or draw(*given)  # type: ignore[func-returns-value]

        async def asked(*given: Any) -> None:
            order.append("asked")
            await show(*given)

        def framed() -> None:
            order.append("frame")
            hook()

        on.hub.show, on.deck.post_display_hook = asked, framed  # type: ignore[method-assign]
        on.deck.queries._shown = None
        await on.press("j")
        assert sorted(drawn) == sorted(front.grid.in_view)
        assert order[0] == "frame"
        assert "asked" in order


async def test_o_asks_for_a_typed_reason_and_marks_the_move_as_an_override() -> None:
    async with stage() as on:
        await on.press("o")
        await on.half_second()
        assert on.deck.moves.question is not None
        assert "v9/B2 > v10/B2: OVERRIDE" in on.deck.moves.question.ask.line
        await on.press(*"no other way", "enter")
        (move,) = on.hub.sent
        assert isinstance(move.request, PromoteRequest)
        assert (move.request.override, move.request.reason) == (True, "no other way")


async def test_d_says_why_there_is_nothing_to_compare() -> None:
    async with stage() as on:
        on.deck.state.tenant_list.choose(("cedar", "production"))
        await on.press("d")
        assert "R goes nowhere from here" in notice(on)
        on.deck.state.tenant_list.choose(ACME)
        on.hub.away = True
        await on.press("d")
        await on.pause()
        assert "d off: the hub cannot be reached" in notice(on)
        assert on.deck.front is not None


async def test_x_writes_the_ids_that_the_left_release_answered_and_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with stage() as on:
        await on.press("x")
        await on.pause()
        assert "1 of 4,310 request ids of v8" in notice(on)
        assert "TRUNCATED" in notice(on)
        (file,) = tmp_path.glob("loradeck-ids-*.txt")  # noqa: ASYNC240 (a local folder)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        text = file.read_text()
        assert "# requests on acme/production answered by v8" in text
        assert "#   gpu-04: not linked" in text
        assert [line.split("\t")[0] for line in text.splitlines() if line.startswith("req-")] == ["req-acme-1"]
        await on.press("x")
        await on.pause()
        assert "x: not saved" in notice(on)
        assert file.read_text() == text
        on.hub.away = True
        await on.press("l")
        await on.pause()
        assert "l off: the hub cannot be reached" in notice(on)
