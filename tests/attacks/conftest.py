"""A hub whose strangers have half a second, and a router beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.fleets.linked.hub import Deck, data_folder, running

from loradeck.strangers.protocol import StrangerLimits


@pytest.fixture(autouse=True)
def quick_children(forked_children: None) -> None:
    """Children of the hub and of nodes start at once."""


@pytest.fixture
async def deck(request: pytest.FixtureRequest) -> AsyncIterator[Deck]:
    """A running hub with one tenant. Whatever a test does to it, its log, tokens and tables stay as they are.

    Its parameter: the seconds that strangers have, where half a one would be over before a test has made them all.
    """
    limits = StrangerLimits(head_s=getattr(request, "param", 0.5), strangers=50)
    async with data_folder() as data, running(data, limits=limits) as deck:
        await deck.tenant()
        before = deck.fingerprint()
        yield deck
        tokens = before[-1]
        after = deck.fingerprint()
        assert after[:-1] == before[:-1]
        assert after[-1][: len(tokens)] == tokens
