"""A hub that few strangers may be connected to at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from tests.fakes.quick_ticks import quicken_ticks
from tests.fleets.linked.hub import Deck, data_folder, running

from loradeck.strangers.protocol import StrangerLimits


@pytest.fixture(autouse=True)
def quick_children(forked_children: None) -> None:
    """Children of the hub and of nodes start at once."""


@pytest.fixture(autouse=True)
def quick_ticks() -> Iterator[None]:
    """What comes true by time alone is seen soon."""
    with pytest.MonkeyPatch.context() as patch:
        quicken_ticks(patch)
        yield


@pytest.fixture
async def deck() -> AsyncIterator[Deck]:
    """A running hub with one tenant. Whatever a test does to it, its log, tokens and tables stay as they are."""
    async with data_folder() as data, running(data, limits=StrangerLimits(strangers=50)) as deck:
        await deck.tenant()
        before = deck.fingerprint()
        yield deck
        tokens = before[-1]
        after = deck.fingerprint()
        assert after[:-1] == before[:-1]
        assert after[-1][: len(tokens)] == tokens
