"""Bases that jobs alone read: a node links and serves before it has hashed them, and says each once it has."""

from __future__ import annotations

import asyncio
import queue
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.fleets.waiting import PATIENCE_S, until

from loradeck.schemas.log import GENESIS
from loradeck.schemas.telemetry import NvmlState
from loradeck_agent import daemon
from loradeck_agent.daemon import Agent
from loradeck_agent.host.config import AgentConfig
from loradeck_agent.reports import Reports
from loradeck_agent.router.wire import RouterStats


async def test_a_node_links_while_the_bases_of_its_jobs_are_hashed_and_says_each_once_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate, linked = queue.Queue[str](), asyncio.Event()

    def hashed(folder: Path, cache: object) -> str:
        return "e" * 64 if folder.name == "engine" else gate.get(timeout=PATIENCE_S)

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
    agent._all_hashed = asyncio.Event()
    agent.engines = cast(Any, (SimpleNamespace(config=SimpleNamespace(base=Path("/engine"), name="e0")),))
    agent.sync = cast(Any, SimpleNamespace(until_known=nothing, known=SimpleNamespace(wait=nothing)))
    agent.link = cast(Any, SimpleNamespace(run=links))
    reports = Reports.__new__(Reports)
    reports.config, reports.bases = agent.config, agent.bases
    knows = asyncio.create_task(agent._know_bases())
    await asyncio.wait_for(asyncio.gather(agent._linked(), agent._all_known()), 60)
    assert linked.is_set()
    for said in ((), ("a" * 64,), ("a" * 64, "b" * 64)):
        if said:
            gate.put(said[-1])
        await until(lambda said=said: len(agent.bases) == len(said), "it is hashed", 60)
        backend = reports._backend()
        assert backend is not None
        assert backend.bases == said
    await knows
    assert agent._all_hashed.is_set()


async def test_the_hello_to_a_hub_that_stands_by_keeps_no_base_from_the_hub_that_is_followed() -> None:
    async def nothing() -> None:
        pass

    reports = Reports.__new__(Reports)
    reports.boot, reports.lives, reports.bases = "b", (), {}
    reports.config = cast(Any, SimpleNamespace(node="n1", labels={}, job_bases=("/one",), slurm=None, memory_gb=None))
    reports.config.jobs, reports.config.router = SimpleNamespace(user=None, at_once=1), SimpleNamespace(address=None)  # type: ignore[misc]
    durable = SimpleNamespace(epoch=0, rev=0, hash=GENESIS, witness=None)
    reports.sync = cast(Any, SimpleNamespace(read_file=nothing, durable=durable, features=(), boot="r"))
    reports.table, reports.cosigner = (
        cast(Any, SimpleNamespace(pins={})),
        cast(Any, SimpleNamespace(newest=lambda: None)),
    )
    reports.jobs = cast(
        Any, SimpleNamespace(reporting=tuple, scheduled=tuple, room=SimpleNamespace(report=lambda: None))
    )
    reports.store, reports.folder = (
        cast(Any, SimpleNamespace(stored=frozenset())),
        cast(Any, SimpleNamespace(merged_here=frozenset)),
    )
    seen = SimpleNamespace(gpus=(), host=None, nvml=NvmlState.NO_GPU)
    reports.telemetry = cast(Any, SimpleNamespace(snapshot=lambda: seen))
    reports._stored_sent = reports._stored_known = frozenset()
    reports._backend_sent = None
    followed = await reports.hello()
    reports._report(RouterStats(), 0)
    cast(dict[str, Path], reports.bases)["a" * 64] = Path("/one")
    standby = await reports.hello()
    told = reports._report(RouterStats(), 0).backend
    assert [said and said.bases for said in (followed.backend, standby.backend, told)] == [(), ("a" * 64,), ("a" * 64,)]
    assert reports._report(RouterStats(), 0).backend is None
