"""What is held against a release, quarantine and breach, and how a person takes it back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import Deck, key, running
from tests.fleets.waiting import until
from tests.integration.hub.conftest import Join

from loradeck.schemas.log import Event, EventKind

ROUTE = "tenants/acme/routes/production"
ACME = ("acme", "production")


def is_breached(deck: Deck, release: str) -> bool:
    return deck.hub.facts.is_breached(deck.hub.log.state.pointers[ACME], release)


async def lift(deck: Deck, release: str, reason: str = "the route's checks were wrong") -> Event:
    result = await deck.ok("POST", f"{ROUTE}/lift", {"release": release, "idempotency_key": key(), "reason": reason})
    (event,) = result["events"]
    return Event.model_validate(event)


async def test_a_breach_that_is_lifted_lets_r_go_there_again_and_survives_a_restart(data: Path) -> None:
    async with running(data) as deck:
        await deck.tenant()
        one, two, three = [await deck.release(seed=s) for s in (1, 2, 3)]
        agent = await LinkedAgent(deck, "n1").join()
        for release in (one, two):
            await deck.promote(release)
        await agent.report(agent.served_badly(one, admitted=40, finished=40, checked=40, bad=22))
        await until(lambda: is_breached(deck, two), "breached")
        await deck.promote(three)
        assert (await deck.row()).preview.target.id == one  # type: ignore[union-attr]
        event = await lift(deck, two)
        assert event.payload == {"release": two, "events": [], "breach": "bad 55.0% of 40, by n1 alone"}
        assert (event.kind, event.reason) == (EventKind.LIFT, "the route's checks were wrong")
        row = await deck.row()
        assert row.preview.target is not None
        assert (row.preview.target.id, row.preview.skipped) == (two, ())
        assert row.cause.prior is None, "what was counted wrongly is not held against it"
        assert row.bad_before == pytest.approx(22 / 40), "what was seen at the move stays what was seen"
        body = {"release": two, "idempotency_key": key(), "reason": "again"}
        problem = await deck.refused(409, "not_quarantined", "POST", f"{ROUTE}/lift", body)
        assert "neither quarantined nor breached" in problem.title
        assert problem.title.startswith("v2 (")
        await agent.leave()
    async with running(data) as deck:
        assert not is_breached(deck, two)
        row = await deck.row()
        assert row.preview.target is not None
        assert row.preview.target.id == two


async def test_a_live_release_whose_breach_is_lifted_is_judged_by_what_it_answers_from_then_on(
    deck: Deck, join: Join
) -> None:
    await deck.tenant()
    one, two = await deck.release(seed=1), await deck.release(seed=2)
    agent = await join("n1")
    await deck.promote(one)
    await deck.promote(two)
    await agent.report(agent.served_badly(one, admitted=100, finished=100, checked=100, bad=90))
    await until(lambda: is_breached(deck, two), "breached")
    await lift(deck, two)
    assert "BAD" not in (await deck.row()).flags
    await agent.report(agent.served(admitted=150, finished=150, checked=150, bad=91))
    await until(lambda: deck.hub.counts.total(ACME, two).counts.checked == 150, "counted")
    row = await deck.row()
    assert "BAD" not in row.flags, "1 of 50 since"
    assert (row.cause.live.checked, row.cause.live.bad) == (50, 1)
    assert deck.hub.health.served(ACME, two)[1] == 150, "it has served what it has served"
    await agent.report(agent.served_badly(one, admitted=170, finished=170, checked=170, bad=111))
    await until(lambda: is_breached(deck, two), "breached anew, 21 of 70 since")
    assert "BAD" in (await deck.row()).flags
    event = await lift(deck, two, "a node was at fault")
    # Since its change point, which may be a second of both reports.
    assert event.payload["breach"] in ("bad 30.0% of 70, by n1 alone", "bad 100.0% of 20, by n1 alone")
    assert event.pointer is not None
    assert len(event.pointer.lifted) == 1, "the newest of each release"
    assert not is_breached(deck, two)


async def test_lifting_a_release_that_was_rolled_back_from_ends_quarantine_and_breach_at_once(
    deck: Deck, join: Join
) -> None:
    await deck.tenant()
    one, two = await deck.release(seed=1), await deck.release(seed=2)
    agent = await join("n1")
    await deck.promote(one)
    await deck.promote(two)
    await agent.report(agent.served_badly(one, admitted=40, finished=40, checked=40, bad=40))
    await until(lambda: is_breached(deck, two), "breached")
    rolled = await deck.rollback()
    await deck.refused(409, "quarantined", "POST", f"{ROUTE}/promote", promotion(deck, two))
    event = await lift(deck, two)
    assert event.payload == {
        "release": two,
        "events": [rolled.events[0].id],
        "breach": "bad 100.0% of 40, by n1 alone",
    }
    assert event.pointer is not None
    assert event.pointer.quarantined == ()
    assert (event.pointer.release, event.pointer.generation) == (one, rolled.events[0].generation)
    assert not is_breached(deck, two)
    assert (await deck.ok("GET", "audit/verify"))["ok"]


async def test_refusals_name_releases_as_people_do(deck: Deck, join: Join) -> None:
    await deck.tenant()
    one, two = await deck.release(seed=1), await deck.release(seed=2)
    await join("n1")
    await deck.promote(one)
    await deck.promote(two)
    body = {**await deck.rollback_body(), "to": two}
    problem = await deck.refused(409, "target_changed", "POST", f"{ROUTE}/rollback", body)
    assert problem.title == f"R now goes to v1 ({one[:6]}); the request names v2 ({two[:6]})"
    await deck.rollback()
    problem = await deck.refused(409, "quarantined", "POST", f"{ROUTE}/promote", promotion(deck, two))
    assert problem.title == f"v2 ({two[:6]}) is quarantined on acme/production"
    assert f"loradeck lift acme/production {two[:6]} --reason" in problem.fix


def promotion(deck: Deck, release: str) -> dict[str, Any]:
    generation = deck.hub.log.state.pointers[ACME].generation
    return {"release": release, "expected_generation": generation, "idempotency_key": key()}
