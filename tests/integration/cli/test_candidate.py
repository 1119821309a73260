"""Candidates and campaigns from the command line, against a real hub and a node that does what it says."""

from __future__ import annotations

import json

from tests.fleets.waiting import wait_until
from tests.integration.cli.conftest import Desk
from tests.integration.cli.small_node import SmallNode

from loradeck.schemas.counts import AskedAgain, Traffic
from loradeck.schemas.log import EventKind
from loradeck.schemas.moves import MoveResult


def test_a_candidate_is_started_widened_and_finished(desk: Desk, tenant: str, node: SmallNode) -> None:
    done = desk.run(
        "candidate", "start", tenant, "v3", "--unit", "user", "--named", "ann", "--yes", "--reason", "try it"
    )
    assert done.returncode == 0, done.stderr
    assert f"{tenant}/production gen 3: candidate_start" in done.stdout
    row = desk.row(tenant)
    assert row.candidate is not None
    assert (row.candidate.release.label, "CAND" in row.flags) == ("v3", True)

    shown = desk.run("candidate", "show", tenant).stdout
    assert "for 1 named" in shown
    assert "all callers get v2; v3 is out and quarantined" in shown
    document = json.loads(desk.run("candidate", "show", tenant, "--json").stdout)
    assert (document["candidate"]["permille"], document["row"]["release"]["label"]) == (0, "v3")

    stepped = MoveResult.model_validate(desk.json("candidate", "step", tenant, "--share", "2.5", "--yes"))
    assert [event.kind for event in stepped.events] == [EventKind.CANDIDATE_STEP]
    assert "2.5 % of the users and 1 named" in desk.run("candidate", "show", tenant).stdout
    assert "v2 " in desk.run("event", "ls", tenant).stdout

    finished = MoveResult.model_validate(desk.json("candidate", "finish", tenant, "--yes"))
    assert [event.kind for event in finished.events] == [EventKind.CANDIDATE_FINISH]
    after = desk.row(tenant)
    assert after.live is not None
    assert (after.live.label, after.candidate, "CAND" in after.flags) == ("v3", None, False)


def test_rollback_says_who_goes_where_and_abort_quarantines_nothing(desk: Desk, tenant: str) -> None:
    assert desk.run("candidate", "start", tenant, "v3", "--yes").returncode == 0
    aborted = desk.run("candidate", "abort", tenant, "--yes")
    assert aborted.returncode == 0, aborted.stderr
    assert desk.row(tenant).pointer.quarantined == ()
    assert desk.run("candidate", "start", tenant, "v3", "--yes").returncode == 0
    rolled = desk.run("rollback", tenant, "--yes")
    assert rolled.returncode == 0, rolled.stderr
    assert "all callers get v2; v3 is out and quarantined" in rolled.stdout
    after = desk.row(tenant)
    assert after.live is not None
    assert (after.live.label, after.candidate, len(after.pointer.quarantined)) == ("v2", None, 1)


def test_what_is_refused_changes_nothing_and_says_why(desk: Desk, tenant: str, node: SmallNode) -> None:
    before = desk.row(tenant)
    for what in ("show", "abort", "finish"):
        assert desk.run("candidate", what, tenant, *([] if what == "show" else ["--yes"])).returncode == 1
    problem = desk.refused(1, "no_candidate", "candidate", "step", tenant, "--share", "5", "--yes")
    assert problem["fix"] == f"loradeck candidate start {tenant}/production RELEASE"
    desk.refused(1, "too_few_keys", "candidate", "start", tenant, "v3", "--share", "5", "--yes")
    desk.refused(1, "unknown_caller", "candidate", "start", tenant, "v3", "--named", "nobody", "--yes")
    desk.refused(2, "not_confirmed", "candidate", "start", tenant, "v3")
    for share in ("101", "-1", "0.05"):
        assert desk.run("candidate", "step", tenant, "--share", share, "--yes").returncode in (1, 2)
    assert desk.row(tenant).pointer == before.pointer


def test_users_that_routers_have_seen_are_what_a_share_is_drawn_from(desk: Desk, tenant: str, node: SmallNode) -> None:
    assert desk.run("candidate", "start", tenant, "v3", "--unit", "user", "--yes").returncode == 0
    desk.refused(1, "too_few_keys", "candidate", "step", tenant, "--share", "5", "--yes")
    row = desk.row(tenant)
    assert row.candidate is not None
    seen = Traffic(
        tenant=tenant,
        route="production",
        generation=row.pointer.generation,
        release=row.candidate.release.id,
        replica=node.name,
        keys=60,
    )
    node.traffic = (*node.traffic, seen)

    def counted() -> bool:
        now = desk.row(tenant).candidate
        return now is not None and now.keys == 60

    wait_until("counted", counted)
    assert desk.run("candidate", "step", tenant, "--share", "5", "--yes").returncode == 0


def test_a_shadow_needs_consent_says_its_cost_and_is_compared(desk: Desk, tenant: str, node: SmallNode) -> None:
    asked = ("candidate", "start", tenant, "v3", "--shadow", "10", "--yes")
    assert "shadow" in desk.refused(1, "shadow_not_allowed", *asked)["fix"]
    desk.refused(2, "usage", *asked, "--named", "ann")
    desk.refused(2, "usage", *asked, "--steps", "5", "--margin", "2")
    agreed = ("--shadow", "--use", "shadow=to compare releases", "--reason", "they agreed")
    assert "are allowed" in desk.run("tenant", "data", tenant, *agreed).stdout
    done = desk.run(*asked)
    assert done.returncode == 0, done.stderr
    assert "v3" in done.stdout
    assert "for nobody, it shadows 10 % of the requests" in done.stdout
    assert "requests a second more" in done.stdout
    assert "no router has asked it yet" in desk.run("candidate", "show", tenant).stdout
    row = desk.row(tenant)
    assert row.live is not None
    assert row.candidate is not None
    seen = Traffic(
        tenant=tenant,
        route="production",
        replica=node.name,
        generation=row.pointer.generation,
        release=row.live.id,
        attempted=1000,
        admitted=1000,
        finished=1000,
        again=AskedAgain(release=row.candidate.release.id, asked=90, shed=3, pairs=80, checked=80, bad=(1, 8)),
        noise=AskedAgain(release=row.live.id, asked=20, pairs=20, checked=20, bad=(1, 0)),
    )
    node.traffic = (*node.traffic, seen)
    wait_until("compared", lambda: desk.row(tenant).again is not None)
    shown = desk.run("candidate", "show", tenant).stdout
    assert "asked 90, 3 not, since callers came first" in shown
    assert "10.0% (5.2-18.5) bad of 80 pairs, the live release 1.2% (0.2-6.7)" in shown
    assert "A/A 5.0% (0.9-23.6) and 0.0% (0.0-16.1) of 20" in shown
    stepped = desk.run("candidate", "step", tenant, "--share", "50", "--yes")
    assert "nobody, it shadows 50 % of the requests" in stepped.stdout
    assert "requests a second more" in stepped.stdout
    assert desk.run("candidate", "finish", tenant, "--yes").returncode == 0


def test_a_plan_is_given_shown_held_and_resumed(desk: Desk, tenant: str, node: SmallNode) -> None:
    start = ("candidate", "start", tenant, "v3", "--unit", "user", "--yes")
    for wrong in (
        ("--steps", "5,20"),
        ("--margin", "2"),
        ("--steps", "20,5", "--margin", "2"),
        ("--steps", "all", "--margin", "2"),
        ("--finish",),
    ):
        assert desk.run(*start, *wrong).returncode == 2, wrong
    done = desk.run(*start, "--steps", "5,20,100", "--margin", "2", "--metric", "errors", "--min-minutes", "1")
    assert done.returncode == 0, done.stderr
    shown = desk.run("candidate", "show", tenant).stdout
    assert "5 %, 20 %, 100 %, then a person finishes it; margin 2 points of errors; at least 1 minutes each" in shown
    wait_until("it looks", lambda: "AWAITED    0 of 50 keys" in desk.run("candidate", "show", tenant).stdout)
    assert desk.run("candidate", "hold", tenant).returncode == 2
    desk.json("candidate", "hold", tenant, "--reason", "dinner")
    wait_until("it is held", lambda: "to resume it: " in desk.run("candidate", "show", tenant).stdout)
    desk.json("candidate", "resume", tenant)
    wait_until("it goes on", lambda: "AWAITED    0 of 50 keys" in desk.run("candidate", "show", tenant).stdout)


def test_an_ab_is_begun_shown_and_refused_without_a_horizon(desk: Desk, tenant: str, node: SmallNode) -> None:
    start = ("candidate", "start", tenant, "v3", "--unit", "user", "--named", "ann", "--share", "50", "--yes")
    assert desk.run(*start).returncode == 0
    asked = ("candidate", "compare", tenant, "--metric", "errors", "--yes")
    desk.refused(1, "bad_horizon", *asked)
    desk.refused(1, "bad_horizon", *asked, "--keys", "5000")
    desk.json(*asked, "--keys", "30")
    awaited = "the end of its A/B of errors: 0 of 30 keys in each arm"
    wait_until("it is awaited", lambda: awaited in desk.run("candidate", "show", tenant).stdout)
    desk.refused(1, "bad_horizon", *asked, "--until", "2099-01-01T00:00Z")


def test_a_campaign_is_paused_resumed_with_another_budget_and_stopped_for_good(desk: Desk, tenant: str) -> None:
    assert desk.run("hold", tenant, "--reason", "an audit").returncode == 0
    name = f"to-v3-{tenant}"
    begun = desk.run("campaign", "start", name, "--to", f"{tenant}=v3", "--ungated", "--yes")
    assert begun.returncode == 0, begun.stderr
    wait_until("held", lambda: desk.json("campaign", "show", name)["units"][f"{tenant}/production"]["stage"] == "held")
    paused = desk.run("campaign", "pause", name, "--reason", "lunch")
    assert (paused.returncode, paused.stdout) == (0, f"campaign {name} is paused: 1 held\n"), paused.stderr
    desk.refused(1, "no_change", "campaign", "pause", name)
    resumed = desk.json("campaign", "resume", name, "--gpu-hours", "7")
    assert (resumed["state"], resumed["plan"]["gpu_hours"]) == ("running", 7)
    shown = desk.run("campaign", "show", name).stdout
    assert (f"{name}  running  1 held" in shown, "0.0 of 7 GPU hours" in shown) == (True, True), shown
    stopped = desk.run("campaign", "stop", name, "--yes")
    assert (stopped.returncode, stopped.stdout) == (0, f"campaign {name} is stopped: 1 held\n"), stopped.stderr
    desk.refused(1, "campaign_over", "campaign", "resume", name)
    assert any(row.split()[:2] == [name, "stopped"] for row in desk.run("campaign", "ls").stdout.splitlines())
