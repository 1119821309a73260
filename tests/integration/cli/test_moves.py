"""Moves from the command line, against a real hub and a node that does what it says."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import threading
from pathlib import Path

import pytest
from tests.fleets.processes.hub import LORADECK
from tests.fleets.waiting import wait_until
from tests.integration.cli.conftest import Desk
from tests.integration.cli.small_node import SmallNode

from loradeck.schemas.counts import AskedAgain, Traffic
from loradeck.schemas.moves import MoveResult, RewindPlan
from loradeck.schemas.replica_state import AckState
from loradeck.schemas.state import PreviewAction, TenantRow


def test_a_rollback_goes_where_the_preview_says_and_prints_measured_times(desk: Desk, tenant: str) -> None:
    before = desk.row(tenant)
    assert before.preview.action is PreviewAction.ROLLBACK
    assert before.preview.target is not None
    done = desk.process("rollback", tenant, "--yes", "--wait", "proven", "--reason", "bad answers")
    assert done.returncode == 0, done.stderr
    assert re.search(r"COMMITTED \+\d+\.\d ms   FLIPPED 1/1 \+\d+\.\d ms   PROVEN 1/1 \+\d", done.stdout)
    assert re.search(r"^n\d+ +proven ", done.stdout, re.MULTILINE)
    after = desk.row(tenant)
    assert after.pointer.release == before.preview.target.id
    assert after.pointer.generation == before.pointer.generation + 1
    assert after.pointer.held
    assert after.last_event is not None
    assert after.last_event.reason == "bad answers"


def test_a_move_back_on_an_on_demand_route_asks_while_its_target_is_cold_and_yes_answers_that(
    desk: Desk, tenant: str, node: SmallNode
) -> None:
    desk.json("route", "set", tenant, "--residency", "on-demand", "--reason", "seldom used")
    node.says_loaded = False
    wait_until("the node says that it has nothing loaded", lambda: desk.row(tenant).preview.asks)
    asked = desk.run("undo", tenant)
    assert (asked.returncode, "it would serve again what is cold" in asked.stdout) == (2, True), asked.stdout
    asked = desk.run("rollback", tenant)
    assert (asked.returncode, "It asks because: prior cold." in asked.stderr) == (2, True), asked.stderr
    rolled = desk.process("rollback", tenant, "--yes", "--wait", "committed")
    assert rolled.returncode == 0, rolled.stderr


def test_the_json_of_every_move_is_a_move_result(desk: Desk, tenant: str) -> None:
    rolled = MoveResult.model_validate(desk.json("rollback", tenant, "--yes"))
    assert rolled.reached in ("flipped", "proven")
    assert rolled.commit_ms is not None
    assert rolled.flipped_ms is not None
    assert rolled.events[0].tenant == tenant
    undone = MoveResult.model_validate(desk.json("undo", tenant, "--yes"))
    assert undone.events[0].undoes == (rolled.events[0].id,)
    held = MoveResult.model_validate(desk.json("hold", tenant, "--reason", "wait"))
    assert held.events[0].pointer is not None
    assert held.events[0].pointer.held
    desk.json("release-hold", tenant, "--yes")
    assert not desk.row(tenant).pointer.held
    noted = MoveResult.model_validate(desk.json("event", "annotate", tenant, "--incident", "INC-1", "--reason", "why"))
    assert noted.events[0].incident == "INC-1"
    fallen = MoveResult.model_validate(desk.json("fallback", tenant, "--yes", "--reason", "all bad"))
    assert desk.row(tenant).pointer.release == fallen.events[0].to_release


def test_an_incident_is_opened_shown_noted_exported_and_closed(desk: Desk, tenant: str, tmp_path: Path) -> None:
    desk.json("rollback", tenant, "--yes")
    opened = MoveResult.model_validate(desk.json("incident", "open", tenant, "--id", "INC-9", "--reason", "31 % bad"))
    assert opened.events[0].incident == "INC-9"
    desk.json("incident", "note", "INC-9", "the schema was changed")
    assert "INC-9" in desk.run("incident", "list").stdout
    shown = desk.run("incident", "show", "INC-9").stdout
    assert "the schema was changed" in shown
    assert "rollback" in shown
    file = tmp_path / "post-mortem.html"
    desk.json("incident", "export", "INC-9", "--out", str(file))
    assert file.stat().st_mode & 0o777 == 0o600
    assert "the schema was changed" in file.read_text()
    assert desk.json("incident", "export", "INC-9")["incident"]["id"] == "INC-9"
    desk.json("incident", "close", "INC-9", "--reason", "mended")
    assert "INC-9" not in desk.run("incident", "ls").stdout
    assert "INC-9" in desk.run("incident", "ls", "--all").stdout
    desk.refused(1, "incident_closed", "incident", "open", tenant, "--id", "INC-9", "--reason", "again")


def test_a_quarantined_release_is_promoted_again_only_after_a_lift_with_a_reason(desk: Desk, tenant: str) -> None:
    desk.json("rollback", tenant, "--yes")
    desk.json("release-hold", tenant, "--yes")
    before = desk.row(tenant)
    desk.refused(1, "quarantined", "promote", tenant, "v2", "--yes")
    assert desk.row(tenant).pointer == before.pointer
    assert desk.run("lift", tenant, "v2", "--yes").returncode == 2  # a reason is required
    desk.json("lift", tenant, "v2", "--reason", "not its fault", "--yes")
    desk.json("promote", tenant, "v2", "--yes")
    assert desk.row(tenant).pointer.quarantined == ()


def answer_badly(node: SmallNode, live: TenantRow, **more: AskedAgain) -> None:
    """Has a node report sixty bad answers of what is live, and no good one."""
    assert live.live is not None
    counts = dict.fromkeys(("admitted", "finished", "checked", "bad"), 60)
    where = {"tenant": live.tenant, "route": live.route, "generation": live.pointer.generation}
    row = {**where, "release": live.live.id, "replica": node.name, **counts, **more}
    node.traffic = (*node.traffic, Traffic.model_validate(row))


def test_a_breached_release_is_skipped_with_the_way_out_and_r_goes_there_again_after_it(
    desk: Desk, tenant: str, node: SmallNode
) -> None:
    live = desk.row(tenant)
    assert live.live is not None
    beneath = AskedAgain(release=live.pointer.beneath[0], asked=60, pairs=60, checked=60, bad=(60, 0))
    answer_badly(node, live, again=beneath)
    wait_until("breached", lambda: "BAD" in desk.row(tenant).flags)
    desk.json("promote", tenant, "v3", "--yes", "--wait", "proven")
    shown = desk.run("route", "show", tenant).stdout
    assert f"skipped v2 {live.live.id[:6]}: breached: bad 100.0% of 60, by {node.name} alone" in shown
    way_out = f"loradeck lift {tenant} production v2 --reason"
    assert way_out in shown
    done = desk.run(*way_out.split()[1:], "the schema was wrong", "--yes")
    assert done.returncode == 0, done.stderr
    assert "v2 is no longer breached" in done.stdout
    target = desk.row(tenant).preview.target
    assert target is not None
    assert target.id == live.live.id
    lines = desk.run("event", "ls", tenant).stdout.splitlines()
    assert any(" lift " in line and "the schema was wrong" in line for line in lines)
    desk.refused(1, "not_quarantined", "lift", tenant, "v2", "--reason", "again", "--yes")


def test_what_the_flags_of_a_time_hold_against_releases_is_lifted_together(
    desk: Desk, tenant: str, node: SmallNode
) -> None:
    live = desk.row(tenant)
    assert live.live is not None
    answer_badly(node, live)
    wait_until("flagged", lambda: "BAD" in desk.row(tenant).flags)
    desk.json("promote", tenant, "v3", "--yes", "--wait", "proven")
    wait_until("doubted", lambda: (desk.row(tenant).preview.asks or "").startswith("its answers were bad"))
    words = ("lift-flags", "--tenant", tenant, "--reason", "the link was down", "--yes")
    assert "no flag of that time" in desk.run(*words, "--since", "3h ago", "--until", "2h ago").stdout
    done = desk.run(*words, "--since", "10m ago", "--until", "0m ago", "--cause", "unknown")
    assert done.returncode == 0, done.stderr
    assert f"{tenant}/production: {live.live.id[:6]} has nothing held against it by that flag" in done.stdout
    assert not (desk.row(tenant).preview.asks or "").startswith("its answers were bad")
    assert "no flag of that time" in desk.run(*words, "--since", "10m ago", "--until", "0m ago").stdout


def test_a_move_that_is_not_confirmed_changes_nothing(desk: Desk, tenant: str) -> None:
    before = desk.row(tenant)
    assert before.last_event is not None
    first = str(before.last_event.rev - 1)
    for words in (
        ["rollback", tenant],
        ["promote", tenant, "v3"],
        ["undo", tenant],
        ["fallback", tenant],
        ["rewind", "--to", first, "--tenant", tenant],
        ["tenant", "offboard", tenant],
        ["tenant", "suspend", tenant],
    ):
        done = desk.run(*words)
        assert done.returncode == 2, (words, done.stdout, done.stderr)
        assert "nobody to ask" in done.stderr
        desk.refused(2, "not_confirmed", *words)
    assert desk.row(tenant).pointer == before.pointer


def test_at_a_terminal_it_asks_and_no_is_the_answer_that_enter_gives(desk: Desk, tenant: str) -> None:
    before = desk.row(tenant)
    for answer, status in (("\n", 1), ("n\n", 1), ("y\n", 0)):
        code, text = at_a_terminal(desk, answer, "rollback", tenant)
        assert f"Roll back {tenant}/production from v2" in text
        assert "[y/N]" in text
        assert code == status, text
        moved = desk.row(tenant).pointer.generation - before.pointer.generation
        assert moved == (1 if status == 0 else 0)


def test_ctrl_c_at_the_question_is_130_and_changes_nothing(desk: Desk, tenant: str) -> None:
    before = desk.row(tenant)
    code, text = at_a_terminal(desk, "\x03", "rollback", tenant)
    assert code == 130
    assert "Traceback" not in text
    assert desk.row(tenant).pointer == before.pointer


def test_a_replica_that_does_not_acknowledge_is_exit_5_and_is_named(desk: Desk, tenant: str, node: SmallNode) -> None:
    node.acknowledges = False
    done = desk.process("rollback", tenant, "--yes", "--timeout", "0.3")
    assert done.returncode == 5, done.stderr
    assert "NOT DONE" in done.stdout
    assert re.search(rf"^{node.name} +NO ACK", done.stdout, re.MULTILINE)
    assert "FLIPPED 0/1" in done.stdout
    result = MoveResult.model_validate_json(desk.run("undo", tenant, "--yes", "--timeout", "0.3", "--json").stdout)
    assert result.reached == "committed"


def test_a_replica_that_flips_and_is_not_proven_is_exit_5_only_for_who_waits_for_proof(
    desk: Desk, tenant: str, node: SmallNode
) -> None:
    node.proves = False
    assert desk.run("rollback", tenant, "--yes").returncode == 0
    assert desk.run("undo", tenant, "--yes", "--wait", "proven", "--timeout", "0.3").returncode == 5
    assert desk.run("rollback", tenant, "--yes", "--wait", "committed").returncode == 0


def test_a_replica_that_is_only_listed_is_exit_7_for_who_waits_for_proof_and_says_why(
    desk: Desk, tenant: str, node: SmallNode
) -> None:
    node.proof = AckState.LISTED
    done = desk.process("rollback", tenant, "--yes", "--wait", "proven", "--reason", "bad answers")
    assert done.returncode == 7, done.stderr
    assert re.search(r"FLIPPED 1/1 \+\d+\.\d ms   PROVEN 0/1 -   LISTED 1/1", done.stdout)
    assert re.search(r"^n\d+ +listed +\+\S+ ms +- ", done.stdout, re.MULTILINE)
    assert "NOT PROVEN: flipped and listed on 1 of 1" in done.stdout
    assert "the base alone answers the canaries alike" in done.stdout
    undone = desk.run("undo", tenant, "--yes", "--wait", "proven", "--json")
    assert undone.returncode == 7
    result = MoveResult.model_validate_json(undone.stdout)
    assert (result.reached, result.proven_ms) == ("listed", None)
    assert result.flipped_ms is not None
    assert desk.run("rollback", tenant, "--yes").returncode == 0
    assert "UNPRVN" not in desk.row(tenant).flags
    assert re.search(rf"^{tenant} .* 0/1 listed 1 ", desk.run("--once").stdout, re.MULTILINE)


def test_a_promote_that_is_still_preparing_is_exit_5_and_rollback_cancels_it(
    desk: Desk, tenant: str, node: SmallNode
) -> None:
    node.prepares = "hold"
    before = desk.row(tenant)
    done = desk.run("promote", tenant, "v3", "--yes", "--timeout", "3")
    assert done.returncode == 5, done.stderr
    assert re.search(rf"prepared 0/1, loading on {node.name}, [1-9] s", done.stdout)
    assert "still preparing" in done.stdout
    assert desk.row(tenant).preview.action is PreviewAction.CANCEL_PREPARE
    cancelled = MoveResult.model_validate(desk.json("rollback", tenant, "--yes"))
    assert cancelled.cancelled is not None
    assert cancelled.events == ()
    assert desk.row(tenant).pointer == before.pointer


def test_releases_go_by_label_full_id_and_unique_prefix(desk: Desk, tenant: str) -> None:
    views = {view["label"]: view["id"] for view in desk.json("release", "ls", tenant)}
    for name in ("v3", views["v3"], views["v3"][:10]):
        assert desk.json("release", "show", tenant, name)["release"]["label"] == "v3"
    problem = desk.refused(1, "unknown_release", "promote", tenant, "v9", "--yes")
    assert "v3" in problem["detail"]
    assert desk.refused(1, "unknown_release", "promote", tenant, "f" * 64, "--yes")


def test_a_rollback_with_nowhere_to_go_is_refused_with_the_hubs_code_and_the_reason(desk: Desk, tenant: str) -> None:
    desk.json("rollback", tenant, "--yes")
    preview = desk.row(tenant).preview
    assert preview.action is PreviewAction.FALLBACK
    assert preview.refused is not None
    problem = desk.refused(1, "no_prior", "rollback", tenant, "--yes")
    assert preview.refused in problem["detail"]
    assert f"R ->  none: {preview.refused}" in desk.run("rollback", tenant, "--yes").stdout
    assert f"R goes to   none: {preview.refused}" in desk.run("route", "show", tenant).stdout
    shown = desk.run("--once").stdout
    line = next(line for line in shown.splitlines() if line.startswith(f"{tenant} "))
    assert "none       F only" in line


def test_a_rewind_shows_its_plan_and_is_undone_as_one(desk: Desk, tenant: str) -> None:
    events = desk.json("event", "ls", tenant, "production")
    first = min(event["rev"] for event in events if event["kind"] == "promote")
    before = desk.row(tenant)
    plan = RewindPlan.model_validate(desk.json("rewind", "--to", first, "--tenant", tenant, "--dry-run"))
    assert [step.tenant for step in plan.steps] == [tenant]
    done = desk.run("rewind", "--to", first, "--tenant", tenant, "--yes", "--reason", "start over")
    assert done.returncode == 0, done.stderr
    assert "ago)" in done.stdout
    txn = re.search(r"loradeck undo --txn (\w+)", done.stdout)
    assert txn is not None
    assert desk.row(tenant).pointer.release == plan.steps[0].to_release
    result = MoveResult.model_validate(desk.json("undo", "--txn", txn.group(1), "--yes"))
    assert len(result.events) == 1
    assert desk.row(tenant).pointer.release == before.pointer.release
    desk.refused(1, "nothing_to_rewind", "rewind", "--to", desk.json("event", "ls")[0]["rev"], "--yes")


@pytest.mark.parametrize("time", ["14:05", "2026-03-01T14:05", "2026-03-01 14:05:09"])
def test_a_time_without_a_zone_is_refused_in_a_script(desk: Desk, time: str) -> None:
    problem = desk.refused(2, "no_zone", "rewind", "--to", time, "--yes")
    assert f"{time}Z" in problem["fix"]


def test_what_is_no_time_or_has_not_come_is_refused(desk: Desk) -> None:
    desk.refused(2, "usage", "rewind", "--to", "yesterday", "--yes")
    desk.refused(2, "usage", "rewind", "--to", "2999-01-01T00:00Z", "--yes")


def test_the_outcome_of_a_move_is_told_by_its_key(desk: Desk, tenant: str) -> None:
    desk.refused(1, "unknown_key", "move", "k" * 32)


def at_a_terminal(desk: Desk, typed: str, *words: str) -> tuple[int, str]:
    """Runs a command on a pseudo-terminal, types after its question, and returns its status and what it showed."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [LORADECK, *words],
        env=desk.env | {"NO_COLOR": "1", "TERM": "xterm"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=_control_the_terminal,
    )
    os.close(slave)
    watch = threading.Timer(30, process.kill)  # a question nobody answers ends the read below
    watch.start()
    shown = b""
    asked = False
    try:
        while True:
            if not select.select([master], [], [], 0.02)[0]:
                # Python waits for a line on after a Ctrl-C between its prompt and its read: it is pressed again and
                # again, as a person would, also while the command ends.
                if asked and typed == "\x03":
                    os.write(master, typed.encode())
                continue
            try:
                piece = os.read(master, 4096)
            except OSError:  # Linux says so when the other end is gone
                break
            if not piece:
                break
            shown += piece
            if not asked and b"[y/N]" in shown:
                asked = True
                os.write(master, typed.encode())
        return process.wait(60), shown.decode()
    finally:
        watch.cancel()
        os.close(master)


def _control_the_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_a_timeline_is_exported_with_each_event_hashed_again(desk: Desk, tenant: str, tmp_path: Path) -> None:
    desk.json("rollback", tenant, "--yes", "--reason", "bad answers")
    desk.json("event", "annotate", tenant, "--incident", "INC-1", "--reason", "why")
    file = tmp_path / "night.md"
    done = desk.process("event", "export", tenant, "--out", str(file))
    assert done.returncode == 0, done.stderr
    assert "chain: all" in done.stdout
    assert "INC-1" in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    document = desk.json("event", "export", tenant)
    assert document["chain"]["intact"] is True
    assert "rollback" in [entry["event"]["kind"] for entry in document["events"]]
    assert {entry["event"]["tenant"] for entry in document["events"]} == {tenant}
    assert desk.json("event", "export", tenant, "--until", "2001-01-01T00:00Z")["events"] == []
    desk.refused(2, "usage", "event", "export", "--out", str(file))
    desk.refused(2, "usage", "event", "export", "--out", str(tmp_path / "night.txt"))
