"""What goes from a node's disk, and all that keeps it there."""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.integration.agent.artifacts import Adapter, entry, make_adapter

from loradeck.schemas.attestation import Attestation, AttestationKind
from loradeck.schemas.link import EngineState
from loradeck.schemas.table import Pin
from loradeck_agent.daemon import Agent
from loradeck_agent.host.errors import AgentError, Unreachable
from loradeck_agent.host.state_folder import StateFolder
from loradeck_agent.serving.garbage import Collector
from loradeck_agent.store.releases import ReleaseStore
from loradeck_agent.uplink.hub_api import HubApi


class Node:
    """A node with three adapters, of which the hub has revoked two. Nothing names any, its engine lists none."""

    def __init__(self, root: Path) -> None:
        self.folder = StateFolder(root)
        self.folder.make()
        self.adapters = [make_adapter("b" * 64, seed) for seed in (1, 2, 3)]
        for adapter in self.adapters:
            folder = self.folder.release(adapter.manifest.digest)
            folder.mkdir()
            for name, data in adapter.files.items():
                (folder / name).write_bytes(data)
                (folder / name).chmod(0o400)
            folder.chmod(0o500)
            folder.with_suffix(".json").write_text(adapter.manifest.model_dump_json())
        self.revoked: list[Adapter] = self.adapters[:2]
        self.named: set[str] = set()
        self.listed: dict[str, str] = {}
        self.hub_down = self.engine_down = self.unsure = False
        self.engine = SimpleNamespace(
            up=True, state=EngineState.UP, api=SimpleNamespace(models=self._models), config=SimpleNamespace(name="e0")
        )
        self.store = ReleaseStore(self.folder, cast(HubApi, self))

    async def attestations(self, kind: AttestationKind) -> tuple[Attestation, ...]:
        if self.hub_down:
            raise Unreachable("hub", "refused")
        assert kind is AttestationKind.REVOCATION
        return tuple(
            Attestation(kind=kind, subject=a.release.id, tenant="acme", body={"reason": "collected"}, by="hub")
            for a in self.revoked
        )

    async def _models(self) -> dict[str, str]:
        if self.engine_down:
            raise Unreachable("engine.sock", "refused")
        return self.listed

    def lists(self, adapter: Adapter) -> None:
        self.listed["x"] = str(self.folder.release(adapter.manifest.digest))

    async def collect(self) -> set[str]:
        made = Collector(
            self.folder,
            self.store,
            cast(HubApi, self),
            cast(Any, (self.engine,)),
            lambda: self.named,
            lambda: self.unsure,
        )
        return set(await made.collect())

    def here(self) -> list[bool]:
        return [self.folder.release(a.manifest.digest).exists() for a in self.adapters]


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "s")


async def test_revoked_adapters_that_nothing_here_needs_go_with_their_manifests(node: Node) -> None:
    assert await node.collect() == {adapter.manifest.digest for adapter in node.revoked}
    kept = node.adapters[2].manifest.digest
    assert sorted(os.listdir(node.folder.releases)) == [kept, f"{kept}.json"]
    assert node.store.stored == {kept}
    assert await node.collect() == set()


@pytest.mark.parametrize(
    "keeps",
    [
        lambda node: node.named.add(node.adapters[0].release.id),
        lambda node: node.lists(node.adapters[0]),
        lambda node: node.revoked.pop(0),
    ],
    ids=["named", "listed", "not revoked"],
)
async def test_what_is_named_listed_or_not_revoked_stays(node: Node, keeps: Callable[[Node], None]) -> None:
    keeps(node)
    await node.collect()
    assert node.here() == [True, False, True]


async def test_named_is_what_table_pins_prepares_and_engines_hold_on_to(agent: Agent) -> None:
    refs = [make_adapter("b" * 64, seed).ref for seed in range(7)]
    current, below, deeper, preparing, left, pinned, prepared = refs
    told = entry(current, 1, beneath=(below, deeper), preparing=preparing).model_copy(update={"left": left})
    agent.table.entries[told.key] = told
    pin = Pin(tenant="acme", route="x", release=pinned, over=(1, 1), actor="ann", reason="why", at_ms=1)
    agent.table.pins = {("acme", "x"): pin}
    agent.reconciler._prepared[prepared.id] = (prepared, time.monotonic() + 60)
    assert agent.reconciler.names() == {ref.id for ref in refs}
    assert agent.collector.unsure(), "no router was heard yet"


async def test_one_that_is_being_verified_stays(node: Node) -> None:
    async with node.store._turns.setdefault(node.adapters[0].manifest.digest, asyncio.Lock()):
        await node.collect()
    assert node.here() == [True, False, True]


@pytest.mark.parametrize("fault", ["hub_down", "engine_down", "unsure"])
async def test_nothing_goes_while_anybody_cannot_say_what_is_needed(node: Node, fault: str) -> None:
    setattr(node, fault, True)
    if fault == "unsure":
        assert await node.collect() == set()
    else:
        with pytest.raises(AgentError):
            await node.collect()
    assert node.here() == [True, True, True]


async def test_nothing_goes_while_an_engine_starts_or_one_that_was_stopped_still_runs(node: Node) -> None:
    node.engine.up, node.engine.state = False, EngineState.STARTING
    assert await node.collect() == set()
    node.engine.state = EngineState.STOPPED
    lock = node.folder.engine_lock("e0")
    lock.parent.mkdir()
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert await node.collect() == set()
    assert node.here() == [True, True, True]
    await node.collect()
    assert node.here() == [False, False, True]


async def test_what_a_killed_agent_left_half_removed_goes_with_the_next_look(node: Node) -> None:
    folder = node.folder.release(node.adapters[0].manifest.digest)
    folder.rename(folder.with_name(f".{folder.name}.leaving"))
    folder.with_suffix(".json").unlink()
    node.store = ReleaseStore(node.folder, cast(HubApi, node))
    await node.collect()
    assert not list(node.folder.releases.glob(".*"))
