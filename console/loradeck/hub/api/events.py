"""The log and the audit trail: their lines, and whether they hold."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import PlainTextResponse

from loradeck.hub.access.routes import Guarded
from loradeck.hub.api.parameters import Releaser, ThisHub, Viewer, ViewerOfEach
from loradeck.hub.links.cosigners import signed_heads
from loradeck.hub.log.store_thread import calling
from loradeck.schemas.audit import AuditLine, AuditVerdict
from loradeck.schemas.ids import LARGEST_INT
from loradeck.schemas.log import Event
from loradeck.store.log_audit import AuditCheck, LogAudit
from loradeck.store.sql_log import Store

router = APIRouter(prefix="/v1", tags=["events"], route_class=Guarded)


@router.get("/events")
async def listed(
    hub: ThisHub,
    caller: ViewerOfEach,
    tenant: str | None = None,
    route: str | None = None,
    before: Annotated[int | None, Query(ge=1, le=LARGEST_INT, description="a rev")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[Event]:
    """The events of the log, newest first."""
    if tenant is not None:
        caller.at(tenant)
    tenants = [tenant] if tenant is not None or caller.tenants is None else sorted(filter(caller.sees, caller.tenants))
    found: list[Event] = []
    for one in tenants:
        found += await hub.store(calling(Store.history, tenant=one, route=route, before_rev=before, limit=limit))
    return sorted(found, key=lambda event: -event.rev)[:limit]


@router.get("/audit")
async def trail(
    hub: ThisHub,
    caller: Releaser,
    after: Annotated[int, Query(ge=0, le=LARGEST_INT, description="the number of a line")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
) -> list[AuditLine]:
    """The lines of the audit trail after one, oldest first."""
    await hub.audit.flush()
    texts = await hub.store(lambda s: s.audit_texts(after, limit))
    return [AuditLine.model_validate_json(text) for _, text in texts]


@router.get("/audit/checkpoint", response_class=PlainTextResponse)
async def checkpoint(hub: ThisHub, caller: Viewer) -> PlainTextResponse:
    """The newest head of the audit trail that nodes have signed, or the present one where none has, as a signed note
    (C2SP tlog-checkpoint, with tlog-cosignatures).
    """
    return PlainTextResponse(await asyncio.to_thread(hub.cosigners.note, await hub.audit.head()))


@router.get("/audit/keys", response_class=PlainTextResponse)
async def keys(hub: ThisHub, caller: Viewer) -> PlainTextResponse:
    """The keys of hubs and nodes that checkpoints are checked with, one a line (C2SP signed-note).

    Whoever has to rest on them asks each node for its own: `loradeck-agent status`.
    """
    return PlainTextResponse(hub.cosigners.keys())


@router.get("/audit/verify")
async def verify(hub: ThisHub, caller: Viewer) -> AuditVerdict:
    """Checks all of the log and of the audit trail.

    Every hash of the log is checked, and the log is folded and compared with the store's own state. The trail is
    compared with the heads that the log has anchored and those that nodes have signed, and tokens and attestations
    with the trail.
    """
    await hub.audit.flush()
    log = LogAudit()
    while (report := await hub.store(log.step, background=True)) is None:
        pass
    lines = AuditCheck(log.anchors, signed_heads(await asyncio.to_thread(hub.cosigners.genuine)))
    while (found := await hub.store(lines.step, background=True)) is None:
        pass
    verdict = AuditVerdict.model_validate(report.as_json() | {"trail": found.head, "cosigners": hub.cosigners.listed()})
    if report.ok and found.broken is not None:
        verdict = verdict.model_copy(update={"ok": False, "broken": {"why": f"the audit trail: {found.broken}"}})
    return verdict
