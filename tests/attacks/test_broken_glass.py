"""One person acts where a route asks for two: on the hub's host alone, and everybody sees it until another signs."""

from __future__ import annotations

import getpass
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.sign_in_provider import fake_provider
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import SOON, Deck, data_folder, key, running

from loradeck.hub.views.metrics import pointer_metrics
from loradeck.rules.quality.attention import NEEDS_YOU, alerting, urgency
from loradeck.schemas.gate import GateConfig, ReviewGate

ROUTE = "tenants/acme/routes/production"
KEY = ("acme", "production")


@pytest.fixture
async def deck(tmp_path: Path) -> AsyncIterator[Deck]:
    async with running(tmp_path) as deck:
        await deck.tenant()
        await LinkedAgent(deck, "n1").join()
        yield deck


async def strict(deck: Deck) -> dict[str, Any]:
    """Settings under which two people open the gate, in force."""
    gate = GateConfig(suite=await deck.suite(), review=ReviewGate(items=5, people=2))
    settings = SOON | {"gate": gate.model_dump(mode="json")}
    await deck.ok("PUT", ROUTE, settings)
    return settings


def promote(deck: Deck, release: str, **more: Any) -> dict[str, Any]:
    generation = deck.hub.log.state.pointers[KEY].generation
    return {"release": release, "expected_generation": generation, "idempotency_key": key(), **more}


async def test_who_breaks_the_glass_is_red_on_every_console_until_somebody_else_countersigns(deck: Deck) -> None:
    one, two = await deck.release(seed=1), await deck.release(seed=2)
    await deck.promote(one)
    await strict(deck)
    bob = deck.with_token((await deck.ok("POST", "tokens", {"name": "bob", "role": "releaser"}))["token"])
    alone = {"override": True, "break_glass": True, "reason": "bob sleeps"}
    path = f"{ROUTE}/promote?wait=proven"
    await deck.refused(403, "local_only", "POST", path, promote(deck, two, **alone), bob)
    await deck.refused(422, "reason_required", "POST", path, promote(deck, two, **alone | {"reason": ""}))
    await deck.ok("POST", path, promote(deck, two, **alone))
    row = await deck.row()
    event = next(event for event in reversed(deck.hub.log.recent) if event.to_release == two)
    assert (event.payload["broke_glass"], event.reason, event.actor) == (True, "bob sleeps", getpass.getuser())
    assert [(a.event, a.actor, a.reason) for a in row.alone] == [(event.id, event.actor, "bob sleeps")]
    assert ("GLASS" in row.flags, urgency(row.flags) < len(NEEDS_YOU), "GLASS" in alerting(row)) == (True, True, True)
    await deck.hub.audit.flush()
    lines = [line for line in await deck.ok("GET", "audit") if line["call"] == "break-glass"]
    assert [(line["subject"]["event"], line["detail"]) for line in lines] == [(event.id, "bob sleeps")]

    sign = {"event": event.id, "reason": "seen", "idempotency_key": key()}
    await deck.refused(409, "second_person", "POST", f"{ROUTE}/countersign", sign)
    operator = await deck.as_role("operator")
    await deck.refused(403, "forbidden", "POST", f"{ROUTE}/countersign", sign, operator)
    await deck.ok("POST", f"{ROUTE}/countersign", sign, bob)
    row = await deck.row()
    assert (row.alone, "GLASS" in row.flags) == ((), False)
    again = sign | {"idempotency_key": key()}
    await deck.refused(404, "unknown_event", "POST", f"{ROUTE}/countersign", again, bob)


async def test_a_gate_that_was_taken_away_alone_is_red_also_after_a_restart_of_the_hub() -> None:
    async with data_folder() as data:
        async with running(data) as deck:
            await deck.tenant()
            settings = await strict(deck)
            loose = settings | {"gate": None}
            bob = deck.with_token((await deck.ok("POST", "tokens", {"name": "bob", "role": "releaser"}))["token"])
            path = f"{ROUTE}?reason=an emergency&break_glass=true"
            await deck.refused(403, "local_only", "PUT", path, loose, bob)
            await deck.hub.anchor()  # what is open is written, and then there is more
            await deck.ok("PUT", path, loose)
            (before,) = (await deck.row()).alone
        async with running(data) as deck:
            row = await deck.row()
            assert (row.alone, "GLASS" in row.flags) == ((before,), True)
            assert b'flag="GLASS"' in await pointer_metrics([row])


async def test_what_needs_nobody_else_breaks_no_glass(deck: Deck) -> None:
    one = await deck.release(seed=1)
    await deck.ok(
        "POST", f"{ROUTE}/promote?wait=proven", promote(deck, one, override=True, break_glass=True, reason="x")
    )
    row = await deck.row()
    assert ("broke_glass" in deck.hub.log.recent[-1].payload, row.alone) == (False, ())


async def test_where_people_sign_in_a_person_countersigns_and_no_machine() -> None:
    async with data_folder() as data, fake_provider() as provider, running(data, oidc=provider.settings()) as deck:
        await deck.tenant()
        settings = await strict(deck)
        await deck.ok("PUT", f"{ROUTE}?reason=an emergency&break_glass=true", settings | {"gate": None})
        (open_,) = (await deck.row()).alone
        machine = await deck.as_role("releaser")
        sign = {"event": open_.event, "idempotency_key": key()}
        await deck.refused(403, "person_required", "POST", f"{ROUTE}/countersign", sign, machine)
        await deck.refused(409, "second_person", "POST", f"{ROUTE}/countersign", sign)
        ann = deck.with_token(provider.token(groups=["admins"]))
        await deck.ok("POST", f"{ROUTE}/countersign", sign, ann)
        assert (await deck.row()).alone == ()
