"""A hub, two nodes that serve a tenant, and a gateway before them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.fleets.linked.hub import Deck, data_folder, running
from tests.fleets.linked.serving_node import RunningGateway, ServingNode, gateway

ROUTE = {"callers": {"parameters": ["test"]}}
"""What the tests ask of their engine passes."""


@dataclass
class Fleet:
    """A hub with two nodes, on which `v1` is live, and a gateway. `key` is a caller's of acme."""

    deck: Deck
    folder: Path
    nodes: list[ServingNode]
    gateway: RunningGateway
    key: str
    v1: str
    v2: str


@pytest.fixture(autouse=True)
def quick_children(forked_children: None) -> None:
    """Children of the hub and of nodes start at once."""


@pytest.fixture
async def deck() -> AsyncIterator[Deck]:
    async with data_folder() as data, running(data, nodes=True) as made:
        await made.tenant(**ROUTE)
        yield made


@pytest.fixture
async def fleet(deck: Deck, folder: Path) -> AsyncIterator[Fleet]:
    nodes = [ServingNode(deck, folder, name) for name in ("n1", "n2")]
    try:
        for node in nodes:
            await node.start()
        key = (await deck.ok("POST", "tenants/acme/keys"))["key"]
        v1, v2 = await deck.release(seed=1), await deck.release(seed=2)
        assert (await deck.promote(v1)).reached == "proven"
        async with gateway(deck, folder) as made:
            await made.knows("n1", "n2")
            yield Fleet(deck, folder, nodes, made, key, v1, v2)
    finally:
        for node in nodes:
            await node.close()
