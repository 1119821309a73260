from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from loradeck_agent.daemon import Agent
from loradeck_agent.host.config import AgentConfig


@pytest.fixture
async def agent() -> AsyncIterator[Agent]:
    """One that is not run: a test calls its parts."""
    with tempfile.TemporaryDirectory(prefix="ld") as folder:
        path = Path(folder) / "agent.toml"
        path.write_text(
            'node = "gpu-01"\nhub = "http://127.0.0.1:1"\ntoken = "t"\nstate = "s"\n[router]\nlisten = "127.0.0.1:1"\n'
        )
        made = Agent(AgentConfig.load(path), "secret")
        made.acks.replicas = frozenset({"gpu-01"})  # the engine that the tests' routers answer for
        yield made
        await made._close()
