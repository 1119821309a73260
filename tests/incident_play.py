"""A shortened incident on a running fleet, as the demo plays it: the report, and everything callers saw."""

from __future__ import annotations

from collections.abc import Callable

from tests.fleets.processes.fleet import TENANT

from incident.fleet import Fleet
from incident.incident import Cast, Incident
from incident.progress import Progress
from incident.report import Report
from incident.traffic import Answer, Callers
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
