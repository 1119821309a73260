"""Attestations: statements about an artifact's digest, kept for ever."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ValidationError

from loradeck.artifacts.signing import verify_apart, verify_weights_apart
from loradeck.hub.access.auth import Caller
from loradeck.hub.access.routes import Guarded
from loradeck.hub.api.parameters import MakerOfEach, OperatorOfEach, ReaderOfEach, ThisHub
from loradeck.hub.hub import Hub
from loradeck.rules.errors import Refused
from loradeck.schemas.attestation import Acknowledgement, Attestation, AttestationKind, Deprecation, Signature
from loradeck.schemas.dataset_ledger import Assessment, OptOut
from loradeck.schemas.fault import first_wrong
from loradeck.schemas.ids import Role
from loradeck.schemas.log import FLEET
from loradeck.schemas.manifest import AdapterManifest, BaseManifest
from loradeck.schemas.preference import Adjudication

router = APIRouter(prefix="/v1", tags=["attestations"], route_class=Guarded)


_AGENTS = frozenset({AttestationKind.CANARY})
"""Kinds that an agent may attest. Reports come with the job that made them, or one node could open any gate."""


_BODIES: dict[AttestationKind, type[BaseModel]] = {
    AttestationKind.SIGNATURE: Signature,
    AttestationKind.DEPRECATION: Deprecation,
    AttestationKind.ADJUDICATION: Adjudication,
    AttestationKind.ASSESSMENT: Assessment,
    AttestationKind.OPT_OUT: OptOut,
    AttestationKind.ACKNOWLEDGED: Acknowledgement,
}

_OF_CALLERS = frozenset(
    {
        *_BODIES,
        AttestationKind.CANARY,
        AttestationKind.EVALUATION,
        AttestationKind.HARNESS,
        AttestationKind.MERGE,
        AttestationKind.REVOCATION,
        AttestationKind.SHARED,
    }
)
"""Kinds that callers state. Every other one is the hub's alone: it has seen that itself."""

_SIGNED = frozenset({AttestationKind.ASSESSMENT, AttestationKind.ACKNOWLEDGED})
"""Kinds that people sign who are named for it, which takes no releaser."""

_OF_NO_ARTIFACT = _SIGNED | {AttestationKind.ADJUDICATION, AttestationKind.OPT_OUT}

_REASONED = {
    AttestationKind.REVOCATION: "a revocation",
    AttestationKind.SHARED: "sharing weights",
    AttestationKind.OPT_OUT: "an opt-out list",
}

_OF_RELEASES = frozenset(
    {AttestationKind.CANARY, AttestationKind.EVALUATION, AttestationKind.HARNESS, AttestationKind.REVOCATION}
)


@router.post("/attestations")
async def attest(body: Attestation, hub: ThisHub, caller: MakerOfEach) -> Attestation:
    """Attests something about a digest. The hub itself sets `by` and `at_ms`."""
    if body.kind not in _OF_CALLERS:
        raise Refused("forbidden", f"{body.kind.value} is stated by the hub alone", detail="kind")
    if body.kind in _SIGNED:
        fix = "POST /v1/attestations/signed"
        raise Refused(
            "forbidden", f"{body.kind.value} is signed by a person who is named for it", detail="kind", fix=fix
        )
    if caller.role is Role.AGENT and body.kind not in _AGENTS:
        raise Refused("forbidden", f"an agent does not state {body.kind.value}", detail="kind")
    caller.at(body.tenant)
    hub.log.state.tenant(body.tenant)
    if body.kind in _OF_RELEASES:
        hub.catalogue.known(body.tenant, body.subject)
    if body.kind is AttestationKind.CANARY:
        _check_canary(hub, body, caller)
    if body.kind is AttestationKind.SHARED:
        caller.at(FLEET)
        if body.tenant not in hub.lineage.makers(body.subject):
            raise Refused("unknown_base", "no job of this tenant has made such a base", detail=body.subject)
        hub.datasets.check_shared(body.tenant, body.subject, await hub.jobs.every())
    if body.kind in _REASONED and not str(body.body.get("reason", "")).strip():
        raise Refused("reason_required", f"{_REASONED[body.kind]} needs a reason", detail="body.reason")
    if body.kind in _BODIES:
        await _check(hub, body)
    stated = body.model_copy(update={"by": caller.node or caller.actor, "at_ms": hub.clock.now_ms(), "seq": 0})
    return await hub.gates.attest(stated)


@router.post("/attestations/signed")
async def signed(body: Attestation, hub: ThisHub, caller: OperatorOfEach) -> Attestation:
    """Signs an impact assessment or an acknowledgement, as a person whom the tenant's policy or the route names."""
    if body.kind not in _SIGNED:
        raise Refused("forbidden", f"{body.kind.value} is not signed by a person who is named for it", detail="kind")
    caller.at(body.tenant)
    named, where = hub.log.state.tenant(body.tenant).data.assessors, f"tenant data {body.tenant} --assessor"
    await _check(hub, body)
    if body.kind is AttestationKind.ACKNOWLEDGED:
        hub.catalogue.known(body.tenant, body.subject)
        named = hub.log.state.route(body.tenant, body.route or "")[1].controls.stakeholders
        where = f"route set {body.tenant} {body.route} --stakeholder"
    who = hub.proposals.person(caller.actor, caller.token)
    if who not in named:
        title, detail = "nobody has named you for this", f"{who}; {', '.join(named) or 'nobody is named'}"
        raise Refused("forbidden", title, detail=detail, fix=f"loradeck {where} WHO names one")
    said = body.body
    if body.kind is AttestationKind.ACKNOWLEDGED:
        card = await hub.gates.card(body.tenant, body.subject, Acknowledgement.model_validate(said).against)
        said = {**said, "person": who, "card": card.digest}
    stated = {"body": said, "by": caller.actor, "at_ms": hub.clock.now_ms(), "seq": 0}
    return await hub.gates.attest(body.model_copy(update=stated))


def _check_canary(hub: Hub, body: Attestation, caller: Caller) -> None:
    """Checks that a node records what it was told to hold, and a person says why.

    Raises: Refused: `forbidden`, `not_held`, `reason_required`.
    """
    reason, withdraws = body.body.get("reason"), body.body.get("withdraws")
    if caller.role is not Role.AGENT:
        if not str(reason or "").strip():
            fix = "say why it counts above what nodes recorded"
            raise Refused("reason_required", "a person's canary record needs a reason", detail="body.reason", fix=fix)
        return
    if reason or withdraws:
        raise Refused("forbidden", "a node gives no reason and withdraws no record", detail="body")
    node = hub.fleet.nodes.get(caller.node or "")
    if node is not None and node.contested:
        raise Refused("contested", f"two agents are linked as {node.name}", fix=f"loradeck node show {node.name}")
    if node is None or body.subject not in hub.tables.named(node.labels, node.name, body.tenant):
        what = f"{hub.catalogue.called(body.subject)} is no release that {caller.node} was told to hold"
        raise Refused("not_held", what, detail="subject", fix="place the route on the node first")


def _artifact(hub: Hub, body: Attestation) -> AdapterManifest | BaseManifest:
    """The tenant's adapter or weights that an attestation is about. Weights for all tenants are signed alone.

    Raises: Refused: `unknown_adapter`; `wrong_tenant`, the weights are another tenant's.
    """
    version = hub.catalogue.adapters.get(body.subject)
    if version is not None and version.manifest.tenant == body.tenant:
        return version.manifest
    if body.subject in hub.catalogue.bases:
        hub.lineage.check_use(body.tenant, body.subject)
        if body.kind is AttestationKind.SIGNATURE or body.tenant in hub.lineage.makers(body.subject):
            return hub.catalogue.bases[body.subject]
    raise Refused("unknown_adapter", "this tenant has no such adapter version or weights", detail=body.subject)


async def _check(hub: Hub, body: Attestation) -> None:
    """Checks an attestation that has a body of its own.

    Raises: Refused: `invalid_request`; BadArtifact `bad_signature`, `signing_unavailable`.
    """
    manifest = _artifact(hub, body) if body.kind not in _OF_NO_ARTIFACT else None
    try:
        stated = _BODIES[body.kind].model_validate(body.body)
    except ValidationError as error:
        title = f"the body is no {body.kind.value}"
        raise Refused("invalid_request", title, detail=first_wrong(error, "body")) from None
    if not isinstance(stated, Signature) or manifest is None:
        return
    if stated.subject != body.subject:
        raise Refused("invalid_request", "the body is about something else than `subject`", detail="body.subject")
    if isinstance(manifest, BaseManifest):
        await verify_weights_apart(manifest, stated)
        return
    async with hub.blobs.local(file.sha256 for file in manifest.files) as paths:
        files = {file.path: paths[file.sha256] for file in manifest.files}
        await verify_apart(files, stated, beside=hub.blobs.scratch)


@router.get("/attestations")
async def listed(
    hub: ThisHub,
    caller: ReaderOfEach,
    kind: Annotated[AttestationKind | None, Query()] = None,
    subject: str | None = None,
    tenant: str | None = None,
    route: str | None = None,
) -> list[Attestation]:
    """The attestations that fit, oldest first."""
    found = await hub.store(lambda s: s.attestations(kind=kind, subject=subject, tenant=tenant, route=route))
    return [attestation for attestation in found if caller.sees(attestation.tenant)]
