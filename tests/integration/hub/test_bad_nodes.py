"""A node that answers badly for everybody on it is cordoned by guard, and no other one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from tests.fakes.hub_in_process import Deck, until
from tests.fakes.linked_agent import FakeAgent
from tests.integration.hub.conftest import Join

from loradeck.schemas.log import FLEET, EventKind
from loradeck.schemas.traffic import Traffic

TENANTS = ("acme", "zeta")


async def fleet(deck: Deck, join: Join, **settings: Any) -> list[FakeAgent]:
    """Three nodes that serve two tenants, whose routes have just moved forward."""
    agents = [await join(name) for name in ("n1", "n2", "n3")]
    for number, tenant in enumerate(TENANTS):
        await deck.tenant(tenant, **settings)
        for seed in (1, 2):
            await deck.promote(await deck.release(tenant, seed=2 * number + seed), tenant)
    return agents


def answered(deck: Deck, agent: FakeAgent, tenant: str, bad: int) -> Traffic:
    """Ten seconds of ten units, of which so many were bad, of a tenant's live release."""
    pointer = deck.hub.log.state.pointers[tenant, "production"]
    row = {"tenant": tenant, "route": "production", "generation": pointer.generation, "release": pointer.release}
    counts = dict.fromkeys(("attempted", "admitted", "finished", "checked"), 100)
    votes = tuple((second, 10, 0, 10, bad) for second in range(100, 110))
    return Traffic(**row, **counts, replica=agent.replica.replica, bad=10 * bad, votes=votes, callers=24)


async def report(deck: Deck, agents: list[FakeAgent], bad: Mapping[str, Mapping[str, int]]) -> None:
    """`bad`: tenant -> node -> bad ones of ten units a second there; the nodes that are not named answer well."""
    for agent in reversed(agents):
        await agent.report(*(answered(deck, agent, tenant, bad[tenant].get(agent.node, 0)) for tenant in TENANTS))


async def test_it_is_cordoned_with_the_evidence_in_an_event_and_let_in_again_by_a_person(
    deck: Deck, join: Join
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
    deck.hub.guard._bad_nodes._looked.clear()
    deck.hub.guard.tick()
    assert not node.cordoned, "whoever lets it in again has seen that"


@pytest.mark.parametrize(
    ("bad", "settings", "without"),
    [
        ({"acme": {"n1": 6}, "zeta": {}}, {"guard": "rollback"}, ""),  # zeta is answered well there
        ({"acme": {"n1": 6}, "zeta": {"n1": 6}}, {"guard": "alert"}, ""),
        ({"acme": {"n1": 6}, "zeta": {"n1": 6}}, {"guard": "rollback"}, "n3"),  # one node's word against another's
        ({"acme": {"n1": 6}, "zeta": {"n1": 6}}, {"guard": "rollback"}, "use"),  # the last one in use
        ({"acme": {"n1": 6}, "zeta": {"n1": 6}}, {"guard": "rollback"}, "guard"),  # another one is out already
    ],
)
async def test_it_is_not_cordoned(
    deck: Deck, join: Join, bad: Mapping[str, Mapping[str, int]], settings: dict[str, str], without: str
) -> None:
    agents = await fleet(deck, join, **settings)
    others = [deck.hub.fleet.nodes[name] for name in ("n2", "n3")]
    if without == "use":
        for node in others:
            deck.hub.fleet.order(node, cordoned=True, drained=None)
    elif without == "guard":
        deck.hub.fleet.cordon_bad(others[0], "found before")
    await report(deck, agents[:2] if without == "n3" else agents, bad)
    await until(lambda: "n1 alone says so" in deck.hub.guard.said.get(("acme", "production"), ""), "guard has looked")
    assert not deck.hub.fleet.nodes["n1"].cordoned
    assert not [event for event in deck.hub.log.recent if event.kind is EventKind.NODE_CORDON]
