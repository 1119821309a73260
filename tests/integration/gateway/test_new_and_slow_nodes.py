"""Nodes that come and nodes that are slow, behind a real gateway: whom it asks, by what their engines have seen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.fleets.linked.serving_node import ServingNode
from tests.fleets.waiting import until
from tests.integration.gateway.conftest import Fleet
from tests.integration.router.running import Answer

from loradeck.rules.serving.gateway import STALL_S
from loradeck.schemas.replica_state import AckLevel, AckState

ACME = ("acme", "production")


@pytest.fixture
async def new(fleet: Fleet) -> AsyncIterator[ServingNode]:
    """A third node, which everybody knows and which does not load the release that it is told to hold."""
    node = ServingNode(fleet.deck, fleet.folder, "n3")
    node.loads = False
    try:
        await node.start()
        await fleet.gateway.knows("n1", "n2", "n3")
        await until(lambda: fleet.v1 in node.releases, "it is told to hold the release")
        await until(lambda: "n3" in fleet.deck.hub.replicas.acks(ACME), "it has answered that it waits")
        yield node
    finally:
        await node.close()


async def test_a_new_node_of_a_route_placed_by_labels_is_asked_once_it_has_loaded_the_release(
    fleet: Fleet, new: ServingNode
) -> None:
    row = await fleet.deck.row()
    assert (row.placed, row.flipped) == (3, 2)
    answers = [await fleet.gateway.ask(fleet.key, prompt=f"{n}") for n in range(40)]
    assert {answer.headers["x-loradeck-replica"] for answer in answers} == {"n1", "n2"}
    assert new.engine.seen == []
    await new.load()
    front = fleet.gateway.gateway
    assert front is not None
    await until(lambda: front.routes.served(ACME).get("n3") is new.level, "the gateway knows that it is loaded")
    answers += [await fleet.gateway.ask(fleet.key, prompt=f"{n}") for n in range(40)]
    assert new.engine.seen != []
    assert {answer.status for answer in answers} == {200}


async def test_a_new_node_that_has_not_loaded_the_release_is_asked_where_every_other_one_is_gone(
    fleet: Fleet, new: ServingNode
) -> None:
    """It refuses, since there is nothing that it may answer with, and the caller gets its reason."""
    replicas = {one.replica: one.state for one in (await fleet.deck.row()).replicas}
    assert replicas["n3"] is AckState.WAITING
    front = fleet.gateway.gateway
    assert front is not None
    await until(lambda: front.routes.served(ACME).get("n3") is AckLevel.ABSENT, "it is known to serve the route")
    for node in fleet.nodes:
        await node.die()
    answer = await fleet.gateway.ask(fleet.key)
    assert (answer.status, answer.code) == (503, "not_ready")


async def test_a_node_that_answers_slowly_is_given_no_more_than_its_share_of_what_is_under_way(fleet: Fleet) -> None:
    slow, asked = fleet.nodes[0].engine, list[asyncio.Task[Answer]]()
    slow.going.clear()
    for number in range(40):
        asked.append(asyncio.create_task(fleet.gateway.ask(fleet.key, prompt=f"{number}")))
        await until(
            lambda: sum(not task.done() for task in asked) == len(slow.seen), "it is answered, or the slow one has it"
        )
    assert len(slow.seen) == 2, "what 1.25 times the mean comes to while the other node owes nothing"
    slow.going.set()
    assert {answer.status for answer in await asyncio.gather(*asked)} == {200}


async def test_a_node_that_owes_answers_and_sends_nothing_is_asked_last_until_it_answers_again(fleet: Fleet) -> None:
    slow, front = fleet.nodes[0], fleet.gateway.gateway
    assert front is not None
    slow.engine.going.clear()
    stuck = [asyncio.create_task(fleet.gateway.ask(fleet.key, prompt=f"{n}")) for n in range(8)]
    await until(lambda: sum(not task.done() for task in stuck) == len(slow.engine.seen) > 0, "it owes answers")
    front.nodes.by_name["n1"].health._heard_at -= STALL_S  # it has sent nothing for so long
    owed = len(slow.engine.seen)
    answers = [await fleet.gateway.ask(fleet.key, prompt=f"after {n}") for n in range(20)]
    assert {answer.headers["x-loradeck-replica"] for answer in answers} == {"n2"}
    assert len(slow.engine.seen) == owed
    slow.engine.going.set()
    assert {answer.status for answer in await asyncio.gather(*stuck)} == {200}
    answers = [await fleet.gateway.ask(fleet.key, prompt=f"again {n}") for n in range(20)]
    assert {answer.headers["x-loradeck-replica"] for answer in answers} == {"n1", "n2"}
