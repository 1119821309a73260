"""The incident end to end, on real processes; and the three ways to lie, each of which must be noticed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fleets.processes.fleet import TENANT, Material, fleet_at, lay, told

import incident.incident
import incident.sabotage
from incident import evidence, pool
from incident.fleet import Fleet
from incident.incident import Cast, Incident
from incident.progress import Progress
from incident.report import Report
from incident.traffic import Answer, Callers
from incident.verdict import Verdict
from loradeck.client.api import HubApi
from loradeck.client.config import Context

MOVES = 8


async def play(
    fleet: Fleet, cast: Cast, key: str, *, spoil: Callable[[], None] | None = None
) -> tuple[Report, list[Answer]]:
    """Promote v3, then R, u, R, R, u, R, promote v2, all under traffic. `spoil` runs after the first promote."""
    labels = {release: label for label, release in cast.releases.items()}
    # How many requests fit into 200 ms is the machine's affair; that some were there is not.
    report = Report(labels=labels, replicas=len(fleet.nodes), needed=2)
    routers = {node.name: node.url for node in fleet.nodes}
    async with (
        HubApi.to(Context(name="tests", socket=fleet.socket)) as api,
        Callers(routers, {TENANT: key}, max_tokens=12, ca=fleet.authority) as callers,
    ):
        incident = Incident(fleet, api, callers, cast, report, Progress(), proven_within_s=60 if spoil is None else 4)
        callers.start({TENANT: cast.prompts}, every_s=0.1)
        await incident.promote("v3")
        if spoil is not None:
            spoil()
        for move in (incident.rollback, incident.undo, incident.rollback):
            await move()
        if spoil is None:
            for move in (incident.rollback, incident.undo, incident.rollback):
                await move()
            await incident.promote("v2")
        await callers.stop()
        report.judge_moves(MOVES if spoil is None else MOVES // 2)
        return report, list(callers.answers)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A move is made again until requests came around it, however slow the engines are."""
    monkeypatch.setattr(incident.incident, "TRIES", 50)


async def test_every_move_is_flipped_proven_and_judged_by_tokens_and_no_request_fails(
    scene: tuple[Fleet, Cast, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "WINDOW_NS", 60 * 10**9)  # whatever came before and after it is looked at
    fleet, cast, key = scene
    report, answers = await play(fleet, cast, key)
    assert report.held, report.text() + told(fleet)
    assert len(answers) > 300
    assert [answer for answer in answers if not answer.ok] == []
    assert fleet.cli("audit", "verify")["ok"]


@pytest.mark.parametrize("control", incident.sabotage.CONTROLS)
async def test_a_node_that_lies_turns_the_report_red(scene: tuple[Fleet, Cast, str], control: str) -> None:
    broken = {
        "late-router": "after an acknowledgement nothing is answered by the left release (decided by tokens)",
        "wrong-file": "every move was proven on every replica by its tokens",
        "bare-base": "every move was proven on every replica by its tokens",
    }
    fleet, cast, key = scene
    liar = fleet.nodes[1]

    def spoil() -> None:
        fleet.stop_node(liar)
        liar.program = (sys.executable, str(Path(incident.sabotage.__file__)), control)
        fleet.start_agent(liar)
        fleet.wait_until_up()

    report, _ = await play(fleet, cast, key, spoil=spoil)
    assert report.verdict is Verdict.BROKEN
    assert broken[control] in [c.text for c in report.claims if c.verdict is Verdict.BROKEN], report.text()


async def test_a_tenant_of_a_pool_is_answered_through_the_gateway_while_its_node_is_drained(material: Material) -> None:
    with fleet_at(material.base, tls=True, gateway="gw-01") as fleet:
        fleet.cli("pool", "set", "shared", "--label", "site=demo")
        cast, key = lay(fleet, material, "--pool", "shared", "--replicas", "1", "--min-replicas", "1")
        report, front = Report(labels={}, replicas=1), fleet.front
        assert front is not None
        async with (
            HubApi.to(Context(name="tests", socket=fleet.socket)) as api,
            Callers({}, {TENANT: key}, gateways={"gw-01": front.url}, max_tokens=12, ca=fleet.authority) as callers,
        ):
            fleet.wait_until_asked_for([TENANT])
            prompts = {TENANT: cast.prompts}
            await pool.play(fleet, api, callers, prompts, report, Progress(), pool="shared", tenants=[TENANT])
        assert report.held, report.text() + told(fleet)
        assert len(report.claims) == 2
        assert "is out: drained" in report.text()
        assert {answer.by for answer in callers.answers} == {cast.releases["v2"]}
