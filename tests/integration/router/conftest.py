from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.integration.router.running import Running
from tests.integration.router.upstream import Upstream


@pytest.fixture
async def engine(folder: Path) -> AsyncIterator[Upstream]:
    upstream = Upstream("e0", str(folder / "e0.sock"))
    await upstream.start()
    yield upstream
    await upstream.stop()


@pytest.fixture
async def stopped(folder: Path) -> AsyncIterator[Running]:
    """A router that the test starts itself."""
    running = Running(folder)
    yield running
    await running.close()


@pytest.fixture
async def router(stopped: Running) -> Running:
    """Served from the test's own process."""
    await stopped.start_here()
    return stopped


@pytest.fixture
async def process(stopped: Running) -> Running:
    """Served from a process of its own, as the agent starts it."""
    await stopped.start()
    return stopped
