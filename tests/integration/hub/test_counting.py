"""Who belongs to a pointer's count: a replica that may still answer stays in it, whatever the hub would like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import Deck, feed, running, watch
from tests.fleets.waiting import until

from loradeck.rules.serving.counting import flip_counts
from loradeck.schemas.feed import FeedNodes, FeedTenants
from loradeck.schemas.replica_state import LINK_TTL_S, AckLevel, AckState
from loradeck.schemas.table import RouteResidency

EU: dict[str, Any] = {"site": "eu"}
US: dict[str, Any] = {"site": "us"}


async def lose(deck: Deck, agent: LinkedAgent) -> None:
    """The node is silent for longer than the TTL; it answers on with what it holds."""
    await agent.leave()
    node = deck.hub.fleet.nodes[agent.name]
    await until(lambda: node.link is None, "the link is down")
    node.heard = deck.hub.clock.monotonic() - LINK_TTL_S - 1
    deck.hub.fleet.started -= LINK_TTL_S + 1
    deck.hub.node_events.tick()
    assert node.lost


async def two_nodes(deck: Deck, **settings: Any) -> tuple[LinkedAgent, LinkedAgent]:
    """Two nodes in the EU that serve v2 of acme, with v1 beneath it."""
    await deck.tenant(placement=EU, **settings)
    one, two = [await LinkedAgent(deck, name, **EU).join() for name in ("n1", "n2")]
    for seed in (1, 2):
        await deck.promote(await deck.release(seed=seed))
    return one, two


async def counts(deck: Deck) -> tuple[int, int]:
    """(flipped, placed) of acme/production."""
    row = await deck.row()
    return row.flipped, row.placed


async def test_a_replica_whose_node_finds_it_silent_is_not_proven_until_it_answers(data: Path) -> None:
    async with running(data) as deck:
        one, _ = await two_nodes(deck)
        await deck.settled()
        assert (await deck.row()).proven == 2
        async with feed(deck, f"{deck.hub.log.state.epoch}:{deck.hub.log.state.rev}") as socket:
            alarm = "engine e0 has not answered for 8 s"
            answering, one.replica = one.replica, one.replica.model_copy(update={"answers": False, "alarm": alarm})
            await one.report()
            await watch(socket, lambda told: any(isinstance(m, FeedTenants) for m in told))
        row = await deck.row()
        assert (row.flipped, row.proven, row.placed, "UNPRVN" in row.flags) == (1, 1, 2, True)
        (silent,) = [replica for replica in row.replicas if replica.lost]
        assert (silent.replica, silent.code, silent.detail) == ("n1", "not_answering", alarm)
        one.replica = answering
        await one.report()
        await until(lambda: deck.hub.replicas.progress(("acme", "production")).proven == 2, "it counts again")
        assert "UNPRVN" not in (await deck.row()).flags


async def test_a_node_that_was_cut_off_when_its_route_moved_away_stays_in_the_count(data: Path) -> None:
    async with running(data) as deck:
        one, two = await two_nodes(deck)
        three = await LinkedAgent(deck, "n3", **US).join()
        await lose(deck, one)
        await deck.tenant(placement=US)
        await until(lambda: three.entries, "the route is placed on n3")
        result = await deck.rollback(wait="flipped")
        assert result.reached == "committed"
        await until(lambda: two.entry.current is None and two.entry.generation == 3, "n2 has its tombstone")
        await until(lambda: len(deck.hub.replicas.placed(("acme", "production"))) == 2, "n2 has left the count")
        assert await counts(deck) == (1, 2)
        assert [r.replica for r in (await deck.row()).replicas if r.withdrawn] == ["n1"]
    async with running(data) as deck:
        await three.rejoin(deck)
        await until(lambda: deck.hub.replicas.progress(("acme", "production")).flipped, "n3 is back")
        assert await counts(deck) == (1, 2)
        await one.rejoin(deck)
        assert one.entry.current is None
        await until(lambda: len(deck.hub.replicas.placed(("acme", "production"))) == 1, "n1 has left the count")
        assert await counts(deck) == (1, 1)
        await deck.hub.flush()
    async with running(data) as deck:
        assert (await deck.row()).placed == 1


async def test_a_node_that_comes_back_with_other_labels_counts_until_its_tombstone(data: Path) -> None:
    async with running(data) as deck:
        one, _ = await two_nodes(deck)
        one.acknowledges = False
        await one.relabelled(**US)
        assert one.entry.current is None
        assert await counts(deck) == (2, 2)
        await deck.rollback(wait="committed")
        await until(lambda: deck.hub.replicas.progress(("acme", "production")).flipped == 1, "n2 has flipped")
        assert await counts(deck) == (1, 2)
        await lose(deck, one)
    async with running(data) as deck:
        assert (await deck.row()).placed == 2
        one.acknowledges = True
        await one.rejoin(deck)
        await until(lambda: len(deck.hub.replicas.placed(("acme", "production"))) == 1, "n1 has left the count")


async def test_a_drained_node_that_falls_silent_stays_in_the_count(data: Path) -> None:
    async with running(data) as deck:
        one, _ = await two_nodes(deck)
        await deck.ok("POST", "nodes/n1/drain")
        await lose(deck, one)
        result = await deck.rollback(wait="flipped")
        assert result.reached == "committed"
        assert await counts(deck) == (1, 2)


async def test_an_acknowledgement_of_an_earlier_withdrawal_does_not_end_a_later_one(data: Path) -> None:
    async with running(data) as deck:
        one, _ = await two_nodes(deck)
        one.acknowledges = False
        await deck.tenant(placement=US)
        await until(lambda: one.entry.current is None, "the route is withdrawn")
        tombstone, rev = one.entry, one.rev
        await deck.tenant(placement=EU)
        await until(lambda: one.entry.current is not None, "the route is placed again")
        await deck.tenant(placement=US)
        await until(lambda: one.entry.current is None, "the route is withdrawn again")
        await until(lambda: len(deck.hub.replicas.placed(("acme", "production"))) == 1, "n2 has left the count")
        await one.ack(tombstone, AckState.FLIPPED, rev=rev)
        await one.report()
        await until(lambda: deck.hub.fleet.nodes["n1"].nvml, "the acknowledgement has come")
        assert (await deck.row()).placed == 1
        await one.ack(one.entry, AckState.FLIPPED, rev=one.rev)
        await until(lambda: not deck.hub.replicas.placed(("acme", "production")), "n1 has left the count")


async def test_a_node_is_known_by_its_labels_before_it_is_sent_a_table(data: Path) -> None:
    async with running(data) as deck:
        await deck.tenant(placement=EU)
        await LinkedAgent(deck, "n1", **EU).join()
        saved = await deck.hub.store(lambda s: s.nodes())
        assert saved["n1"]["labels"] == EU


FORGET = {"idempotency_key": "forget-n1-once", "reason": "its disk burned"}


async def test_a_forgotten_node_leaves_all_counts_and_is_an_ordinary_node_when_it_comes_back(data: Path) -> None:
    async with running(data) as deck:
        one, _ = await two_nodes(deck)
        problem = await deck.refused(409, "node_linked", "POST", "nodes/n1/forget", FORGET)
        assert "stop" in problem.fix
        await lose(deck, one)
        await deck.rollback(wait="flipped")
        assert await counts(deck) == (1, 2)
        result = await deck.ok("POST", "nodes/n1/forget", FORGET)
        (event,) = result["events"]
        assert (event["kind"], event["payload"], event["reason"]) == ("node_forget", {"node": "n1"}, "its disk burned")
        assert await counts(deck) == (1, 1)
        assert [node["node"] for node in await deck.ok("GET", "nodes")] == ["n2"]
        assert (await deck.ok("POST", "nodes/n1/forget", FORGET))["events"] == result["events"]
        await deck.refused(404, "unknown_node", "POST", "nodes/n1/forget", {**FORGET, "idempotency_key": "another-key"})
    async with running(data) as deck:
        assert [node["node"] for node in await deck.ok("GET", "nodes")] == ["n2"]
        await one.rejoin(deck)
        assert one.entry.generation == 3
        await until(lambda: deck.hub.replicas.progress(("acme", "production")).flipped, "n1 has flipped")
        assert await counts(deck) == (1, 2)


async def test_a_withdrawal_ends_with_its_forgotten_node(data: Path) -> None:
    async with running(data) as deck:
        one, _ = await two_nodes(deck)
        await lose(deck, one)
        await deck.tenant(placement=US)
        await until(lambda: len(deck.hub.replicas.placed(("acme", "production"))) == 1, "n2 has left the count")
        assert [r.replica for r in (await deck.row()).replicas] == ["n1"]
        await deck.ok("POST", "nodes/n1/forget", FORGET)
        assert (await deck.row()).replicas == ()
    async with running(data) as deck:
        assert (await deck.row()).replicas == ()


async def test_consoles_are_told_of_a_forgotten_node(data: Path) -> None:
    async with running(data) as deck:
        one, _ = await two_nodes(deck)
        await lose(deck, one)
        state = deck.hub.log.state
        async with feed(deck, f"{state.epoch}:{state.rev}") as socket:
            await deck.ok("POST", "nodes/n1/forget", FORGET)
            await watch(socket, lambda messages: any(isinstance(m, FeedNodes) and m.gone for m in messages))


async def test_a_flip_to_a_release_that_is_still_to_be_loaded_reads_cold(data: Path) -> None:
    async with running(data) as deck:
        await deck.tenant()
        agent = await LinkedAgent(deck, "n1").join()
        agent.proves = False
        await deck.promote(await deck.release(), wait="flipped")
        assert flip_counts(await deck.row()) == "FLIPPED 1/1"
        await agent.ack(agent.entry, AckState.FLIPPED, level=AckLevel.DISK, boot="b7", load=3)
        await until(lambda: deck.hub.replicas.acks(("acme", "production"))["n1"].level, "the level is known")
        row = await deck.row()
        (replica,) = row.replicas
        assert (replica.level, replica.cold, replica.boot, replica.load) == (AckLevel.DISK, True, "b7", 3)
        assert flip_counts(row) == "FLIPPED cold 1/1"
        flipped = row.source("flipped")
        assert flipped is not None
        assert (flipped.by, flipped.node, row.source("proven")) == ("acknowledgement", "n1", None)
        await agent.ack(agent.entry, AckState.PROVEN, level=AckLevel.HOST, boot="b7", load=3)
        await until(
            lambda: deck.hub.replicas.acks(("acme", "production"))["n1"].state is AckState.PROVEN, "it is proven"
        )
        row = await deck.row()
        proven = row.source("proven")
        assert flip_counts(row) == "FLIPPED 1/1"
        assert proven is not None
        assert (proven.by, proven.node) == ("probe", "n1")


async def test_r_asks_on_an_on_demand_route_whose_prior_is_cold_and_a_cold_flip_is_proven_no_more(data: Path) -> None:
    async with running(data) as deck:
        await deck.tenant(residency="on-demand")
        agent = await LinkedAgent(deck, "n1").join()
        for seed in (1, 2):
            await deck.promote(await deck.release(seed=seed))
        assert (agent.entry.residency, agent.entry.needs) == (RouteResidency.ON_DEMAND, ("on_demand",))
        row = await deck.row()
        assert (row.preview.asks, row.undo_asks) == ("prior cold", "cold"), "the node has not said what it holds"
        await agent.report()
        await until(lambda: deck.hub.fleet.nodes["n1"].replicas[0].loaded, "the hub knows what is loaded")
        row = await deck.row()
        assert (row.preview.asks, row.undo_asks) == (None, None)
        assert (row.proven, flip_counts(row)) == (1, "FLIPPED 1/1")
        await agent.ack(agent.entry, AckState.FLIPPED, level=AckLevel.DISK, code="not_ready")
        await until(
            lambda: deck.hub.replicas.acks(("acme", "production"))["n1"].state is not AckState.PROVEN, "it is cold"
        )
        row = await deck.row()
        assert (row.proven, row.replicas[0].code, flip_counts(row)) == (0, "not_ready", "FLIPPED cold 1/1")
        await agent.ack(agent.entry, AckState.FLIPPED, level=AckLevel.HOST)
        await until(lambda: deck.hub.replicas.acks(("acme", "production"))["n1"].code is None, "it is loaded")
        assert flip_counts(await deck.row()) == "FLIPPED 1/1"


def unaddressed(deck: Deck, node: str, seconds: float) -> None:
    """So long ago the hub last sent the node anything."""
    found = deck.hub.fleet.nodes[node]
    found.addressed = deck.hub.clock.monotonic() - seconds
    deck.hub.fleet.started -= seconds
    deck.hub.fleet.voids += 1  # counts are kept until a time that was computed before the clock was put on
    deck.hub.node_events.tick()


async def test_a_lost_node_leaves_the_count_when_its_refuse_after_has_run_out(data: Path) -> None:
    async with running(data) as deck:
        one, two = await two_nodes(deck, refuse_after_s=30)
        for agent in (one, two):
            await agent.report()
        await until(lambda: all(n.rev == deck.hub.log.state.rev for n in deck.hub.fleet.nodes.values()), "reported")
        await lose(deck, one)
        await deck.rollback(wait="flipped")
        unaddressed(deck, "n1", 30 + LINK_TTL_S - 1)
        assert await counts(deck) == (1, 2)
        unaddressed(deck, "n1", 30 + LINK_TTL_S + 1)
        assert await counts(deck) == (1, 1)
        await one.join()
        await until(lambda: deck.hub.replicas.progress(("acme", "production")).flipped == 2, "n1 has flipped")
        assert await counts(deck) == (2, 2)


async def test_a_node_that_may_not_know_of_its_refuse_after_stays_in_the_count(data: Path) -> None:
    async with running(data) as deck:
        one, _ = await two_nodes(deck)
        await one.report()
        await lose(deck, one)
        await deck.tenant(placement=EU, refuse_after_s=30)
        unaddressed(deck, "n1", 1e6)
        assert (await deck.row()).placed == 2


async def test_a_withdrawal_ends_when_the_refuse_after_that_the_node_knew_has_run_out(data: Path) -> None:
    async with running(data) as deck:
        one, _ = await two_nodes(deck, refuse_after_s=30)
        await one.report()
        await until(lambda: deck.hub.fleet.nodes["n1"].rev == deck.hub.log.state.rev, "reported")
        await lose(deck, one)
        await deck.tenant(placement=US)
        await until(lambda: len(deck.hub.replicas.placed(("acme", "production"))) == 1, "n2 has left the count")
        unaddressed(deck, "n1", 30 + LINK_TTL_S - 1)
        assert [r.replica for r in (await deck.row()).replicas] == ["n1"]
        unaddressed(deck, "n1", 30 + LINK_TTL_S + 1)
        assert (await deck.row()).replicas == ()
