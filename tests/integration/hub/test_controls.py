"""What a regulated route asks of moves: three people and a change ticket, and R that waits for neither."""

from __future__ import annotations

from typing import Any

from tests.fakes.sign_in_provider import fake_provider
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import SOON, Deck, data_folder, key, running
from tests.fleets.waiting import until
from tests.integration.hub.conftest import Join
from tests.integration.hub.test_reviews import ROUTE, reported, signed

from loradeck.schemas.attestation import AttestationKind
from loradeck.schemas.gate import GateConfig, ReviewGate
from loradeck.schemas.log import EventKind

PROMOTE = f"{ROUTE}/promote?wait=committed"


def promote(deck: Deck, release: str, **more: Any) -> dict[str, Any]:
    generation = deck.hub.log.state.pointers["acme", "production"].generation
    return {"release": release, "expected_generation": generation, "idempotency_key": key(), **more}


async def test_author_validator_and_promoter_are_three_people_where_the_route_says_so() -> None:
    async with data_folder() as data, fake_provider() as provider, running(data, oidc=provider.settings()) as deck:
        await deck.tenant()
        await LinkedAgent(deck, "n1").join()
        await until(lambda: deck.hub.provider._keys, "the hub has the provider's keys")
        names = {"s-1": "Ann", "s-2": "Bob", "s-3": "Cem"}
        ann, bob, cem = (deck.with_token(provider.token(groups=["admins"], sub=s, name=n)) for s, n in names.items())
        release, suite = await deck.release(), await deck.suite()
        made = await deck.adapter_manifest(name="other", seed=7)
        release = (await deck.ok("POST", "adapters/acme/other/versions", made.model_dump(mode="json"), ann))["release"]
        gate = GateConfig(suite=suite, review=ReviewGate(items=5)).model_dump(mode="json")
        await deck.tenant(gate=gate, controls={"duties": True})
        await reported(deck, release, suite)
        sheet = await deck.ok("GET", f"{ROUTE}/reviews/{release}")
        machine = await deck.as_role("releaser")
        await deck.refused(403, "person_required", "POST", f"{ROUTE}/reviews", signed(sheet), machine)
        await deck.ok("POST", f"{ROUTE}/reviews", signed(sheet), bob)
        for who, why in ((ann, "Ann had"), (bob, "Bob has reviewed")):
            problem = await deck.refused(409, "duties_not_separate", "POST", PROMOTE, promote(deck, release), who)
            assert problem.detail.startswith(why)
        await deck.refused(403, "person_required", "POST", PROMOTE, promote(deck, release), machine)
        await deck.ok("POST", PROMOTE, promote(deck, release), cem)
        loose = SOON | {"gate": gate}
        await deck.refused(409, "second_person", "PUT", f"{ROUTE}?reason=late", loose, ann)
        await deck.ok("PUT", f"{ROUTE}?reason=late", loose, cem)


async def test_a_promote_needs_a_ticket_and_r_gets_one_afterwards(deck: Deck, join: Join) -> None:
    await deck.tenant()
    await join("n1")
    one, two = await deck.release(seed=1), await deck.release(seed=2)
    await deck.promote(one)
    await deck.tenant(controls={"tickets": True})
    await deck.refused(409, "ticket_required", "POST", PROMOTE, promote(deck, two))
    await deck.promote(two, ticket="CHG-1")
    back = (await deck.rollback(wait="committed")).events[0]
    forward = next(e for e in deck.hub.log.recent if e.to_release == two and e.kind is EventKind.PROMOTE)
    assert (forward.ticket, back.ticket, back.wants_ticket) == ("CHG-1", None, True)
    note = {"event": back.id, "ticket": "CHG-2", "idempotency_key": key()}
    added = await deck.ok("POST", f"{ROUTE}/annotate", note)
    assert added["events"][0]["payload"] == {"event": back.id, "ticket": "CHG-2"}


async def test_on_the_hubs_host_the_glass_is_broken_where_a_ticket_is_asked_for(deck: Deck, join: Join) -> None:
    await deck.tenant()
    await join("n1")
    release = await deck.release()
    await deck.tenant(controls={"tickets": True})
    alone = {"override": True, "break_glass": True, "reason": "the other system is down"}
    await deck.ok("POST", PROMOTE, promote(deck, release, **alone))
    event = deck.hub.log.recent[-1]
    assert (event.payload["broke_glass"], event.wants_ticket) == (True, True)


async def test_an_impact_assessment_of_a_releases_sources_is_on_its_card_and_one_of_others_is_not(deck: Deck) -> None:
    await deck.tenant()
    await deck.base()
    manifest = (await deck.adapter_manifest()).model_copy(update={"datasets": (await deck.dataset(),)})
    made = await deck.ok("POST", "adapters/acme/support/versions", manifest.model_dump(mode="json"))
    before = await deck.hub.gates.card("acme", made["release"])

    async def assessed(source: str) -> bool:
        body, draft = {"source": source, "reference": "DPIA-12", "withdrawn": True}, deck.hub.attestations.draft
        await deck.hub.attestations.add(draft(AttestationKind.ASSESSMENT, "a" * 64, "acme", body, "dpo"))
        return await deck.hub.gates.card("acme", made["release"]) != before

    assert [await assessed("crm.*"), await assessed("a *")] == [False, True]


async def test_nothing_goes_out_before_each_stakeholder_has_read_what_differs(deck: Deck, join: Join) -> None:
    await deck.tenant()
    await join("n1")
    one, two = await deck.release(seed=1), await deck.release(seed=2)
    await deck.promote(one)
    await deck.tenant(controls={"stakeholders": ["legal"]})

    def read(against: str | None, **more: Any) -> dict[str, Any]:
        body = {"against": against, "differences": "d" * 64, "person": "legal"}
        where = {"kind": "acknowledged", "tenant": "acme", "route": "production", "by": ""}
        return {**where, "subject": two, "body": body, **more}

    await deck.refused(409, "not_acknowledged", "POST", PROMOTE, promote(deck, two, override=True, reason="late"))
    await deck.refused(403, "forbidden", "POST", "attestations/signed", read(one))  # whoever else the body names
    target = {"tenant": "acme", "route": "production", "release": two}
    campaign = {"campaign": "c", "plan": {"ungated": True}, "targets": [target], "idempotency_key": key()}
    planned = await deck.ok("POST", "campaigns", campaign | {"dry_run": True})
    assert "stakeholders" in planned["left_out"]["acme/production"], "a campaign waits for nobody to read"
    made = await deck.ok("POST", "tokens", {"name": "legal", "role": "operator"})
    legal = deck.with_token(made["token"])
    await deck.refused(404, "unknown_route", "POST", "attestations/signed", read(one, route=None), legal)
    await deck.refused(403, "forbidden", "POST", "attestations/signed", read(one, kind="revocation"), legal)
    await deck.refused(403, "forbidden", "POST", "attestations", read(one))
    await deck.ok("POST", "attestations/signed", read(None), legal)
    problem = await deck.refused(409, "not_acknowledged", "POST", PROMOTE, promote(deck, two))
    assert problem.detail == "legal"
    await deck.ok("POST", "attestations/signed", read(one), legal)
    leaks = deck.hub.attestations.draft(AttestationKind.LEAK, two, "acme", {"leaks": 1}, "job j1")
    await deck.hub.attestations.add(leaks)
    problem = await deck.refused(409, "not_acknowledged", "POST", PROMOTE, promote(deck, two))
    assert problem.detail == "legal (the card has changed since)"
    await deck.ok("POST", "attestations/signed", read(one), legal)
    await deck.promote(two)
    await deck.rollback(wait="committed")
    await deck.refused(422, "reason_required", "PUT", ROUTE, SOON)
