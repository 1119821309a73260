"""Incidents at a hub: opened by guard or a person, gathered, scoped to tenants, kept over a restart."""

from pathlib import Path
from typing import Any

from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import Deck, key, running
from tests.fleets.waiting import until
from tests.integration.hub.conftest import Join
from tests.integration.hub.test_candidates import call, pointer
from tests.integration.hub.test_guard import live, votes

from loradeck.schemas.incident import Incident, IncidentReport, RelatedReleases
from loradeck.schemas.log import EventKind


async def opened(deck: Deck, *pointers: tuple[str, str], **more: Any) -> str:
    body = {
        "pointers": [{"tenant": tenant, "route": route} for tenant, route in pointers or [("acme", "production")]],
        "reason": "31 % bad",
        "idempotency_key": key(),
        **more,
    }
    return str((await deck.ok("POST", "incidents", body))["events"][0]["incident"])


async def report(deck: Deck, incident: str) -> IncidentReport:
    return IncidentReport.model_validate(await deck.ok("GET", f"incidents/{incident}"))


def text(said: str) -> dict[str, str]:
    return {"text": said, "idempotency_key": key()}


async def caught(deck: Deck, join: Join) -> tuple[LinkedAgent, str]:
    """A candidate of acme that guard has taken out; the incident that it opened."""
    agent, two, other = await live(deck, join, guard="rollback")
    await call(deck, "start", release=other, unit="user", named=["ann"])
    await votes(agent, **{two: 0, other: 4})
    await until(lambda: pointer(deck).candidate is None, "guard has taken the candidate out")
    row = await deck.row()
    assert row.incident is not None
    return agent, row.incident.id


async def test_guard_opens_an_incident_that_names_what_it_took_out(deck: Deck, join: Join) -> None:
    agent, incident = await caught(deck, join)
    await deck.hub.flush()
    found = await report(deck, incident)
    left = pointer(deck).quarantined[0].release
    assert (found.incident.guard, found.incident.by, found.incident.tenant) == (True, "guard", "acme")
    assert "acme" not in incident
    suspect = found.incident.pointers[0].suspect
    assert suspect is not None
    assert (suspect.release, found.releases[left].label) == (left, "v3")
    assert [event.kind for event in found.events] == [EventKind.CANDIDATE_START, EventKind.ROLLBACK]
    assert found.events[-1].incident == incident
    assert sum(counts.checked for counts in found.histories[0].minutes.values()) == 200
    await agent.leave()


async def test_while_it_is_open_guarded_routes_promote_no_relative(deck: Deck, join: Join) -> None:
    agent, incident = await caught(deck, join)
    await deck.tenant("bolt", guard="hold")
    first = await deck.release("bolt", seed=3)  # by the recipe of what was taken out
    body = {"release": first, "expected_generation": 0, "idempotency_key": key()}
    promote = "tenants/bolt/routes/production/promote"
    answer = await deck.local.post(promote, json=body)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (409, "related_incident")
    assert incident in problem["title"]
    assert "acme" not in answer.text
    related = RelatedReleases.model_validate(await deck.ok("GET", "tenants/acme/routes/production/company"))
    assert (related.incident, related.about) == (incident, "v3")
    over = {**body, "idempotency_key": key(), "override": True, "reason": "other rows"}
    event = (await deck.ok("POST", f"{promote}?wait=committed&timeout=60", over))["events"][0]
    assert event["payload"]["overridden"] == ["related_incident"]
    # Those that are related now are added to the incident, each with what it serves.
    assert await opened(deck, id=incident, relatives=True) == incident
    assert [at.tenant for at in (await report(deck, incident)).incident.pointers] == ["acme", "bolt"]
    assert (await deck.row("bolt")).incident is not None
    await deck.ok("POST", f"incidents/{incident}/close", text("the rows were wrong"))
    assert (await deck.row("bolt")).incident is None
    again = await deck.release("bolt", seed=3, name="other")
    await deck.promote(again, "bolt", wait="committed")
    await agent.leave()


async def test_a_person_opens_notes_and_closes_one_and_it_is_kept(data: Path) -> None:
    async with running(data) as deck:
        await deck.tenant()
        incident = await opened(deck, id="INC-7")
        assert incident == "INC-7"
        await deck.ok("POST", "incidents/INC-7/notes", text("the schema changed at 14:00"))
        await deck.hub.anchor()
        await deck.ok("POST", "incidents/INC-7/close", text("schema mended"))  # after what was written last
        await deck.refused(409, "incident_closed", "POST", "incidents/INC-7/close", text("again"))
        await deck.ok("POST", "incidents/INC-7/notes", text("seen again by nobody"))
        before = await report(deck, "INC-7")
        said = [event.reason for event in before.events if event.incident]
        assert said == ["31 % bad", "the schema changed at 14:00", "schema mended", "seen again by nobody"]
    async with running(data) as deck:
        assert (await report(deck, "INC-7")).incident == before.incident
        assert before.incident.outcome == "schema mended"


async def test_what_is_wrong_is_refused_and_opens_nothing(deck: Deck) -> None:
    await deck.tenant()
    body = {"pointers": [{"tenant": "acme", "route": "production"}], "idempotency_key": key()}
    await deck.refused(422, "reason_required", "POST", "incidents", body)
    await deck.refused(422, "invalid_request", "POST", "incidents", {**body, "reason": "x", "id": "no/slash"})
    await deck.refused(422, "invalid_request", "POST", "incidents", {**body, "reason": "x" * 501})
    await deck.refused(404, "unknown_incident", "POST", "incidents/INC-1/notes", text("what"))
    nowhere = {**body, "pointers": [{"tenant": "acme", "route": "nowhere"}], "reason": "x"}
    await deck.refused(404, "unknown_route", "POST", "incidents", nowhere)
    assert await deck.ok("GET", "incidents") == []


async def test_one_tenants_people_see_their_incidents_and_of_others_only_that_an_id_is_taken(deck: Deck) -> None:
    await deck.tenant()
    await deck.tenant("zeta")
    for incident, tenants in (("INC-1", ["zeta"]), ("INC-2", ["acme", "zeta"])):
        await opened(deck, *((tenant, "production") for tenant in tenants), id=incident)
    ours = await deck.client_of("operator", "acme")
    seen = [Incident.model_validate(one) for one in await deck.ok("GET", "incidents", client=ours)]
    assert [(one.id, [at.tenant for at in one.pointers]) for one in seen] == [("INC-2", ["acme"])]
    found = IncidentReport.model_validate(await deck.ok("GET", "incidents/INC-2", client=ours))
    assert {event.tenant for event in found.events} == {"acme"}
    await deck.refused(404, "unknown_incident", "GET", "incidents/INC-1", None, ours)
    for call_ in ("notes", "close"):
        await deck.refused(404, "unknown_incident", "POST", f"incidents/INC-1/{call_}", text("x"), ours)
    body = {"id": "INC-1", "reason": "x", "idempotency_key": key()}
    mine, theirs = {"tenant": "acme", "route": "production"}, {"tenant": "zeta", "route": "production"}
    await deck.refused(409, "incident_exists", "POST", "incidents", {**body, "pointers": [mine]}, ours)
    await deck.refused(403, "forbidden", "POST", "incidents", {**body, "pointers": [mine, theirs]}, ours)
