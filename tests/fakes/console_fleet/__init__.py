"""A believable fleet for the console's tests and screenshots, built from the real wire types.

Names and figures are invented. One fixed moment, so that what is drawn of it never changes.
"""

from __future__ import annotations

from tests.fakes.console_fleet.nodes_and_jobs import at_work, gpu, job_events, job_log, jobs, nodes
from tests.fakes.console_fleet.pointers import (
    BASES,
    DAY,
    HOUR,
    MINUTE,
    NOW_MS,
    Log,
    acme,
    digest,
    ref,
    replicas,
    rolled_back,
    row,
    tenants,
    view,
)
from tests.fakes.console_fleet.registry import (
    ANSWERED,
    adapters,
    campaigns,
    capacity,
    data,
    gates,
    loop,
    related,
    release_detail,
    review_sheet,
    scores,
    traces,
)

from loradeck.schemas.ids import Role
from loradeck.schemas.state import HubState, HubStatus, Me

__all__ = [
    "ANSWERED",
    "BASES",
    "DAY",
    "HOUR",
    "MINUTE",
    "NOW_MS",
    "Log",
    "acme",
    "adapters",
    "at_work",
    "campaigns",
    "capacity",
    "data",
    "digest",
    "gates",
    "gpu",
    "hub_state",
    "job_events",
    "job_log",
    "jobs",
    "loop",
    "nodes",
    "ref",
    "related",
    "release_detail",
    "replicas",
    "review_sheet",
    "rolled_back",
    "row",
    "scores",
    "tenants",
    "traces",
    "view",
]


def hub_state(*, role: Role = Role.RELEASER, production: bool = True, at_ms: int = NOW_MS) -> HubState:
    """The whole fleet at 03:12:44Z."""
    log = Log()
    rows = tenants(log)
    head = log.events[-1]
    return HubState(
        status=HubStatus(
            hub="eu-1",
            production=production,
            version="0.1.0",
            epoch=3,
            rev=head.rev,
            hash=head.hash,
            at_ms=at_ms,
            started_ms=at_ms - 3 * DAY,
            sqlite="3.53.4",
        ),
        me=Me(actor="op1", role=role, local=False),
        tenants=tuple(rows),
        nodes=tuple(nodes()),
        jobs=tuple(jobs()),
        events=tuple(log.events),
    )
