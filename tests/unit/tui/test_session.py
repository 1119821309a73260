"""What outlives a console that was cut off, what one leaves that was left with q, and how the tenants are sorted."""

from __future__ import annotations

import stat
import time
from pathlib import Path

import pytest
from tests.fakes import console_fleet as seed
from tests.fakes.console_stage import SeededHub, notice, pane, stage

from loradeck.client.config import Context, resolve
from loradeck.schemas.moves import MoveResult, RollbackRequest
from loradeck.tui.keys.action import Action, Screen
from loradeck.tui.model import session as sessions
from loradeck.tui.model.lists import Sort
from loradeck.tui.model.sent_moves import Move, OwnMove, Phase
from loradeck.tui.model.session import SentMove, Session
from loradeck.tui.text.line_editor import Recall


def now_ms() -> int:
    return int(time.time() * 1000)


def sent(said_ms: int) -> SentMove:
    request = RollbackRequest(expected_generation=41, to=seed.view("acme", "v7").id, idempotency_key="k" * 16)
    move = Move(Action.ROLLBACK, "acme", "production", request, "R acme/production v9 > v7")
    return SentMove.of(OwnMove(move, sent_at=0.0, sent_ms=said_ms))


async def test_a_console_that_was_cut_off_is_gone_on_with_and_its_last_move_is_looked_up() -> None:
    cut = Session(
        at_ms=now_ms() - 60_000,
        cut=True,
        sort=Sort.TENANT,
        filter="a",
        row=("acme", "production"),
        sent=(sent(now_ms() - 61_000),),
    )
    async with stage(session=cut) as on:
        state = on.deck.state
        assert (state.sort, state.tenant_list.filter.text) == (Sort.TENANT, "a")
        assert state.tenant_list.selected == ("acme", "production")
        assert state.tenant_list.order == sorted(state.tenant_list.order)
        assert state.tell is not None
        assert "OUTCOME UNKNOWN" in state.tell.text
        assert "filter a, esc clears it" in notice(on)
        assert on.hub.sent == []


async def test_a_move_that_was_settled_is_what_it_was_in_the_next_console() -> None:
    async with stage(size=(140, 40)) as on:
        await on.roll_back(acks=4, proofs=4, after_s=2)
        kept = Session.model_validate_json(on.deck.session(now_ms(), cut=True).model_dump_json())
        seeded = on.hub.seed.model_copy(
            update={"tenants": tuple(on.deck.state.tenants[row.key] for row in on.hub.seed.tenants)}
        )
    async with stage(seeded, size=(140, 40), session=kept) as on:
        assert on.deck.state.tell is not None
        assert "PROVEN 4/4 FLIPPED 4/4" in on.deck.state.tell.text
        assert "BACK ON v7/B2" in pane(on)
        await on.press("u")
        assert on.hub.sent == []  # it is no longer a slip of a moment ago: u asks


async def test_what_became_of_a_move_is_asked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loradeck.tui.hub.move_sender.LOOK_UP_S", 3600)
    cut = Session(at_ms=now_ms() - 60_000, cut=True, sent=(sent(now_ms() - 61_000),))
    asked: list[str] = []

    async def outcome(self: SeededHub, key: str) -> MoveResult | None:
        asked.append(key)
        log = seed.Log()
        rows = {row.key: row for row in seed.tenants(log)}
        event, _ = seed.rolled_back(rows["acme", "production"], log)
        return MoveResult(events=(event,), rev=event.rev, epoch=3)

    monkeypatch.setattr(SeededHub, "move", outcome)
    async with stage(session=cut) as on:
        assert asked == ["k" * 16]
        assert on.deck.state.tell is not None
        assert "COMMITTED" in on.deck.state.tell.text


async def test_a_move_whose_event_is_in_the_list_of_the_hub_is_not_unknown() -> None:
    log = seed.Log()
    rows = {row.key: row for row in seed.tenants(log)}
    event, row = seed.rolled_back(rows["acme", "production"], log, acks=4, proofs=4)
    listed = seed.hub_state()
    listed = listed.model_copy(
        update={
            "tenants": tuple(row if one.key == row.key else one for one in listed.tenants),
            "events": (*listed.events, event),
        }
    )
    cut = Session(at_ms=now_ms() - 60_000, cut=True, sent=(sent(now_ms() - 61_000),))
    async with stage(listed, session=cut) as on:
        assert on.deck.state.tell is not None
        assert "PROVEN 4/4 FLIPPED 4/4" in on.deck.state.tell.text


async def test_a_console_that_was_left_with_q_leaves_what_was_typed_and_nothing_that_hides_a_row() -> None:
    left = Session(at_ms=now_ms(), sort=Sort.MOVED, filter="bolt", screen=Screen.JOBS, commands=("nodes", "jobs"))
    async with stage(session=left) as on:
        assert (on.deck.state.screen, on.deck.state.sort) == (Screen.TENANTS, Sort.ATTENTION)
        assert on.deck.state.tenant_list.filter.text == ""
        await on.press(":", "up", "up", "enter")
        assert on.deck.state.screen is Screen.NODES


async def test_a_session_of_yesterday_is_not_gone_on_with() -> None:
    async with stage(session=Session(at_ms=now_ms() - 24 * 3600_000, cut=True, screen=Screen.EVENTS)) as on:
        assert on.deck.state.screen is Screen.TENANTS


async def test_what_is_kept_is_what_was_on_the_screen_without_marks_and_questions() -> None:
    async with stage() as on:
        await on.press("s", "/", *"cedar", "enter", "space", "F", ":", *"events", "enter")
        kept = on.deck.session(5, cut=True)
    assert kept == Session(
        at_ms=5,
        cut=True,
        screen=Screen.EVENTS,
        sort=Sort.TENANT,
        filter="cedar",
        row=("cedar", "production"),
        commands=("events",),
        filters=("cedar",),
    )


def test_a_session_is_read_as_it_was_written_by_its_owner_alone(tmp_path: Path) -> None:
    path, session = tmp_path / "s" / "eu-1.json", Session(at_ms=7, cut=True, sent=(sent(5),), row=("a", "b"))
    sessions.write(path, session)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sessions.read(path) == session
    (own,) = session.moves(100.0, 2005)
    assert (own.move.key, own.move.row, own.sent_ms) == ("k" * 16, ("acme", "production"), 5)
    assert (own.sent_at, own.phase) == (98.0, Phase.UNKNOWN)


def test_what_is_no_session_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "broken").write_text('{"cut": tru')
    assert sessions.read(tmp_path / "broken") == sessions.read(tmp_path / "missing") == Session()
    other = Session(sent=(sent(5).model_copy(update={"form": "NoSuchRequest"}),))
    assert list(other.moves(100.0, 2005)) == []


def test_a_session_belongs_to_one_hub_also_where_hubs_have_one_name() -> None:
    one, other = (sessions.path_of(resolve(hub=hub)) for hub in ("unix:/run/one/hub.sock", "unix:/run/other/hub.sock"))
    assert one != other
    assert one.parent == other.parent


def test_a_context_with_a_slash_in_its_name_has_a_file_of_its_own() -> None:
    path = sessions.path_of(Context(name="eu/1", url="https://hub.eu-1.example:7400"))
    assert path.name.startswith("eu%2F1-")


async def test_s_sorts_by_what_is_known_of_every_row_and_the_selection_stays() -> None:
    async with stage() as on:
        state = on.deck.state
        selected = state.tenant_list.selected
        seen = [state.sort]
        for _ in Sort:
            await on.press("s")
            seen.append(state.sort)
            assert state.tenant_list.selected == selected
        assert seen == [*Sort, Sort.ATTENTION]
        await on.press("s", "s", "s")
        moved = [state.tenants[key].pointer.moved_ms or 0 for key in state.tenant_list.order]
        assert moved == sorted(moved, reverse=True)
        assert on.deck.front is not None
        assert "sort newest move" in on.deck.front.summary.text


def test_up_and_down_go_through_what_was_typed_and_back_to_what_is_being_typed() -> None:
    recall = Recall(["a", "b"])
    recall.add("a")
    assert recall.lines == ["b", "a"]
    recall.begin()
    assert [recall.step(-1, "x"), recall.step(-1, ""), recall.step(-1, "")] == ["a", "b", "b"]
    assert [recall.step(1, ""), recall.step(1, ""), recall.step(1, "")] == ["a", "x", "x"]
