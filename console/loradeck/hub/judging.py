"""Evaluations and gates: a report comes in, the gates that ask for it are judged, the verdict is attested."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pydantic import BaseModel, TypeAdapter, ValidationError

from loradeck.rules import gates
from loradeck.rules.errors import Refused
from loradeck.schemas.attestation import (
    Attestation,
    AttestationKind,
    CanaryRecord,
    EvaluationReport,
    GateResult,
    MergeReport,
)
from loradeck.schemas.ids import Digest

if TYPE_CHECKING:
    from loradeck.hub.hub import Hub

log = logging.getLogger("loradeck.hub.judging")

Key = tuple[str, str]

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
        suite = str(attestation.body["suite"])
        for key in hub.routes():
            gate = hub.config(key).gate
            fits = gate is not None and gate.suite == suite and key[0] == attestation.tenant
            if fits and attestation.route in (None, key[1]):
                await judge(hub, key, subject)
    return written


async def report_of(hub: Hub, release: Digest, suite: Digest) -> EvaluationReport | None:
    """The newest report of a release on a suite."""
    found = await hub.store(lambda s: s.attestations(kind=AttestationKind.EVALUATION, subject=release))
    for attestation in reversed(found):
        if attestation.body.get("suite") == suite:
            return EvaluationReport.model_validate(attestation.body)
    return None


async def judge(hub: Hub, key: Key, release: Digest) -> GateResult | None:
    """The verdict of a pointer's gate on a release, against what is live now; attested when it is a new one.

    None: the pointer has no gate, or nothing was reported yet.
    """
    gate = hub.config(key).gate
    if gate is None:
        return None
    report = await report_of(hub, release, gate.suite)
    if report is None:
        return None
    pointer = hub.ledger.pointers.get(key)
    live = pointer.release if pointer else None
    against = await report_of(hub, live, gate.suite) if live is not None and live != release else None
    result = gates.judge(report, against, gate)
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
