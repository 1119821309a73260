"""Evaluations and gates: a report comes in, the gates that ask for it are judged, the verdict is attested."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from pydantic import BaseModel, TypeAdapter, ValidationError

from loradeck.rules.errors import Refused
from loradeck.rules.quality import gates
from loradeck.rules.quality.gates import Evidence
from loradeck.schemas.attestation import (
    Attestation,
    AttestationKind,
    CanaryRecord,
    EvaluationReport,
    GateResult,
    MergeReport,
)
from loradeck.schemas.gate import GateConfig
from loradeck.schemas.ids import Digest, PointerKey
from loradeck.schemas.review import Review

if TYPE_CHECKING:
    from loradeck.hub.hub import Hub

log = logging.getLogger("loradeck.hub.jobs.gates")


_BODIES: dict[AttestationKind, TypeAdapter[EvaluationReport] | TypeAdapter[CanaryRecord] | TypeAdapter[MergeReport]] = {
    AttestationKind.EVALUATION: TypeAdapter(EvaluationReport),
    AttestationKind.CANARY: TypeAdapter(CanaryRecord),
    AttestationKind.MERGE: TypeAdapter(MergeReport),
}


def checked(attestation: Attestation) -> Attestation:
    """An attestation whose body fits its kind and speaks of its subject.

    Raises: Refused `invalid_request`.
    """
    adapter = _BODIES.get(attestation.kind)
    if adapter is None:
        return attestation
    try:
        body: BaseModel = adapter.validate_python(attestation.body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in ("body", *first["loc"]))
        raise Refused(
            "invalid_request", f"the body is no {attestation.kind.value}", detail=f"{where}: {first['msg']}"
        ) from None
    if getattr(body, "release", None) != attestation.subject:
        raise Refused("invalid_request", "the body speaks of another release than `subject`", detail="body.release")
    return attestation


async def take_in(hub: Hub, attestation: Attestation) -> Attestation:
    """Write an attestation that somebody sends, and judge what it makes judgeable.

    The same statement again is answered with the first: a repeated report changes nothing.
    """
    attestation = checked(attestation)
    kind, subject = attestation.kind, attestation.subject
    for known in await hub.store(lambda s: s.attestations(kind=kind, subject=subject)):
        if (known.tenant, known.route, known.body) == (attestation.tenant, attestation.route, attestation.body):
            return known
    written = await hub.attest(attestation)
    if kind is AttestationKind.EVALUATION:
        # Whichever route it was made for: a score on a suite counts wherever a gate asks for that suite.
        suite = str(attestation.body["suite"])
        for key, gate in _gates_of(hub, attestation.tenant):
            if any(part.suite == suite for part in gate.suites):
                await judge(hub, key, subject)
    return written


async def _reports(hub: Hub, release: Digest, gate: GateConfig) -> dict[Digest, EvaluationReport]:
    """The newest report of a release on each suite of a gate, where there is one."""
    found = await hub.store(lambda s: s.attestations(kind=AttestationKind.EVALUATION, subject=release))
    newest = {str(attestation.body.get("suite")): attestation.body for attestation in found}
    wanted = [part.suite for part in gate.suites if part.suite in newest]
    return {suite: EvaluationReport.model_validate(newest[suite]) for suite in wanted}


async def report_on(hub: Hub, release: Digest, gate: GateConfig) -> EvaluationReport | None:
    """The newest report of a release on a gate's own suite."""
    return (await _reports(hub, release, gate)).get(gate.suite)


async def reviews_of(hub: Hub, key: PointerKey, release: Digest) -> list[Attestation]:
    """What people have signed of a release on a route, oldest first."""
    tenant, route = key
    return await hub.store(
        lambda s: s.attestations(kind=AttestationKind.REVIEW, subject=release, tenant=tenant, route=route)
    )


def stage_passed(hub: Hub, attestation: Attestation) -> None:
    """Something became known of a release on a route: gates that come after that route are judged again."""
    if attestation.route is None:
        return
    for key, gate in _gates_of(hub, attestation.tenant):
        if gate.after == attestation.route:
            hub.spawn(judge(hub, key, attestation.subject))


def _gates_of(hub: Hub, tenant: str | None) -> list[tuple[PointerKey, GateConfig]]:
    """The gates of a tenant's routes. Every attestation asks for them: the other tenants must not be gone through."""
    state = hub.ledger.tenants.get(tenant or "")
    if state is None:
        return []
    return [((state.name, route), config.gate) for route, config in sorted(state.routes.items()) if config.gate]


def _stage(hub: Hub, tenant: str, gate: GateConfig, release: Digest) -> str:
    if gate.after is None:
        return ""
    key = (tenant, gate.after)
    return gates.lacks(release, gate.after, hub.ledger.pointers.get(key), hub.facts.of(key))


async def judge(hub: Hub, key: PointerKey, release: Digest) -> GateResult | None:
    """The verdict of a pointer's gate on a release, against what is live now; attested when it is a new one.

    None: the pointer has no gate, or the release is not reported yet on each of its suites.
    """
    gate = hub.config(key).gate
    if gate is None:
        return None
    pointer = hub.ledger.pointers.get(key)
    live = pointer.release if pointer is not None and pointer.release != release else None
    evidence = Evidence(
        reports=await _reports(hub, release, gate),
        live=await _reports(hub, live, gate) if live is not None else {},
        canaries={p.suite: hub.catalogue.suites[p.suite].canaries for p in gate.suites if p.canaries},
        reviews=[(one.by, Review.model_validate(one.body)) for one in await reviews_of(hub, key, release)],
        stage=_stage(hub, key[0], gate, release),
    )
    if gates.unreported(gate, evidence):
        return None
    # Sums over thousands of items take longer than a move may wait for the event loop.
    result = await asyncio.to_thread(gates.judge, release, live, gate, evidence)
    if result != hub.facts.gate(key, release):
        await hub.attest(
            Attestation(
                kind=AttestationKind.GATE,
                subject=release,
                tenant=key[0],
                route=key[1],
                body=result.model_dump(mode="json"),
                by="hub",
                at_ms=hub.now_ms(),
            )
        )
        log.info("gate pointer=%s/%s release=%s passed=%s", *key, release[:6], result.passed)
    return result
