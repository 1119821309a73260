"""Routes of pools: the hub assigns them, each time by an event, and nobody leaves before others are ready."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import Deck, running
from tests.fleets.waiting import until
from tests.integration.hub.test_counting import lose
from tests.integration.hub.test_jobs import merge, merged

from loradeck.hub.automation import pooled_routes
from loradeck.hub.views import placements
from loradeck.schemas.capacity import CapacityPlan, CapacityRow
from loradeck.schemas.counts import ColdFigures
from loradeck.schemas.log import EventKind
from loradeck.schemas.moves import PromoteRequest
from loradeck.schemas.pool import PlacementExplained, PlacementPreview, PoolRow
from loradeck.schemas.replica_state import AckLevel, AckState
from loradeck.schemas.state import TenantRow


@pytest.fixture(autouse=True)
def quick_ticks() -> None:
    """A hub here looks as seldom as in the product: its own looks would come between the steps of a test."""


KEY = ("acme", "production")


def assigned(deck: Deck) -> set[str]:
    return {*deck.hub.log.state.tenants["acme"].assigned.get("production", ())}


async def placed(deck: Deck, *nodes: str) -> None:
    def there() -> bool:
        deck.hub.pooled_routes.tick()
        return assigned(deck) == {*nodes}

    await until(there, f"acme is assigned to {nodes}")


async def pooled(deck: Deck, replicas: int = 1) -> dict[str, LinkedAgent]:
    """Three nodes in a pool, and acme's v2 with v1 beneath it on as many of them as it asks for."""
    agents = {name: await LinkedAgent(deck, name, site="eu").join() for name in ("n1", "n2", "n3")}
    await deck.ok("PUT", "pools/eu", {"labels": {"site": "eu"}})
    await deck.tenant(pool={"pool": "eu", "replicas": replicas})
    await until(lambda: deck.hub.pooled_routes.tick() or len(assigned(deck)) == replicas, "it is assigned")
    for seed in (1, 2):
        await deck.promote(await deck.release(seed=seed))
    return agents


async def test_a_pool_is_set_changed_and_removed_by_events_and_not_while_a_route_is_in_it(deck: Deck) -> None:
    await LinkedAgent(deck, "n1", site="eu").join()
    made = await deck.ok("PUT", "pools/eu?reason=first", {"labels": {"site": "eu"}})
    assert ([node["node"] for node in made["nodes"]], made["routes"]) == (["n1"], 0)
    await deck.refused(409, "no_change", "PUT", "pools/eu", {"labels": {"site": "eu"}})
    await deck.refused(404, "unknown_base", "PUT", "pools/eu", {"base": "0" * 64})
    assert (await deck.ok("PUT", "pools/eu", {"hardware": "h100"}))["nodes"] == []
    await deck.tenant()
    await deck.refused(404, "unknown_pool", "PUT", "tenants/acme/routes/production", {"pool": {"pool": "us"}})
    both = {"pool": {"pool": "eu"}, "placement": {"site": "eu"}}
    await deck.refused(422, "invalid_request", "PUT", "tenants/acme/routes/production", both)
    await deck.refused(
        422, "invalid_request", "PUT", "tenants/acme/routes/production", {"pool": {"pool": "eu"}, "min_replicas": 2}
    )
    await deck.tenant(pool={"pool": "eu"})
    await deck.refused(409, "pool_in_use", "DELETE", "pools/eu")
    await deck.tenant()
    await deck.ok("DELETE", "pools/eu?reason=unused")
    await deck.refused(404, "unknown_pool", "GET", "pools/eu")
    events = [event for event in deck.hub.log.recent if event.kind is EventKind.POOL]
    assert [(event.where, event.reason) for event in events] == [
        ("pool eu", "first"),
        ("pool eu", ""),
        ("pool eu", "unused"),
    ]
    assert (await deck.ok("GET", "audit/verify"))["ok"]


async def test_a_lost_nodes_route_is_taken_over_and_its_node_is_counted_until_its_tombstone(data: Path) -> None:
    async with running(data) as deck:
        agents = await pooled(deck)
        (first,) = assigned(deck)
        others = [agent for name, agent in agents.items() if name != first]
        for other in others:
            other.acknowledges = False
        await lose(deck, agents[first])
        await until(lambda: deck.hub.pooled_routes.tick() or len(assigned(deck)) == 2, "another joins")
        assert first in assigned(deck), "it stays until the other is ready"
        (second,) = assigned(deck) - {first}
        joins = agents[second]
        joins.acknowledges = True
        await until(lambda: KEY in joins.entries, "it has the entry")
        await joins.acknowledge(joins.entry)
        await placed(deck, second)
        row = await deck.row()
        assert [(r.replica, r.withdrawn) for r in row.replicas] == [(second, False), (first, True)]
        assert (row.flipped, row.placed) == (1, 2), "the lost one may answer on with what it holds"
        event = [event for event in deck.hub.log.recent if event.kind is EventKind.ASSIGN][-2]
        assert (event.actor, event.reason) == ("placement", f"{second} to serve it: {first} is lost")
    async with running(data) as deck:
        await joins.rejoin(deck)
        await agents[first].rejoin(deck)
        assert agents[first].entry.current is None, "a hub that was started again has its tombstone for it"
        await until(lambda: len(deck.hub.replicas.placed(KEY)) == 1, "it has left the count")


async def test_a_node_that_comes_back_before_another_is_ready_keeps_its_route(deck: Deck) -> None:
    agents = await pooled(deck)
    (first,) = assigned(deck)
    for name, agent in agents.items():
        agent.acknowledges = name == first
    await lose(deck, agents[first])
    await until(lambda: deck.hub.pooled_routes.tick() or len(assigned(deck)) == 2, "another joins")
    await agents[first].join()
    await placed(deck, first)


async def test_what_a_node_proved_when_it_served_a_route_before_makes_it_not_ready_again(deck: Deck) -> None:
    agents = await pooled(deck)
    (first,) = assigned(deck)
    await lose(deck, agents[first])
    await until(lambda: deck.hub.pooled_routes.tick() or first not in assigned(deck), "another has taken over")
    await agents[first].join()
    assert agents[first].entry.current is None
    await until(lambda: len(deck.hub.replicas.placed(KEY)) == 1, "its tombstone is acknowledged")
    (second,) = assigned(deck)
    agents[first].acknowledges = False
    for name in {*agents} - {first}:
        await deck.ok("POST", f"nodes/{name}/drain")
    await until(lambda: deck.hub.pooled_routes.tick() or assigned(deck) == {first, second}, "it is to serve it again")
    deck.hub.pooled_routes.tick()
    assert deck.hub.replicas.ready(KEY) == {second}, "it has the same generation to load and prove anew"
    await until(lambda: agents[first].entry.current is not None, "it has the entry")
    agents[first].acknowledges = True
    await agents[first].acknowledge(agents[first].entry)
    await placed(deck, first)


async def test_a_drained_nodes_route_is_served_elsewhere_before_it_leaves(deck: Deck) -> None:
    agents = await pooled(deck, replicas=2)
    before = assigned(deck)
    (spare,) = {*agents} - before
    agents[spare].acknowledges = False
    drained = min(before)
    await deck.ok("POST", f"nodes/{drained}/drain")
    await until(lambda: deck.hub.pooled_routes.tick() or assigned(deck) == {*agents}, "the spare joins")
    deck.hub.pooled_routes.tick()
    assert agents[drained].entry.current is not None, "and nobody leaves before it is ready"
    for name in agents:
        deck.hub.fleet.nodes[name].address = f"{name}:8000"
    (stays,) = before - {drained}
    served = deck.hub.gateways._served(KEY)
    assert (served[stays], served[spare]) == (AckLevel.HOST, AckLevel.ABSENT), "gateways ask it last until then"
    agents[spare].acknowledges = True
    await until(lambda: KEY in agents[spare].entries, "it has the entry")
    await agents[spare].acknowledge(agents[spare].entry)
    await placed(deck, *({*agents} - {drained}))
    await until(lambda: agents[drained].entry.current is None, "it has its tombstone")
    assert [n["trouble"] for n in (await deck.ok("GET", "pools/eu"))["nodes"] if n["node"] == drained] == ["drained"]


@pytest.mark.parametrize("slots", [4, 0])
async def test_an_on_demand_route_leaves_a_drained_node_loaded_and_proven_if_a_slot_is_free_for_it(
    deck: Deck, slots: int
) -> None:
    agents = {name: await LinkedAgent(deck, name, site="eu", slots=slots).join() for name in ("n1", "n2")}
    await deck.ok("PUT", "pools/eu", {"labels": {"site": "eu"}})
    await deck.tenant(pool={"pool": "eu"}, residency="on-demand")
    await until(lambda: deck.hub.pooled_routes.tick() or len(assigned(deck)) == 1, "it is assigned")
    await deck.promote(await deck.release())
    (first,) = assigned(deck)
    (second,) = {*agents} - {first}
    agents[second].acknowledges = False
    await deck.ok("POST", f"nodes/{first}/drain")
    await until(lambda: deck.hub.pooled_routes.tick() or assigned(deck) == {*agents}, "the other joins")
    await until(lambda: KEY in agents[second].entries, "it has the entry")
    await agents[second].ack(agents[second].entry, AckState.FLIPPED, level=AckLevel.DISK, code="not_ready")
    await until(lambda: deck.hub.replicas.acks(KEY).get(second), "it has flipped cold")
    if slots:
        assert deck.hub.replicas.ready(KEY) == {first}
        agents[second].acknowledges = True
        await agents[second].acknowledge(agents[second].entry)
    await placed(deck, second)


async def test_a_route_that_comes_into_a_pool_stays_where_it_is_until_its_nodes_are_ready(deck: Deck) -> None:
    agents = {name: await LinkedAgent(deck, name, site="eu").join() for name in ("n1", "n2", "n3")}
    await deck.ok("PUT", "pools/eu", {"labels": {"site": "eu"}})
    await deck.tenant()
    await deck.promote(await deck.release())
    await deck.tenant(pool={"pool": "eu"})
    assert deck.hub.log.recent[-1].kind is EventKind.ASSIGN
    await until(lambda: deck.hub.pooled_routes.tick() or len(assigned(deck)) == 1, "one of three is left")
    for name in {*agents} - assigned(deck):
        await until(lambda name=name: agents[name].entry.current is None, f"{name} has its tombstone")
    await until(lambda: len(deck.hub.replicas.placed(KEY)) == 1, "both have left the count")
    await deck.tenant()
    await until(lambda: all(agent.entry.current is not None for agent in agents.values()), "it is everywhere again")
    assert deck.hub.log.state.tenants["acme"].assigned == {}


async def test_a_placement_is_explained_and_what_would_move_is_shown_before_it_does(deck: Deck) -> None:
    agents = await pooled(deck)
    (first,) = assigned(deck)
    found = PlacementExplained.model_validate(await deck.ok("GET", "tenants/acme/routes/production/placement"))
    assert [choice.node for choice in found.choices if choice.serves and choice.assigned] == [first]
    assert {choice.node for choice in found.choices} == {*agents}
    assert [choice.distance for choice in found.choices] == sorted(choice.distance for choice in found.choices)
    await deck.ok("POST", f"nodes/{found.choices[-1].node}/cordon")
    deck.hub.pooled_routes.tick()
    found = PlacementExplained.model_validate(await deck.ok("GET", "tenants/acme/routes/production/placement"))
    assert list(found.out.values()) == ["cordoned"]
    await deck.tenant("bolt")
    await deck.refused(409, "not_pooled", "GET", "tenants/bolt/routes/production/placement")
    rev = deck.hub.log.state.rev
    gone = PlacementPreview.model_validate(await deck.ok("GET", f"placement?without={first}"))
    (move,) = gone.moves
    assert (move.tenant, move.leaves, gone.total) == ("acme", (first,), 1)
    assert {node.node: node.routes for node in gone.nodes}[move.joins[0]] == (0, 1)
    more = PlacementPreview.model_validate(await deck.ok("GET", "placement?slots=1000&pool=eu"))
    assert {node.node: node.slots for node in more.nodes}["one-more"] == 1000
    await deck.refused(404, "unknown_node", "GET", "placement?without=n9")
    await deck.refused(404, "unknown_pool", "GET", "placement?slots=4&pool=us")
    assert deck.hub.log.state.rev == rev


async def test_a_preview_says_who_would_be_cold_where_slots_are_short(deck: Deck) -> None:
    for name in ("n1", "n2"):
        await LinkedAgent(deck, name, site="eu", slots=2).join()
    await deck.ok("PUT", "pools/eu", {"labels": {"site": "eu"}})
    for n in range(4):
        await deck.tenant(f"t{n}", pool={"pool": "eu"}, residency="on-demand")
    await until(
        lambda: (
            deck.hub.pooled_routes.tick()
            or all(deck.hub.log.state.tenants[f"t{n}"].assigned.get("production") for n in range(4))
        ),
        "all are assigned",
    )
    for n in range(4):
        await deck.promote(await deck.release(f"t{n}"), f"t{n}")
    deck.hub.pooled_routes.tick()
    now = PlacementPreview.model_validate(await deck.ok("GET", "placement?slots=8"))
    assert sum(node.cold[0] for node in now.nodes) == 0
    gone = PlacementPreview.model_validate(await deck.ok("GET", "placement?without=n2"))
    assert len(gone.colder) == 2, "four live releases on a node with two slots"
    assert {node.node: node.cold for node in gone.nodes}["n1"] == (0, 2)
    assert gone.warmer == ()
    more = PlacementPreview.model_validate(await deck.ok("GET", "placement?pool=eu&slots=4"))
    assert more.colder == ()


async def test_neither_a_move_nor_a_step_of_a_route_has_the_placement_of_all_computed_anew(deck: Deck) -> None:
    agents = await pooled(deck)
    (first,) = assigned(deck)
    planned = await deck.hub.pooled_routes.plan()
    await deck.promote(await deck.release(seed=3))
    assert await deck.hub.pooled_routes.plan() is planned
    await lose(deck, agents[first])
    planned = await deck.hub.pooled_routes.plan()
    await until(lambda: deck.hub.pooled_routes.tick() or first not in assigned(deck), "another has taken over")
    assert await deck.hub.pooled_routes.plan() is planned
    assert not deck.hub.pooled_routes.under_way


@pytest.mark.parametrize("overtaken", ["its nodes are drained", "it leaves the pool"])
async def test_a_plan_that_is_overtaken_while_it_is_made_is_not_carried_out(
    deck: Deck, monkeypatch: pytest.MonkeyPatch, overtaken: str
) -> None:
    agents = await pooled(deck)
    (first,) = assigned(deck)
    begun, go_on, compute = asyncio.Event(), asyncio.Event(), pooled_routes.assigned_beside

    async def held(*asked: Any) -> Any:
        begun.set()
        found = await compute(*asked)
        await go_on.wait()
        return found

    monkeypatch.setattr(pooled_routes, "assigned_beside", held)
    await lose(deck, agents[first])
    deck.hub.pooled_routes.tick()
    await begun.wait()
    if overtaken == "it leaves the pool":
        await deck.tenant()
    else:
        for name in {*agents} - {first}:
            await deck.ok("POST", f"nodes/{name}/drain")
    count, there = deck.hub.log.state.rev, assigned(deck)
    go_on.set()
    await until(lambda: deck.hub.pooled_routes.tick() or not deck.hub.pooled_routes._is_old, "it was planned anew")
    await until(lambda: not deck.hub.pooled_routes._acting, "what was to be done is done")
    assert (deck.hub.log.state.rev, assigned(deck)) == (count, there)


async def test_new_customers_of_a_pool_that_has_no_route_yet_are_planned(deck: Deck) -> None:
    for name in ("n1", "n2"):
        await LinkedAgent(deck, name, site="eu", slots=2).join()
    await deck.ok("PUT", "pools/eu", {"labels": {"site": "eu"}})
    for routes, short in ((4, ()), (6, ("n1", "n2"))):
        found = CapacityPlan.model_validate(await deck.ok("GET", f"pools/eu/capacity?routes={routes}"))
        assert (found.short, found.total, found.resident) == (short, 0, (None, None))


async def on_demand(deck: Deck, count: int, slots: int, *nodes: str) -> dict[str, LinkedAgent]:
    """So many tenants on demand, with a live release each, in a pool of these nodes."""
    agents = {name: await LinkedAgent(deck, name, site="eu", slots=slots).join() for name in nodes}
    await deck.ok("PUT", "pools/eu", {"labels": {"site": "eu"}})
    names = [f"t{n}" for n in range(count)]
    for name in names:
        await deck.tenant(name, pool={"pool": "eu"}, residency="on-demand")
    tenants = deck.hub.log.state.tenants
    await until(
        lambda: deck.hub.pooled_routes.tick() or all(tenants[name].assigned for name in names), "all are assigned"
    )
    for name in names:
        await deck.promote(await deck.release(name), name)
    return agents


async def test_new_customers_are_planned_with_who_pays_by_measured_traffic_and_what_a_node_would_buy(
    deck: Deck, monkeypatch: pytest.MonkeyPatch
) -> None:
    await on_demand(deck, 4, 4, "n1")
    traffic = {(f"t{n}", "production"): 10.0 * (n + 1) for n in range(4)}
    monkeypatch.setattr(deck.hub.usual_shares, "requests", traffic.get)
    entries = deck.hub.tables.entries
    for key, entry in list(entries.items()):  # as if they had moved long ago
        entries[key] = entry.model_copy(update={"moved_ms": 0})
    rev = deck.hub.log.state.rev
    found = CapacityPlan.model_validate(await deck.ok("GET", "pools/eu/capacity?routes=2"))
    assert found.fits
    assert [(one.tenant, one.requests_h) for one in found.colder] == [("t1", 20.0), ("t0", 10.0)]
    assert found.resident == (1.0, 0.7)
    assert found.more is not None
    assert (found.more.slots, found.more.short, found.more.total, found.more.resident[1]) == (4, (), 0, 1.0)
    full = CapacityPlan.model_validate(await deck.ok("GET", "pools/eu/capacity?routes=3&always=true"))
    assert (full.short, full.fits) == (("n1",), False)
    await deck.ok("POST", "nodes/n1/drain")
    await deck.refused(409, "no_replica", "GET", "pools/eu/capacity?routes=1")
    await deck.refused(404, "unknown_pool", "GET", "pools/us/capacity?routes=1")
    assert deck.hub.log.state.rev == rev


async def test_a_promote_is_planned_and_its_preview_says_who_would_be_colder(deck: Deck) -> None:
    await on_demand(deck, 2, 2, "n1")
    await deck.tenant("new", pool={"pool": "eu"}, residency="on-demand")
    release = await deck.release("new")
    await until(
        lambda: deck.hub.pooled_routes.tick() or deck.hub.log.state.tenants["new"].assigned, "the new one is assigned"
    )
    found = CapacityPlan.model_validate(
        await deck.ok("GET", f"tenants/new/routes/production/capacity?promote={release}")
    )
    assert found.fits
    assert (found.total, [one.requests_h for one in found.colder], found.resident) == (1, [None], (None, None))
    assert found.more is not None
    assert (found.more.total, found.more.slots) == (0, 2)
    path = f"tenants/new/routes/production?promote={release}"
    row = TenantRow.model_validate(await deck.ok("GET", path))
    assert row.promote_fits is not None
    assert (row.promote_fits.total, row.promote_fits.more) == (1, None)
    theirs = TenantRow.model_validate(await deck.ok("GET", path, client=await deck.client_of("viewer", "new")))
    assert theirs.promote_fits is not None
    assert (theirs.promote_fits.total, theirs.promote_fits.colder) == (1, ()), "a tenant is told of no other by name"


async def test_capacity_is_what_nodes_and_pools_measured_and_unknown_where_nobody_says(deck: Deck) -> None:
    agents = await on_demand(deck, 2, 4, "n1", "n2")
    rows = [CapacityRow.model_validate(row) for row in await deck.ok("GET", "capacity")]
    assert [(row.name, row.pool, row.nodes, row.host) for row in rows] == [
        ("eu", True, (2, 2), (0, 8)),
        ("n1", False, (1, 1), (0, 4)),
        ("n2", False, (1, 1), (0, 4)),
    ]
    assert {(row.device, row.asked, row.hit_rate, row.minute) for row in rows} == {(None, None, None, None)}
    node = deck.hub.fleet.nodes["n1"]
    node.cold = ColdFigures(asked=100, cold=7, refused=3, minute=2, waiting=1)
    await lose(deck, agents["n2"])
    pool, first, second = [CapacityRow.model_validate(row) for row in await deck.ok("GET", "capacity")]
    assert (pool.nodes, pool.host, pool.minute, pool.waiting) == ((1, 2), (0, 4), 2, 1)
    assert pool.hit_rate == first.hit_rate == 0.9
    assert (second.nodes, second.of, second.host) == ((0, 1), "lost", (0, 4)), "what it said last"


async def test_a_tenant_over_its_quota_of_slots_sets_no_further_always_route(deck: Deck) -> None:
    for name in ("n1", "n2", "n3"):
        await LinkedAgent(deck, name, site="eu").join()
    await deck.ok("PUT", "pools/eu", {"labels": {"site": "eu"}})
    await deck.tenant(pool={"pool": "eu", "replicas": 2})
    use = await deck.ok("PUT", "tenants/acme/quota?reason=small", {"slots": 4})
    assert (use["slots"], use["quota"]["slots"]) == (4, 4)
    path, three = "tenants/acme/routes/staging", {"placement": {"site": "eu"}}
    problem = await deck.refused(409, "over_quota", "PUT", path, three)
    assert problem.detail == "10 slots of 4: 2 on each node of each `always` route, and 4 until now"
    await deck.ok("PUT", path, {**three, "residency": "on-demand"})
    await deck.refused(409, "over_quota", "PUT", path, three)
    await deck.tenant(pool={"pool": "eu", "replicas": 1})
    assert (await deck.ok("GET", "tenants/acme/quota"))["slots"] == 2


async def test_a_tenant_is_told_of_no_node_that_one_more_node_would_leave_short_and_plans_are_made_in_turn(
    deck: Deck, monkeypatch: pytest.MonkeyPatch
) -> None:
    await LinkedAgent(deck, "n1", site="eu", slots=1).join()
    await deck.ok("PUT", "pools/eu", {"labels": {"site": "eu"}})
    await deck.tenant(pool={"pool": "eu"})
    await until(lambda: deck.hub.pooled_routes.tick() or assigned(deck), "it is assigned")
    await deck.promote(await deck.release())
    compute, under_way, most = placements.assigned_beside, 0, 0

    async def counted(*asked: Any) -> Any:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        found = await compute(*asked)
        for _ in range(10):
            await asyncio.sleep(0)
        under_way -= 1
        return found

    monkeypatch.setattr(placements, "assigned_beside", counted)
    path = f"tenants/acme/routes/production/capacity?promote={await deck.release(seed=2)}"
    theirs = await deck.client_of("viewer", "acme")
    every = CapacityPlan.model_validate(await deck.ok("GET", path))
    some = CapacityPlan.model_validate(await deck.ok("GET", path, client=theirs))
    await asyncio.gather(*(deck.hub.placements.otherwise("eu") for _ in range(3)))
    assert most == 1
    assert (every.short, some.short) == (("n1",), ("n1",))
    assert every.more is not None
    assert not every.more.fits
    assert some.more is None


async def test_merged_weights_are_served_as_a_SKU_on_the_replicas_that_run_them_and_take_no_slot(deck: Deck) -> None:
    await deck.tenant()
    release = await deck.release()
    adapter = deck.hub.catalogue.releases[release].adapter
    assert adapter is not None
    merging = await LinkedAgent(deck, "n1", site="eu").join()
    said = merged(release, adapter)
    sku, weights = said["report"]["release"], said["report"]["merged"]
    assert (await merge(deck, merging, release, said))["result"]["label"] == "v1m"
    runs = {name: await LinkedAgent(deck, name, site="eu", base=weights, slots=0).join() for name in ("m1", "m2")}
    row = PoolRow.model_validate(await deck.ok("PUT", "pools/support", {"labels": {"site": "eu"}, "base": weights}))
    assert (row.sku, [node.node for node in row.nodes]) == ("acme v1m", ["m1", "m2"])
    await deck.ok("PUT", "tenants/acme/quota", {"slots": 2})  # what its production keeps on n1
    await deck.tenant(route="support", pool={"pool": "support", "replicas": 2})
    tenant = deck.hub.log.state.tenants
    await until(lambda: deck.hub.pooled_routes.tick() or tenant["acme"].assigned.get("support"), "it is assigned")
    assert set(tenant["acme"].assigned["support"]) == {*runs}
    body = PromoteRequest(release=sku, expected_generation=0, idempotency_key="key-of-sku").model_dump(mode="json")
    await deck.ok("POST", "tenants/acme/routes/support/promote?wait=proven&timeout=60", body)
    assert all(agent.entries["acme", "support"].current is not None for agent in runs.values())
    (shown,) = [row for row in await deck.ok("GET", "capacity") if row["name"] == "support"]
    assert (shown["of"], shown["routes"], shown["host"]) == ("acme v1m", 1, [0, 0])
    await lose(deck, runs["m1"])
    explained = await deck.ok("GET", "tenants/acme/routes/support/placement")
    assert [choice["node"] for choice in explained["choices"]] == ["m2"]
    assert (explained["out"], explained["sku"]) == ({"m1": "lost"}, "acme v1m")


async def test_a_promote_that_does_not_fit_names_every_node_and_one_more_node_would_hold_the_same(deck: Deck) -> None:
    for name in ("n1", "n2"):
        await LinkedAgent(deck, name, slots=2).join()
    for tenant in ("acme", "bolt"):
        await deck.tenant(tenant)
        await deck.promote(await deck.release(tenant), tenant)
    release = await deck.release("acme", seed=2)
    path = f"tenants/acme/routes/production/capacity?promote={release}"
    found = CapacityPlan.model_validate(await deck.ok("GET", path))
    assert (found.short, found.fits, found.more) == (("n1", "n2"), False, None)


async def test_a_pool_stays_in_the_region_in_which_its_tenants_let_answers_be_judged(deck: Deck) -> None:
    await deck.tenant()
    release, policy = await deck.release(seed=1), "tenants/acme/data-policy?reason=a contract"
    await deck.ok("PUT", policy, {"uses": {"judge": {"purpose": "quality", "region": "eu"}}})
    await deck.ok("PUT", "pools/eu", {"labels": {"region": "eu", "site": "a"}})
    judge = {"rubric": "It is polite.", "release": release, "per_minute": 3}
    await deck.tenant(pool={"pool": "eu", "replicas": 1}, checks={"judge": judge})
    await deck.refused(409, "wrong_region", "PUT", "pools/eu", {"labels": {"region": "us", "site": "a"}})
    await deck.ok("PUT", "pools/eu", {"labels": {"region": "eu", "site": "b"}})
