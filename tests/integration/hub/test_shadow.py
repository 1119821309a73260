"""A shadow at a hub: consent, what nodes are told, what is shown of its answers, and what guard does about bad ones."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import Deck
from tests.fleets.waiting import until
from tests.integration.hub.conftest import Join
from tests.integration.hub.test_candidates import body, call, pointer, step
from tests.integration.hub.test_moves import ROUTE

from loradeck.schemas.counts import AskedAgain
from loradeck.schemas.flag import FlagCause, FlagRecord, FlagState
from loradeck.schemas.log import EventKind

USES = {"uses": {"shadow": {"purpose": "to compare v3"}}}


async def allow(deck: Deck, *, shadow: bool = True) -> None:
    policy = await deck.ok("GET", "tenants/acme")
    await deck.ok("PUT", "tenants/acme/data-policy?reason=they+agreed", {**policy["data"], "shadow": shadow, **USES})


async def live(deck: Deck, join: Join, **settings: Any) -> tuple[LinkedAgent, str, str]:
    """acme on v2 over v1 on one node, with v3 registered, and shadows allowed."""
    await deck.tenant(**settings)
    one, two, other = [await deck.release(seed=seed) for seed in (1, 2, 3)]
    agent = await join("n1")
    await deck.promote(one)
    await deck.promote(two)
    await allow(deck)
    return agent, two, other


async def pairs(agent: LinkedAgent, two: str, other: str, *, live: int, shadow: int, n: int = 200, **more: Any) -> None:
    """Reports what the shadow, and the live release a second time, made of requests that were asked again."""
    row = agent.served().model_copy(
        update={
            **dict.fromkeys(("attempted", "admitted", "finished", "checked"), 10 * n),
            "callers": 24,
            "tokens": 300 * 10 * n,
            "again": AskedAgain(release=other, asked=n, pairs=n, checked=n, bad=(live, shadow)),
            "noise": AskedAgain(release=two, asked=40, shed=2, pairs=40, checked=40, bad=(1, 2)),
            **more,
        }
    )
    await agent.report(row)


async def test_it_needs_the_tenants_consent_and_is_asked_nothing_once_that_ends(deck: Deck, join: Join) -> None:
    agent, two, other = await live(deck, join)
    await allow(deck, shadow=False)
    asked = body(deck, release=other, shadow=True, permille=100)
    refused = await deck.refused(409, "shadow_not_allowed", "POST", f"{ROUTE}/candidate/start", asked)
    assert "loradeck tenant data acme --shadow" in refused.fix
    await allow(deck)
    data = (await deck.ok("GET", "tenants/acme"))["data"]
    await deck.ok("PUT", "tenants/acme/data-policy", {**data, "uses": {}})
    await deck.refused(409, "use_not_allowed", "POST", f"{ROUTE}/candidate/start", asked)
    await allow(deck)
    await call(deck, "start", release=other, shadow=True, permille=100)
    out = agent.entry.candidate
    assert out is not None
    assert (out.release.id, out.shadow, out.permille, agent.entry.current.id if agent.entry.current else "") == (
        other,
        True,
        100,
        two,
    )
    await allow(deck, shadow=False)
    await until(lambda: agent.entry.candidate is not None and not agent.entry.candidate.permille, "it is asked nothing")
    wider = body(deck, permille=200, expected_step=0)
    await deck.refused(409, "shadow_not_allowed", "POST", f"{ROUTE}/candidate/step", wider)
    await step(deck, 50)
    await allow(deck)
    await until(lambda: agent.entry.candidate is not None and agent.entry.candidate.permille == 50, "and then again")


async def test_its_answers_are_shown_beside_the_live_ones_with_the_noise_and_the_cost(deck: Deck, join: Join) -> None:
    agent, two, other = await live(deck, join)
    await call(deck, "start", release=other, shadow=True, permille=100)
    await pairs(agent, two, other, live=2, shadow=6)
    await until(lambda: deck.hub.counts.live_total(pointer(deck).key, pointer(deck).generation, two).attempted, "seen")
    row = await deck.row()
    assert row.again is not None
    assert row.again.noise is not None
    assert (row.again.release.id, row.again.counts.bad, row.again.noise.bad) == (other, (2, 6), (1, 2))
    load = (await deck.ok("GET", f"{ROUTE}?shadow=100"))["shadow_load"]
    assert load["requests_per_s"] == pytest.approx(row.requests_per_s / 10, rel=0.1)
    assert load["tokens_per_s"] == pytest.approx(load["requests_per_s"] * 300, rel=0.05)
    assert (load["engines"], load["under_way"], row.shadow_load) == (1, 0, None)


async def test_r_pops_it_and_finish_makes_it_the_live_release(deck: Deck, join: Join) -> None:
    agent, two, other = await live(deck, join)
    await call(deck, "start", release=other, shadow=True, permille=100)
    await deck.ok("POST", f"{ROUTE}/rollback", body(deck, to=two))
    assert (pointer(deck).release, pointer(deck).candidate) == (two, None)
    assert [q.release for q in pointer(deck).quarantined] == [other]
    await deck.ok("POST", f"{ROUTE}/lift", {"release": other, "idempotency_key": "k" * 16, "reason": "it was not it"})
    await deck.ok("POST", f"{ROUTE}/hold", body(deck, held=False, reason="go on"))
    await call(deck, "start", release=other, shadow=True, permille=100)
    await call(deck, "finish", release=other)
    assert (pointer(deck).release, pointer(deck).candidate, agent.entry.candidate) == (other, None, None)


@pytest.mark.parametrize(
    ("live_bad", "guard", "does"),
    [(2, "rollback", "rolls back"), (58, "rollback", "holds"), (2, "hold", "holds"), (2, "alert", "says")],
)
async def test_guard_compares_a_shadow_with_the_live_answers_to_the_same(
    deck: Deck, join: Join, live_bad: int, guard: str, does: str
) -> None:
    agent, two, other = await live(deck, join, guard=guard)
    await call(deck, "start", release=other, shadow=True, permille=100)
    await pairs(agent, two, other, live=live_bad, shadow=60)
    await until(lambda: deck.hub.guard.said.get(pointer(deck).key) or pointer(deck).candidate is None, "guard looks")
    if does == "rolls back":
        await until(lambda: pointer(deck).candidate is None, "guard has taken it out")
        event = deck.hub.log.recent[-1]
        assert (event.kind, event.actor, pointer(deck).release) == (EventKind.ROLLBACK, "guard", two)
        assert [q.release for q in pointer(deck).quarantined] == [other]
        assert (event.payload["evidence"]["given"], event.payload["evidence"]["control"]) == ([60, 200], [2, 200])
    else:
        await until(lambda: pointer(deck).held == (does == "holds"), "guard does no more")
        assert pointer(deck).candidate is not None


async def test_a_few_bad_pairs_are_no_evidence(deck: Deck, join: Join) -> None:
    agent, two, other = await live(deck, join, guard="rollback")
    await call(deck, "start", release=other, shadow=True, permille=100)
    await pairs(agent, two, other, live=0, shadow=4, n=10)
    await until(lambda: deck.hub.counts.live_total(pointer(deck).key, pointer(deck).generation, two).attempted, "seen")
    deck.hub.guard.tick()
    assert (pointer(deck).held, deck.hub.guard.said) == (False, {})


async def test_guard_takes_no_live_release_out_for_what_its_shadow_did(deck: Deck, join: Join) -> None:
    agent, two, other = await live(deck, join, guard="rollback")
    await call(deck, "start", release=other, shadow=True, permille=100)
    its_own = FlagRecord(
        state=FlagState.RAISED, figure="bad", bad=400, n=1000, since_ms=0, cause=FlagCause.RELEASE, who="by n1 alone"
    )
    deck.hub.releases.record_flag(pointer(deck), two, its_own)
    await until(lambda: deck.hub.facts.is_breached(pointer(deck), two), "the live release is breached")
    bad = {"votes": tuple((second, 100, 0, 100, 40) for second in range(100, 110)), "bad": 800}
    await pairs(agent, two, other, live=40, shadow=120, **bad)
    await until(lambda: pointer(deck).held, "guard holds")
    row = await deck.row()
    assert row.preview.target is not None
    assert row.preview.target.id not in (two, other), "R would leave the live release, which is breached"
    assert (row.pointer.release, row.pointer.candidate is not None) == (two, True)
    assert "R would ask: it leaves the live release too" in row.guard


async def test_pairs_with_another_release_than_the_shadow_are_nobodys(deck: Deck, join: Join) -> None:
    agent, two, other = await live(deck, join, guard="rollback")
    await call(deck, "start", release=other, shadow=True, permille=100)
    await pairs(agent, two, pointer(deck).beneath[0], live=0, shadow=200)
    await until(lambda: deck.hub.counts.live_total(pointer(deck).key, pointer(deck).generation, two).attempted, "seen")
    deck.hub.guard.tick()
    assert ((await deck.row()).again, pointer(deck).held, deck.hub.guard.said) == (None, False, {})
