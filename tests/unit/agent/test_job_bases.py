"""Bases that jobs alone read: a node links and serves before it has hashed them, and says each once it has."""

from __future__ import annotations

import asyncio
import queue
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.integration.agent.node import until

from loradeck_agent import daemon
from loradeck_agent.daemon import Agent
from loradeck_agent.host.config import AgentConfig
from loradeck_agent.reports import Reports


async def test_a_node_links_while_the_bases_of_its_jobs_are_hashed_and_says_each_once_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate, linked = queue.Queue[str](), asyncio.Event()

    def hashed(folder: Path, cache: object) -> str:
        return "e" * 64 if folder.name == "engine" else gate.get(timeout=30)

    async def nothing() -> None:
        pass

    async def links() -> None:
        linked.set()

    monkeypatch.setattr(daemon, "base_digest", hashed)
    agent = Agent.__new__(Agent)
    agent.config = cast(
        AgentConfig,
        SimpleNamespace(job_bases=(Path("/one"), Path("/two")), slurm=None, jobs=SimpleNamespace(at_once=1)),
    )
    agent.folder, agent.bases, agent._bases_known = cast(Any, SimpleNamespace(digests=None)), {}, asyncio.Event()
    agent.engines = cast(Any, (SimpleNamespace(config=SimpleNamespace(base=Path("/engine"), name="e0")),))
    agent.sync = cast(Any, SimpleNamespace(until_known=nothing, known=SimpleNamespace(wait=nothing)))
    agent.link = cast(Any, SimpleNamespace(run=links))
    reports = Reports.__new__(Reports)
    reports.config, reports.bases = agent.config, agent.bases
    knows = asyncio.create_task(agent._know_bases())
    await asyncio.wait_for(asyncio.gather(agent._linked(), agent._all_known()), 5)
    assert linked.is_set()
    for said in ((), ("a" * 64,), ("a" * 64, "b" * 64)):
        if said:
            gate.put(said[-1])
        await until(lambda said=said: len(agent.bases) == len(said), "it is hashed", 5)
        backend = reports._backend()
        assert backend is not None
        assert backend.bases == said
    await knows
