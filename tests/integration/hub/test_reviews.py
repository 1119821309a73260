"""People who sign for answers, and the routes a release goes through: what opens a gate, and what does not."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fleets.linked.hub import Deck, key
from tests.fleets.waiting import until
from tests.integration.hub.conftest import Join

from loradeck.rules.moves.fold import FoldedLog
from loradeck.schemas.attestation import Attestation, AttestationKind, GateResult
from loradeck.schemas.gate import GateConfig, ReviewGate
from loradeck.schemas.moves import PromoteRequest

ROUTE = "tenants/acme/routes/production"


async def reported(
    deck: Deck, release: str, suite: str, answer: str = "a", n: int = 20, route: str | None = None
) -> None:
    items = [{"id": f"i{i}", "answer": f"{answer}{i}", "exact": True, "valid": True} for i in range(n)]
    body = {"release": release, "suite": suite, "n": n, "exact": n, "valid": n, "items": items, "seconds": 1.0}
    evaluation = AttestationKind.EVALUATION
    stated = Attestation(kind=evaluation, subject=release, tenant="acme", route=route, body=body, by="job j1")
    await deck.hub.gates.attest(stated)


def signed(sheet: dict[str, Any], bad: int = 0) -> dict[str, Any]:
    items = [{"id": item["id"], "good": number >= bad} for number, item in enumerate(sheet["items"])]
    return {key: sheet[key] for key in ("release", "suite", "answers")} | {"items": items, "note": "looked"}


def promote(release: str, generation: int) -> dict[str, Any]:
    request = PromoteRequest(release=release, expected_generation=generation, idempotency_key=key())
    return request.model_dump(mode="json")


async def test_two_people_sign_for_sampled_answers_before_a_release_goes_live(deck: Deck, join: Join) -> None:
    await deck.tenant()
    release, suite = await deck.release(), await deck.suite()
    await deck.refused(409, "no_review", "GET", f"{ROUTE}/reviews/{release}")
    gate = GateConfig(suite=suite, review=ReviewGate(items=5, people=2))
    await deck.tenant(gate=gate.model_dump(mode="json"))
    await join("n1")
    await deck.refused(409, "gate_missing", "GET", f"{ROUTE}/reviews/{release}")
    await reported(deck, release, suite)
    problem = await deck.refused(409, "gate_failed", "POST", f"{ROUTE}/promote", promote(release, 0))
    assert problem.detail == "nobody has looked at these answers yet"
    ann, bob = await deck.as_role("operator"), await deck.as_role("releaser")
    sheet = await deck.ok("GET", f"{ROUTE}/reviews/{release}", client=await deck.as_role("viewer"))
    assert len(sheet["items"]) == 5
    first = sheet["items"][0]
    number = first["id"][1:]
    assert (first["prompt"], first["wanted"]) == ([{"role": "user", "content": f"p{number}"}], f"a{number}")
    assert first["answer"] == f"a{number}"
    for who, passed in ((ann, False), (ann, False), (bob, True)):
        result = await deck.ok("POST", f"{ROUTE}/reviews", signed(sheet), client=who)
        assert GateResult.model_validate(result).passed is passed
    stated = await deck.ok("GET", f"attestations?subject={release}&kind=review")
    assert len(stated) == 2, "the same review again is the first"
    assert len({one["by"] for one in stated}) == 2
    assert [one["current"] for one in (await deck.ok("GET", f"{ROUTE}/reviews/{release}"))["signed"]] == [True, True]
    await deck.promote(release)


async def test_a_review_that_does_not_fit_changes_nothing(deck: Deck) -> None:
    await deck.tenant()
    release, suite = await deck.release(), await deck.suite()
    await deck.tenant(gate=GateConfig(suite=suite, review=ReviewGate(items=5)).model_dump(mode="json"))
    await reported(deck, release, suite)
    sheet = await deck.ok("GET", f"{ROUTE}/reviews/{release}")
    good = signed(sheet)
    await deck.refused(422, "bad_review", "POST", f"{ROUTE}/reviews", good | {"items": good["items"][1:]})
    await deck.refused(409, "stale_review", "POST", f"{ROUTE}/reviews", good | {"suite": "0" * 64})
    for role in ("viewer", "agent"):
        client = await deck.as_role(role, *(["n1"] if role == "agent" else []))
        await deck.refused(403, "forbidden", "POST", f"{ROUTE}/reviews", good, client=client)
    stated = {"kind": "review", "subject": release, "tenant": "acme", "body": good, "by": "somebody else"}
    await deck.refused(403, "forbidden", "POST", "attestations", stated)
    await reported(deck, release, suite, answer="another")
    await deck.refused(409, "stale_review", "POST", f"{ROUTE}/reviews", good)
    assert await deck.ok("GET", f"attestations?subject={release}&kind=review") == []


async def test_a_release_reaches_production_through_staging(deck: Deck, join: Join) -> None:
    await deck.tenant()
    release, suite = await deck.release(), await deck.suite()
    gate = GateConfig(suite=suite, after="staging").model_dump(mode="json")
    await deck.refused(404, "unknown_route", "PUT", ROUTE, {"gate": gate})
    await deck.tenant(route="staging")
    await deck.tenant(gate=gate)
    await join("n1")
    await reported(deck, release, suite, route="staging")
    judged_at_once = deck.hub.facts.gate(("acme", "production"), release)
    assert judged_at_once is not None
    assert not judged_at_once.passed
    problem = await deck.refused(409, "gate_failed", "POST", f"{ROUTE}/promote", promote(release, 0))
    assert problem.detail == "it was never attested on staging"
    await deck.ok("POST", "tenants/acme/routes/staging/promote?wait=proven&timeout=60", promote(release, 0))

    def judged() -> bool:
        result = deck.hub.facts.gate(("acme", "production"), release)
        return result is not None and result.passed

    await until(judged, "the gate was judged again when staging had proven it")
    await deck.promote(release)


async def test_a_freeze_window_that_ends_before_it_begins_is_refused(deck: Deck) -> None:
    await deck.tenant()
    await deck.refused(422, "invalid_request", "PUT", ROUTE, {"freeze": [[2000, 1000]]})


async def test_what_becomes_known_of_one_tenant_does_not_go_through_the_routes_of_all(
    deck: Deck, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ten thousand tenants each proof took the hub milliseconds for gates that were none of its tenant's."""
    await deck.tenant()
    release, suite = await deck.release(), await deck.suite()
    await deck.tenant(gate=GateConfig(suite=suite).model_dump(mode="json"))

    def all_of_them(state: FoldedLog) -> list[tuple[str, str]]:
        raise AssertionError("every tenant's routes were asked for")

    monkeypatch.setattr(FoldedLog, "routes", all_of_them)
    await reported(deck, release, suite, route="production")
    assert deck.hub.facts.gate(("acme", "production"), release) is not None
