"""Which nodes a gateway asks last, and what happens to the connections of those that leave."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.fleets.waiting import until

from loradeck.rules.serving.gateway import REST_S, STALL_S
from loradeck.schemas.replica_state import AckLevel
from loradeck_agent.gateway import proxy as module
from loradeck_agent.gateway.proxy import Nodes

SERVED = {"n1": AckLevel.DEVICE, "n2": AckLevel.DISK}


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


@pytest.fixture
async def nodes(clock: Clock) -> AsyncIterator[Nodes]:
    made = Nodes(lambda: None)
    made.set({"n1": "n1.example.com:1", "n2": "n2.example.com:1"})
    yield made
    await made.close()


def first(nodes: Nodes) -> str:
    return nodes.ranked(SERVED, b"")[0]


async def test_a_node_that_failed_is_asked_last_for_a_while(nodes: Nodes, clock: Clock) -> None:
    assert first(nodes) == "n1"
    nodes.by_name["n1"].failed("refused")
    assert nodes.ranked(SERVED, b"") == ["n2", "n1"]
    clock.now += REST_S
    assert first(nodes) == "n1"
    nodes.by_name["n1"].failed("refused")
    clock.now += REST_S
    assert first(nodes) == "n2"  # the second time in a row it rests for twice as long
    nodes.by_name["n1"].heard()
    assert first(nodes) == "n1"


async def test_a_node_that_the_hub_has_lost_is_asked_last(nodes: Nodes) -> None:
    addresses = {name: pool.address for name, pool in nodes.by_name.items()}
    nodes.set(addresses, ["n1"])
    assert nodes.ranked(SERVED, b"") == ["n2", "n1"]
    nodes.set(addresses)
    assert first(nodes) == "n1"


async def test_a_node_that_owes_answers_and_sends_nothing_is_asked_last_until_it_does(
    nodes: Nodes, clock: Clock
) -> None:
    slow = nodes.by_name["n1"]
    slow.take()
    clock.now += STALL_S
    assert first(nodes) == "n2"
    slow.heard()
    assert first(nodes) == "n1"
    clock.now += STALL_S
    slow.give_back()
    assert first(nodes) == "n1"  # it owes nothing any more


async def test_a_node_that_leaves_keeps_its_answers_under_way_and_one_that_stays_its_connections(nodes: Nodes) -> None:
    leaving, staying = nodes.by_name["n1"], nodes.by_name["n2"]
    leaving.take()
    nodes.set({"n2": "n2.example.com:1", "n3": "n3.example.com:1"})
    assert (nodes.by_name["n2"] is staying, leaving.session.closed) == (True, False)
    assert nodes.ranked(SERVED, b"") == ["n2"]
    leaving.give_back()
    await until(lambda: leaving.session.closed, "its connections are closed")
