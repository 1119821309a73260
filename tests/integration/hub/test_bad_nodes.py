"""A node that answers badly for everybody on it is cordoned by guard, and no other one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import Deck
from tests.fleets.waiting import until
from tests.integration.hub.conftest import Join

from loradeck.hub.fleet.node import Node
from loradeck.hub.recovery.moves_allowed import MovesAllowed
from loradeck.schemas.counts import Traffic
from loradeck.schemas.log import FLEET, EventKind

TENANTS = ("acme", "zeta")


async def fleet(deck: Deck, join: Join, **settings: Any) -> list[LinkedAgent]:
    """Three nodes that serve two tenants, whose routes have just moved forward."""
    agents = [await join(name) for name in ("n1", "n2", "n3")]
    for number, tenant in enumerate(TENANTS):
        await deck.tenant(tenant, **settings)
        for seed in (1, 2):
            await deck.promote(await deck.release(tenant, seed=2 * number + seed), tenant)
    return agents


def stint(deck: Deck, tenant: str) -> tuple[int, str]:
    pointer = deck.hub.log.state.pointers[tenant, "production"]
    return pointer.generation, pointer.release or ""


async def report(
    deck: Deck, agents: list[LinkedAgent], bad: Mapping[str, Mapping[str, int]], units: int = 10, *, times: int = 1
) -> None:
    """Reports ten seconds of so many units of each tenant's live release on each node; they may only grow.

    `times`: as many units of the last tenant on the last node.

    `bad`: tenant -> node -> bad ones of each second there; the nodes that are not named answer well.
    """
    for agent in reversed(agents):
        rows = []
        for tenant in TENANTS:
            generation, release = stint(deck, tenant)
            worse = bad[tenant].get(agent.name, 0)
            n = units * times if (tenant, agent.name) == (TENANTS[-1], agents[-1].name) else units
            row = {"tenant": tenant, "route": "production", "generation": generation, "release": release}
            counts = dict.fromkeys(("attempted", "admitted", "finished", "checked"), 10 * n)
            votes = tuple((second, n, 0, n, worse) for second in range(100, 110))
            rows.append(
                Traffic(**row, **counts, replica=agent.replica.replica, bad=10 * worse, votes=votes, callers=24)
            )
        await agent.report(*rows)


async def test_it_is_cordoned_with_the_evidence_in_an_event_and_let_in_again_by_a_person(
    deck: Deck, join: Join, caplog: pytest.LogCaptureFixture
) -> None:
    agents = await fleet(deck, join, guard="rollback")
    await report(deck, agents, {tenant: {"n1": 6} for tenant in TENANTS})
    node = deck.hub.fleet.nodes["n1"]
    await until(lambda: node.cordoned, "guard cordons it")
    (event,) = [event for event in deck.hub.log.recent if event.kind is EventKind.NODE_CORDON]
    assert (event.tenant, event.actor, event.where) == (FLEET, "guard", "node n1")
    assert event.reason == "guard: bad 60.0% of 200 there for 2 tenants, 0.0% of 400 on 2 other nodes"
    assert event.payload["evidence"]["witnesses"] == 2
    row = await deck.ok("GET", "nodes")
    assert [(one["node"], one["cordoned"], bool(one.get("cordoned_for"))) for one in row] == [
        ("n1", True, True),
        ("n2", False, False),
        ("n3", False, False),
    ]
    assert all(deck.hub.log.state.pointers[tenant, "production"].held is False for tenant in TENANTS), "no release is"
    await deck.ok("POST", "nodes/n1/uncordon")
    assert not deck.hub.fleet.cordoned_by_guard()
    assert Node.of("n1", node.kept()).blamed_ms == node.blamed_ms, "a hub that starts again knows it"
    assert deck.hub.guard.bad_nodes._found(node, "bad") is None
    assert "within the day, and somebody has let it in again" in caplog.messages[-1]


async def test_one_node_that_says_it_answers_much_and_well_has_no_honest_one_cordoned(deck: Deck, join: Join) -> None:
    agents = await fleet(deck, join, guard="rollback")
    honest = {"n1": 15, "n2": 15}  # a release that is bad everywhere, and one that is well everywhere
    await report(deck, agents, {"acme": honest, "zeta": {"n1": 1, "n2": 1}}, 50, times=100)
    guard, key = deck.hub.guard, ("acme", "production")
    heard = partial(deck.hub.votes.last_minute, key, stint(deck, "acme"), "bad")
    await until(lambda: [heard().get(name) for name in honest] == [(150, 500)] * 2, "all have been heard")
    guard.tick()
    assert key in guard.said, "guard has looked at the release"
    for name in ("n1", "n2"):
        assert guard.bad_nodes._found(deck.hub.fleet.nodes[name], "bad") is None
    assert not deck.hub.fleet.cordoned_by_guard()


async def test_it_is_not_cordoned_while_anything_speaks_against_that(
    deck: Deck, join: Join, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    agents = await fleet(deck, join, guard="rollback")
    node, n2, n3 = (deck.hub.fleet.nodes[name] for name in ("n1", "n2", "n3"))
    guard, order = deck.hub.guard, deck.hub.fleet.order

    def found() -> bool:
        """Whether guard would cordon it, now that it looks again."""
        guard.bad_nodes._looked.clear()
        guard.tick()
        return guard.bad_nodes._found(node, "bad") is not None and "n1" in guard.bad_nodes._looked

    def said(why: str) -> bool:
        return why in [said.getMessage() for said in caplog.records if "cordons" in said.getMessage()][-1]

    await report(deck, agents, {"acme": {"n1": 6}, "zeta": {}})
    await until(lambda: "n1 alone says so" in guard.said.get(("acme", "production"), ""), "guard has looked")
    assert not found(), "zeta is answered well there"
    order(n2, cordoned=True, drained=None)
    order(n3, cordoned=True, drained=None)
    await report(deck, agents, {"acme": {"n1": 12}, "zeta": {"n1": 8}}, units=20)
    heard = partial(deck.hub.votes.last_minute, ("zeta", "production"), stint(deck, "zeta"), "bad")
    await until(lambda: heard().get("n1", (0, 0))[0], "heard")
    assert not found()
    assert said("it is the last node in use of acme/production")
    order(n3, cordoned=False, drained=None)
    deck.hub.fleet.cordon_bad(n2, "found before", deck.hub.clock.now_ms())
    assert not found()
    assert said("guard has cordoned n2, and nobody has let it in again")
    order(n2, cordoned=False, drained=None)
    with monkeypatch.context() as settles:
        settles.setattr(MovesAllowed, "refusing", "settling")
        assert guard.bad_nodes._found(node, "bad") is None
        assert said("the hub settles")
    for tenant in TENANTS:
        await deck.tenant(tenant, guard="alert")
    assert not found(), "nobody has asked guard to act"
    assert not node.cordoned
    assert not [event for event in deck.hub.log.recent if event.kind is EventKind.NODE_CORDON]
    await deck.tenant("acme", guard="hold")
    guard.bad_nodes._looked.clear()
    await until(lambda: node.cordoned, "nothing else was in the way")
