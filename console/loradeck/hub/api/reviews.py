"""Reviews by people: the sampled answers of a candidate, and the signed reviews of them."""

import asyncio

from fastapi import APIRouter

from loradeck.artifacts.rows.suite_items import items_in
from loradeck.hub.access.routes import Guarded
from loradeck.hub.api.parameters import PAGE, Operator, ThisHub, Viewer
from loradeck.hub.hub import Hub
from loradeck.rules.errors import Refused
from loradeck.rules.quality.review import answers_digest, by_lot, counts, digests, drawn, require_fitting
from loradeck.schemas.attestation import AttestationKind, EvaluationReport, GateResult
from loradeck.schemas.gate import GateConfig, ReviewGate
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.review import Review, ReviewSheet, SampledItem, SignedReview

router = APIRouter(prefix="/v1", tags=["reviews"], route_class=Guarded)


async def _asked(hub: Hub, key: PointerKey, release: str) -> tuple[GateConfig, ReviewGate, EvaluationReport]:
    """The gate that asks for a review, and the sampled report. Raises: Refused `no_review`, `gate_missing`."""
    hub.log.state.route(*key)
    hub.catalogue.known(key[0], release)
    gate = hub.log.state.config(key).gate
    if gate is None or gate.review is None:
        raise Refused(
            "no_review",
            "this route's gate asks for no review",
            detail=f"{key[0]}/{key[1]}",
            fix="set [review] in the gate: loradeck gate set",
        )
    report = await hub.gates.report_on(release, gate)
    if report is None:
        raise Refused(
            "gate_missing",
            f"{hub.catalogue.called(release)} has no report on this gate's suite: there are no answers to look at",
            detail=f"{key[0]}/{key[1]}",
            fix="loradeck job evaluate, first",
        )
    return gate, gate.review, report


@router.get(f"{PAGE}/reviews/{{release}}")
async def sheet(tenant: str, route: str, release: str, hub: ThisHub, caller: Viewer) -> ReviewSheet:
    """The sampled answers of a candidate, with what was asked and wanted, and who has signed."""
    key = (tenant, route)
    gate, review, report = await _asked(hub, key, release)
    files = hub.catalogue.suites[gate.suite].files
    async with hub.blobs.local(file.sha256 for file in files) as here:
        paths = {file.path: here[file.sha256] for file in files}
        by_id = {item.id: item for item in await asyncio.to_thread(items_in, paths)}
    live = hub.gates.live(key, release)
    signed = [(one, Review.model_validate(one.body)) for one in await hub.gates.reviews_of(key, release)]
    edges = await hub.gates.edges(gate, {live, *(its.against for _, its in signed)})
    why, now = drawn(report, review, edges[live]), digests(report, review, (its for _, its in signed), edges)
    return ReviewSheet(
        tenant=tenant,
        route=route,
        release=release,
        suite=gate.suite,
        answers=answers_digest(report, review, edges[live]),
        people=review.people,
        max_bad=review.max_bad,
        items=tuple(
            SampledItem(
                id=result.id,
                prompt=by_id[result.id].prompt if result.id in by_id else (),
                wanted=(by_id[result.id].answer if result.id in by_id else None) or result.kind.value,
                answer=result.answer,
                exact=result.exact,
                drawn=why[result.id],
            )
            for result in report.items
            if result.id in why
        ),
        drawn=counts(report, review, edges[live]),
        signed=tuple(
            SignedReview(
                by=one.by,
                at_ms=one.at_ms,
                bad=its.bad,
                n=len(its.items),
                current=its.answers == now[its.against],
                lot=by_lot(its, drawn(report, review, edges[its.against]), now[its.against]),
            )
            for one, its in signed
        ),
    )


@router.post(f"{PAGE}/reviews")
async def sign(tenant: str, route: str, body: Review, hub: ThisHub, caller: Operator) -> GateResult | None:
    """Signs a review with the caller's name; the gate is judged again. None: another suite has no report yet."""
    key = (tenant, route)
    gate, review, report = await _asked(hub, key, body.release)
    if body.suite != gate.suite:
        raise Refused("stale_review", "this gate is on another suite by now", detail=body.suite, fix="look again")
    live = hub.gates.live(key, body.release)
    edges = (await hub.gates.edges(gate, {live}))[live]
    require_fitting(body, report, review, edges)
    by_person = review.people > 1 or hub.log.state.config(key).controls.duties
    person = hub.proposals.person(caller.actor, caller.token) if by_person else ""
    drew = {"against": live, "drawn": counts(report, review, edges)} if review.edges else {"against": None, "drawn": {}}
    body = body.model_copy(update={"person": person if hub.proposals.people_sign_in else "", **drew})
    stated = body.model_dump(mode="json")
    newest = [one.body for one in await hub.gates.reviews_of(key, body.release) if one.by == caller.actor][-1:]
    if newest != [stated]:
        await hub.attestations.state(AttestationKind.REVIEW, body.release, tenant, stated, caller.actor, route)
    return await hub.gates.judge(key, body.release)
