"""Attestations: what is stated of a digest, kept for ever."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request

from loradeck.hub import judging
from loradeck.hub.api.moves import hub_of
from loradeck.hub.auth import Caller, allow
from loradeck.rules.errors import Refused
from loradeck.schemas.attestation import Attestation, AttestationKind
from loradeck.schemas.ids import Role

router = APIRouter(prefix="/v1", tags=["attestations"])

Reader = Annotated[Caller, Depends(allow(Role.VIEWER, agent=True))]
Writer = Annotated[Caller, Depends(allow(Role.RELEASER, agent=True))]

_OURS = frozenset(
    {
        AttestationKind.ATTESTED,
        AttestationKind.SOAKED,
        AttestationKind.BREACHED,
        AttestationKind.GATE,
        AttestationKind.LEDGER,
        AttestationKind.SCAN,
        AttestationKind.ERASURE,
    }
)
"""Kinds that only the hub states: they are what it saw itself."""

_AGENTS = frozenset({AttestationKind.CANARY, AttestationKind.EVALUATION})


@router.post("/attestations")
async def attest(body: Attestation, request: Request, caller: Writer) -> Attestation:
    """State something of a digest. `by` and `at_ms` are the hub's to say."""
    hub = hub_of(request)
    if body.kind in _OURS:
        raise Refused("forbidden", f"{body.kind.value} is stated by the hub alone", detail="kind")
    if caller.role is Role.AGENT and body.kind not in _AGENTS:
        raise Refused("forbidden", f"an agent does not state {body.kind.value}", detail="kind")
    hub.tenant(body.tenant)
    if body.kind in (AttestationKind.CANARY, AttestationKind.EVALUATION, AttestationKind.REVOCATION):
        hub.catalogue.known(body.tenant, body.subject)
    if body.kind is AttestationKind.REVOCATION and not str(body.body.get("reason", "")).strip():
        raise Refused("reason_required", "a revocation says why", detail="body.reason")
    stated = body.model_copy(update={"by": caller.node or caller.actor, "at_ms": hub.now_ms(), "seq": 0})
    return await judging.take_in(hub, stated)


@router.get("/attestations")
async def listed(
    request: Request,
    caller: Reader,
    kind: Annotated[AttestationKind | None, Query()] = None,
    subject: str | None = None,
    tenant: str | None = None,
    route: str | None = None,
) -> list[Attestation]:
    """Oldest first."""
    return await hub_of(request).store(lambda s: s.attestations(kind=kind, subject=subject, tenant=tenant, route=route))
