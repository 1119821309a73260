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

from loradeck.schemas.attestation import Attestation, AttestationKind, BaseLineage
from loradeck.schemas.manifest import Form, Release
from loradeck.schemas.replica_state import EngineState
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
        self.made: dict[str, BaseLineage] = {}
        self.revoked_weights: set[str] = set()
        self.named: set[str] = set()
        self.listed: dict[str, str] = {}
        self.hub_down = self.engine_down = self.unsure = False
        self.engine = SimpleNamespace(
            up=True,
            state=EngineState.UP,
            api=SimpleNamespace(models=self._models),
            config=SimpleNamespace(name="e0", base=Path("/nowhere")),
        )
        self.store = ReleaseStore(self.folder, cast(HubApi, self))

    async def attestations(self, kind: AttestationKind, subject: str | None = None) -> tuple[Attestation, ...]:
        if self.hub_down:
            raise Unreachable("hub", "refused")
        if kind is AttestationKind.LINEAGE:
            made = [one for weights, one in self.made.items() if weights == subject]
            return tuple(self._stated(kind, str(subject), one.model_dump()) for one in made)
        assert kind is AttestationKind.REVOCATION
        subjects = [*(a.release.id for a in self.revoked), *self.revoked_weights]
        return tuple(self._stated(kind, one, {"reason": "collected"}) for one in subjects)

    @staticmethod
    def _stated(kind: AttestationKind, subject: str, body: dict[str, Any]) -> Attestation:
        return Attestation(kind=kind, subject=subject, tenant="acme", body=body, by="hub")

    async def _models(self) -> dict[str, str]:
        if self.engine_down:
            raise Unreachable("engine.sock", "refused")
        return self.listed

    def lists(self, adapter: Adapter) -> None:
        self.listed["x"] = str(self.folder.release(adapter.manifest.digest))

    def collector(self) -> Collector:
        return Collector(
            self.folder,
            self.store,
            cast(HubApi, self),
            cast(Any, (self.engine,)),
            lambda: self.named,
            lambda: self.unsure,
        )

    async def collect(self) -> set[str]:
        return set(await self.collector().collect())

    def merges(self, digest: str) -> Release:
        """Weights of the first adapter lie here, merged by a job; the release that they are served as."""
        folder = self.folder.merged / digest
        folder.mkdir(mode=0o700)
        (folder / "model.safetensors").write_bytes(b"w")
        folder.with_name(f"{digest}.manifest.json").write_text("{}")
        adapter = self.adapters[0].manifest.digest
        self.made[digest] = BaseLineage(tenant="acme", job="j1", base="b" * 64, adapter=adapter)
        return Release(tenant="acme", form=Form.MERGED, base="b" * 64, adapter=adapter, merged=digest)

    def trains(self, digest: str) -> Release:
        """Weights that a job trained in full lie here; the release that they are served as."""
        self.merges(digest)
        self.made[digest] = BaseLineage(tenant="acme", job="j1", base="b" * 64, datasets=("d" * 64,))
        return Release(tenant="acme", form=Form.BASE, base=digest)

    async def collect_merged(self) -> tuple[str, ...]:
        return await self.collector().collect_merged()

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


MERGED = "c" * 64


async def test_whole_weights_go_with_their_manifest_once_they_or_their_release_are_revoked(node: Node) -> None:
    node.merges(MERGED)
    node.merges("d" * 64)
    merged, trained = node.merges("e" * 64), node.trains("f" * 64)
    assert await node.collect_merged() == ()
    node.revoked_weights = {MERGED, merged.id, trained.id}
    assert await node.collect_merged() == (MERGED, "e" * 64, "f" * 64)
    assert sorted(os.listdir(node.folder.merged)) == ["d" * 64, f"{'d' * 64}.manifest.json"]
    assert await node.collect_merged() == ()


@pytest.mark.parametrize("keeps", ["named", "unsure", "engine", "starting", "running"])
async def test_revoked_weights_stay_while_something_here_may_serve_them(node: Node, keeps: str) -> None:
    release = node.merges(MERGED)
    node.revoked_weights = {release.id}
    lock = node.folder.engine_lock("e0")
    lock.parent.mkdir()
    with lock.open("w") as held:
        node.named = {release.id} if keeps == "named" else set()
        node.unsure = keeps == "unsure"
        if keeps in ("engine", "starting", "running"):
            node.engine.config.base = node.folder.merged / MERGED
        if keeps == "starting":
            node.engine.up, node.engine.state = False, EngineState.STARTING
        if keeps == "running":
            node.engine.up, node.engine.state = False, EngineState.STOPPED
            fcntl.flock(held, fcntl.LOCK_EX)
        assert await node.collect_merged() == ()
    assert node.folder.merged_here() == {MERGED}
    node.named, node.unsure = set(), False
    node.engine.up, node.engine.state = False, EngineState.STOPPED
    assert await node.collect_merged() == (MERGED,)


async def test_what_lies_on_a_node_is_reported_with_its_merged_weights(agent: Agent) -> None:
    (agent.folder.merged / MERGED).mkdir()
    assert MERGED in (await agent.reports.hello()).stored
