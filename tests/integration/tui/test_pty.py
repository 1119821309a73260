"""The console in a real pty on a real hub: what a person types is what moves, and nothing else does."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from tests.integration.tui.conftest import Site
from tests.integration.tui.terminal import Terminal, console

from loradeck.schemas.replica_state import AckState

ARMED = "R ARMED"


async def settled_panel(terminal: Terminal) -> None:
    await terminal.shows("BACK ON v2/B1", "FLIPPED 2/2", "PROVEN 2/2")


async def test_R_rolls_back_once_and_the_panel_follows_it_to_proven(site: Site) -> None:
    async with console(site.here) as terminal:
        await terminal.shows("acme", ARMED, "v2 loaded", "resident 2/2")
        terminal.type("R")
        await settled_panel(terminal)
        assert site.live == site.releases[1]
        assert await site.kinds() == ["rollback"]
        assert "COMMITTED rev" in terminal.line("TELL")


async def test_R_u_R_and_promote_again_through_the_keyboard(site: Site) -> None:
    async with console(site.here) as terminal:
        await terminal.shows(ARMED)
        terminal.type("R")
        await settled_panel(terminal)
        await terminal.shows("u asks y")
        terminal.type("u")
        await terminal.shows("quarantined, left by R")
        await terminal.confirms()
        await terminal.shows("BACK ON v3/B1", ARMED)
        assert site.live == site.releases[2]
        terminal.type("R")
        await settled_panel(terminal)
        terminal.type("h")
        await terminal.shows("h release hold of acme/production")
        await terminal.confirms()
        await terminal.until(lambda: not site.hub.hub.log.state.pointers["acme", "production"].held, "hold released")
        await terminal.until(lambda: "held" not in terminal.line("> acme"), "the row says so")
        terminal.type("p")
        await terminal.shows("p off: v3 is quarantined here")
        terminal.type(":")
        await terminal.until(lambda: terminal.screen.display[-2].startswith(" :"), "a command is typed")
        terminal.type("promote! v1\r")
        await terminal.shows("OVERRIDE", "reason>")
        terminal.type("v2 is no better\r")
        await terminal.shows("NOW ON v1/B1", "PROVEN 2/2")
        assert await site.kinds() == ["rollback", "undo", "rollback", "release_hold", "promote"]


async def test_W_shows_the_plan_of_a_rewind_and_y_puts_it_in_force_as_one_move(site: Site) -> None:
    events = await site.hub.ok("GET", "events?tenant=acme&route=production&limit=200")
    second = sorted(event["rev"] for event in events if event["kind"] == "promote")[1]
    async with console(site.here) as terminal:
        await terminal.shows(ARMED)
        terminal.type("W")
        await terminal.shows("back to>")
        terminal.type(f"{second}\r")
        await terminal.shows(f"W 1 pointer back to rev {second}, committed", "moves  acme/production: v3/B1 > v2/B1")
        assert await site.kinds() == []
        await terminal.confirms()
        await terminal.shows("PROVEN 1/1 FLIPPED 1/1", "R asks y: this goes one release further back")
        assert site.live == site.releases[1]
        assert await site.kinds() == ["rewind"]
        terminal.type("u")
        await terminal.shows("u 1 pointer of one rewind: undoes all of it, by root")
        await terminal.confirms()
        await terminal.until(lambda: site.live == site.releases[2], "it is undone")
        assert await site.kinds() == ["rewind", "undo"]


async def test_i_opens_an_incident_over_the_row(site: Site) -> None:
    async with console(site.here) as terminal:
        await terminal.shows(ARMED)
        terminal.type("i")
        await terminal.shows("incident>")
        terminal.type("INC-2210 bad deploy\r")
        await terminal.shows("i acme INC-2210 bad deploy on 1 row", "COMMITTED rev")
        terminal.type("6")
        await terminal.shows("INC-2210", "bad deploy")
    assert (await site.kinds())[-1] == "annotate"


async def test_gates_adapters_and_data_are_fetched_from_a_real_hub(site: Site) -> None:
    async with console(site.here) as terminal:
        await terminal.shows(ARMED)
        for key, words in (("4", "no gate result on record"), ("5", "3 versions of 1 adapter"), ("7", "no dataset")):
            terminal.type(key)
            await terminal.shows(words)
        assert await site.kinds() == []


async def test_switched_context_clears_marks_filter_and_pending(site: Site, tmp_path: Path) -> None:
    (tmp_path / "loradeck").mkdir()
    (tmp_path / "loradeck" / "config.toml").write_text(f'[contexts.lab]\nsocket = "{site.here.socket}"\n')
    async with console(site.here, env={"XDG_CONFIG_HOME": str(tmp_path)}) as terminal:
        await terminal.shows(ARMED)
        terminal.type(" ")
        await terminal.shows("marks 1")
        terminal.type("/")
        await terminal.until(lambda: terminal.screen.display[-2].startswith(" /"), "a filter is typed")
        terminal.type("acme\r")
        await terminal.shows("filter acme: 1 of 1")
        terminal.type("F")
        await terminal.shows("y or esc?")
        terminal.type(":")
        await terminal.until(lambda: terminal.screen.display[-2].startswith(" :"), "a command is typed")
        terminal.type("ctx lab\r")
        await terminal.shows("marks 0", ARMED)
        assert "filter acme" not in terminal.text
        terminal.type("y")
        await terminal.shows("nothing waits for y")
        assert await site.kinds() == []
        terminal.type("q")
        assert await terminal.ended() == 0
        assert terminal.is_clean


async def test_RR_in_one_write_and_pasted_Restart_move_nothing(site: Site) -> None:
    before = site.generation
    async with console(site.here) as terminal:
        await terminal.shows(ARMED)
        for typed in ("RR", "Ry", "Restart", "Restart\ry\r", "\x1b[200~Restart\ny\n\x1b[201~"):
            terminal.type("j")
            await terminal.until(lambda: not terminal.screen.display[-2].strip(), "no notice")
            terminal.type(typed)
            await terminal.until(lambda: terminal.screen.display[-2].strip(), f"{typed!r} is told")
            told = terminal.screen.display[-2]
            assert "keys came at once" in told or "pasted text ignored" in told
        await terminal.shows("> acme", ARMED)
        assert site.generation == before
        assert await site.kinds() == []
        assert terminal.process is not None
        assert terminal.process.poll() is None


async def test_R_repeated_at_30_Hz_moves_once(site: Site) -> None:
    async with console(site.here) as terminal:
        await terminal.shows(ARMED)
        for held in range(2000):
            if held > 60 and "one release further back" in terminal.text:
                break
            terminal.type("R")
            await asyncio.sleep(1 / 30)
        await terminal.shows("one release further back")
        assert await site.kinds() == ["rollback"]


async def test_a_preview_the_terminal_has_not_shown_does_not_arm(site: Site) -> None:
    async with console(site.here) as terminal:
        await terminal.shows(ARMED)
        terminal.answers = False
        terminal.type("?")
        await terminal.shows("Keys on the tenants screen")
        terminal.type("\x1b")
        await terminal.until(lambda: terminal.unanswered > 0 and "has not shown this preview" in terminal.text, "asks")
        await asyncio.sleep(1.2)  # it asks its terminal again, and time alone arms nothing
        terminal.type("R")
        await terminal.until(lambda: "R not armed" in terminal.screen.display[-2], "says why")
        assert await site.kinds() == []
        terminal.answers = True
        for _ in range(terminal.unanswered):
            terminal.type("\x1b[1;1R")
        await terminal.shows(ARMED)
        terminal.type("R")
        await settled_panel(terminal)


async def test_a_terminal_that_never_answers_still_arms(site: Site) -> None:
    async with console(site.here, answers=False) as terminal:
        await terminal.shows(ARMED)
        terminal.type("R")
        await settled_panel(terminal)
        assert await site.kinds() == ["rollback"]


async def test_a_late_answer_in_pieces_types_no_R(site: Site) -> None:
    async with console(site.here) as terminal:
        await terminal.shows(ARMED)
        terminal.answers = False
        terminal.type("F")
        await terminal.shows("base alone/B1")
        await terminal.until(lambda: terminal.unanswered > 0, "asks whether the question is seen")
        terminal.type("\x1b")
        await asyncio.sleep(0.3)  # the pieces are late by more than the console waits for the rest of a sequence
        for piece in ("[24", ";80", "R"):
            terminal.type(piece)
            await asyncio.sleep(0.15)
        terminal.answers = True
        terminal.type("q")
        assert await terminal.ended() == 0, "no move is under way"
        assert await site.kinds() == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
async def test_a_signal_leaves_the_terminal_clean(site: Site, number: signal.Signals, status: int) -> None:
    async with console(site.here) as terminal:
        await terminal.shows(ARMED)
        assert not terminal.is_clean
        assert terminal.process is not None
        terminal.process.send_signal(number)
        assert await terminal.ended() == status
        assert terminal.is_clean
        assert b"Traceback" not in terminal.raw


async def test_a_connection_that_drops_ends_the_console_and_the_move_goes_on(site: Site) -> None:
    async with console(site.here) as terminal:
        await terminal.shows(ARMED)
        terminal.type("R")
        await settled_panel(terminal)
        terminal.hang_up()
        assert await terminal.ended() in (129, -signal.SIGHUP)
    assert site.live == site.releases[1]


async def test_q_leaves_the_terminal_clean(site: Site) -> None:
    async with console(site.here) as terminal:
        await terminal.shows(ARMED)
        terminal.type("q")
        assert await terminal.ended() == 0
        assert terminal.is_clean


async def test_q_asks_while_a_move_is_not_finished(site: Site) -> None:
    for agent in site.agents:
        agent.proves = False
    async with console(site.here) as terminal:
        await terminal.shows(ARMED)
        terminal.type("R")
        await terminal.shows("FLIPPED 2/2", "PROVEN 0/2", "R locked: still moving")
        terminal.type("q")
        await terminal.shows("is not finished")
        terminal.type("\x1b")
        await terminal.until(lambda: "is not finished" not in terminal.text, "question left")
        for agent in site.agents:
            agent.proves = True
            await agent.acknowledge(agent.entry)
        await settled_panel(terminal)
        terminal.type("q")
        assert await terminal.ended() == 0


async def test_a_node_that_fails_is_not_done_with_the_command_for_it(site: Site) -> None:
    site.agents[1].flips = False
    async with console(site.here) as terminal:
        await terminal.shows(ARMED)
        terminal.type("R")
        await terminal.shows("FLIPPED 1/2", "waiting", "unknown", "R locked: still moving")
        assert "NOT DONE" not in terminal.text
        await site.agents[1].ack(site.agents[1].entry, AckState.FAILED, code="load_failed")
        await terminal.shows("NOT DONE: 1 replica may still answer with v3", "FAILED", "load_failed", "PROVEN 1/2")
        assert "ssh n2 loradeck-agent pin acme production --to" in terminal.text
        assert "BACK ON" not in terminal.text
        terminal.type("c")
        await terminal.until(lambda: b"\x1b]52;c;" in terminal.raw, "copied")


async def test_a_viewer_cannot_move_anything(site: Site) -> None:
    async with console(await site.with_role("viewer")) as terminal:
        await terminal.shows("acme", "R off: it needs the role operator")
        for key in "RuFhp":
            terminal.type(key)
            await terminal.until(lambda key=key: f"{key} off" in terminal.screen.display[-2], f"{key} is off")
            terminal.type("y")
            await terminal.shows("nothing waits for y")
        assert await site.kinds() == []


async def test_read_only_cannot_move_anything(site: Site) -> None:
    async with console(site.here, read_only=True) as terminal:
        await terminal.shows("READ-ONLY", "R off: read-only (--read-only)")
        for key in "RuFhp":
            terminal.type(key)
            await terminal.until(lambda key=key: f"{key} off: read-only" in terminal.screen.display[-2], f"{key} off")
        assert await site.kinds() == []


async def test_another_operators_move_disarms_and_is_shown(site: Site) -> None:
    async with console(site.here) as terminal:
        await terminal.shows(ARMED)
        await site.hub.rollback()
        await terminal.until(lambda: " v2 " in terminal.line("> acme"), "the row follows")
        terminal.type("R")
        await terminal.shows("one release further back")
        assert await site.kinds() == ["rollback"]


async def test_no_selection_jump_in_a_terminal(site: Site) -> None:
    await site.hub.tenant("abies")
    async with console(site.here) as terminal:
        await terminal.shows("> acme", "abies")
        assert terminal.text.index("> acme") < terminal.text.index("abies"), "what has just moved is first"
        await site.hub.promote(await site.hub.release("abies", seed=7), "abies")
        await terminal.until(lambda: terminal.text.index("abies") < terminal.text.index("acme"), "resorted")
        assert "> acme" in terminal.text


@pytest.mark.parametrize("env", [{}, {"NO_COLOR": "1"}, {"TERM": "linux"}, {"TERM": "screen"}])
async def test_80_columns_by_24_lines_in_any_terminal(site: Site, env: dict[str, str]) -> None:
    async with console(site.here, columns=80, lines=24, env=env) as terminal:
        await terminal.shows("> acme", "v2 loaded", "R ->  v2", ARMED, "TREND")  # in the place of an empty TELL
        assert "R roll back" in terminal.screen.display[-1]
        assert "hub ok" in terminal.screen.display[0]
        if "NO_COLOR" in env:
            colours = {cell.fg for row in terminal.screen.buffer.values() for cell in row.values()}
            assert colours <= {"default"}
        for key, word in (("2", "NODE"), ("3", "JOB"), ("6", "chain recomputed, intact"), ("1", "TENANT")):
            terminal.type(key)
            await terminal.shows(word)


async def test_at_starts_on_a_row(site: Site) -> None:
    for name in ("bolt", "cedar"):
        await site.hub.tenant(name)
    async with console(site.here, at="cedar/production") as terminal:
        await terminal.shows("> cedar")


async def test_a_stalled_terminal_does_not_delay_a_rollback(site: Site) -> None:
    async with console(site.here) as terminal:
        await terminal.shows(ARMED)
        terminal.stall()
        terminal.type("R")
        await terminal.until(lambda: site.live == site.releases[1], "rolled back without a reader")
        terminal.resume()
        await settled_panel(terminal)
