"""A hub of its own for every test, and nodes that join it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.quick_ticks import quicken_ticks
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import Deck, Time, data_folder, running

Join = Callable[..., Awaitable[LinkedAgent]]


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
async def data() -> AsyncIterator[Path]:
    async with data_folder() as path:
        yield path


@pytest.fixture
async def deck(data: Path) -> AsyncIterator[Deck]:
    """A running hub with nothing in it."""
    async with running(data) as deck:
        yield deck


@pytest.fixture
async def join(deck: Deck) -> AsyncIterator[Join]:
    """`await join("n1", site="eu")`: a node that links and does as it is told."""
    agents: list[LinkedAgent] = []

    async def joined(node: str = "n1", **more: Any) -> LinkedAgent:
        agents.append(LinkedAgent(deck, node, **more))
        return await agents[-1].join()

    yield joined
    for agent in agents:
        await agent.leave()


@pytest.fixture
def time(deck: Deck, monkeypatch: pytest.MonkeyPatch) -> Time:
    """The hub's clocks go on as the test says."""
    return Time(deck, monkeypatch)
