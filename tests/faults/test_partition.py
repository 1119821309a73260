"""A node is cut off from its hub: the hub rolls back, the node is pinned, the link heals.

Half-open, where what is sent is swallowed and no end is told; cut, where connections break; and held up, where what is
sent comes late. Requests go to both nodes all the time, and who answered is told by the answers' tokens.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from tests.faults.wire import Wire
from tests.fleets.processes.fleet import TENANT, Material, fleet_at, lay, told
from tests.fleets.processes.served import table
from tests.fleets.waiting import PATIENCE_S

from incident.fleet import BIN, Fleet, Node
from incident.incident import ROUTE, Cast, clear_the_way, promotion
from incident.traffic import Answer, Callers
from loradeck.client.api import HubApi
from loradeck.client.config import Context
from loradeck.client.idempotency import new_key
from loradeck.rules.moves.rollbacks import rollback_request
from loradeck.schemas.log import Event
from loradeck.schemas.moves import MoveResult, UndoRequest
from loradeck.schemas.state import ReplicaRow, TenantRow
from loradeck_agent.host.state_folder import StateFolder
from loradeck_agent.router.table import Change

NEAR, FAR = "gpu-01", "gpu-02"
STRICT = "strict"
REFUSE_AFTER_S = 11


class CutOffFleet(Fleet):
    """Its second node reaches the hub over a wire of the test's."""

    wire: Wire

    def start_hub(self) -> None:
        super().start_hub()
        if not hasattr(self, "wire"):
            self.wire = Wire(self.hub_port)
            self.wire.__enter__()

    def write_configs(self) -> None:
        super().write_configs()
        config = self.far.config
        config.write_text(config.read_text().replace(f":{self.hub_port}", f":{self.wire.port}"))

    @property
    def far(self) -> Node:
        return self.nodes[1]

    def stop(self) -> None:
        super().stop()
        if hasattr(self, "wire"):
            self.wire.__exit__()


@dataclass(frozen=True, kw_only=True)
class Scene:
    fleet: CutOffFleet
    cast: Cast
    api: HubApi
    callers: Callers

    def named(self, release: str | None) -> str | None:
        """'v2' for its id."""
        return next((label for label, one in self.cast.releases.items() if one == release), release)

    async def row(self, route: str = ROUTE) -> TenantRow:
        return await self.api.row(TENANT, route)

    async def far_row(self) -> ReplicaRow:
        return next(replica for replica in (await self.row()).replicas if replica.node == FAR)

    async def until(self, what: str, holds: Callable[[TenantRow], Any]) -> TenantRow:
        async def look() -> TenantRow | None:
            row = await self.row()
            return row if holds(row) else None

        found: TenantRow = await until(what, look, self.fleet)
        return found

    async def settled(self) -> TenantRow:
        return await self.until(
            "both nodes proven", lambda row: row.proven == 2 and row.settled and all(r.linked for r in row.replicas)
        )

    async def promote(self, label: str, route: str = ROUTE) -> None:
        release = self.cast.releases[label]
        row = await (clear_the_way(self.api, TENANT, release) if route == ROUTE else self.row(route))
        await self.api.send(TENANT, route, promotion(row, release), wait="proven", timeout=PATIENCE_S)

    async def roll_back(self, *, wait: str, timeout: float = PATIENCE_S) -> MoveResult:
        preview = (await self.row()).preview
        request = rollback_request(preview, key=new_key(), reason="v3 answers nonsense")
        return await self.api.send(TENANT, ROUTE, request, wait=wait, timeout=timeout)  # type: ignore[arg-type]

    async def pin(self, to: str) -> str:
        """`loradeck-agent pin` on the node that is cut off; what it says."""
        words = ["pin", TENANT, ROUTE, "--to", to, "--reason", "hub link down, rolling back"]
        command = [str(BIN / "loradeck-agent"), *words, "--config", str(self.fleet.far.config)]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    async def unpin(self) -> None:
        await asyncio.to_thread(self.fleet.cli, "node", "unpin", FAR, TENANT, "--yes", "--reason", "the hub is back")

    async def answers(self, node: str) -> list[str | None]:
        """Who answers on a node now, by tokens."""
        asked = [self.callers.ask(node, TENANT, prompt) for prompt in self.cast.prompts[:4]]
        return [self.named(answer.by) for answer in await asyncio.gather(*asked)]

    async def events_since(self, rev: int) -> list[Event]:
        """What the log says of the pointer since then, oldest first."""
        found = await self.api.events(tenant=TENANT, route=ROUTE, limit=100)
        return [event for event in reversed(found) if event.rev > rev]

    def asked(self, node: str, tenant: str = TENANT) -> list[Answer]:
        """The background's requests to a node, in order."""
        found = [answer for answer in self.callers.answers if answer.node == node and answer.tenant == tenant]
        return sorted(found, key=lambda answer: answer.sent_ns)

    def flips(self, node: Node) -> list[str | None]:
        """What a router put in force for the pointer, flip by flip, from its own table file."""
        lines = (StateFolder(node.state).router / "table.jsonl").read_bytes().splitlines()
        changes = [Change.model_validate_json(line.partition(b" ")[2]) for line in lines]
        forces = [force for change in changes for force in change.in_force if force.key == (TENANT, ROUTE)]
        return [self.named(release) for release, _ in groupby(force.release and force.release.id for force in forces)]


async def until(what: str, holds: Callable[[], Awaitable[Any]], fleet: Fleet) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (found := await holds()):
        assert time.monotonic() < deadline, f"not within {PATIENCE_S:g} s: {what}\n{told(fleet)}"
        await asyncio.sleep(0.1)
    return found


@pytest.fixture(scope="module")
def fleet(material: Material) -> Iterator[tuple[CutOffFleet, Cast, str]]:
    """v1 and v2 promoted one after the other on both nodes."""
    with fleet_at(material.base, CutOffFleet) as fleet:
        assert isinstance(fleet, CutOffFleet)
        yield fleet, *lay(fleet, material)


@pytest.fixture
async def scene(fleet: tuple[CutOffFleet, Cast, str]) -> AsyncIterator[Scene]:
    """v3 is live on both nodes, with v2 and v1 beneath."""
    built, cast, key = fleet
    async with asking(built, cast, key) as made:
        yield made


@asynccontextmanager
async def asking(fleet: CutOffFleet, cast: Cast, key: str) -> AsyncIterator[Scene]:
    routers = {node.name: node.url for node in fleet.nodes}
    models = (TENANT, f"{TENANT}/{STRICT}")
    async with (
        HubApi.to(Context(name="tests", socket=fleet.socket)) as api,
        Callers(routers, dict.fromkeys(models, key), max_tokens=12) as callers,
    ):
        scene = Scene(fleet=fleet, cast=cast, api=api, callers=callers)
        await scene.promote("v3")
        await scene.settled()
        yield scene


def in_turn(answers: list[Answer], scene: Scene) -> list[str | None]:
    """Who answered, each time another one does."""
    return [scene.named(by) for by, _ in groupby(answer.by for answer in answers)]


async def test_a_node_that_hears_nothing_is_never_counted_is_pinned_and_stays_so_until_the_hub_ends_it(
    scene: Scene, tmp_path: Path
) -> None:
    """Half-open: nobody is told that the link is gone. The pin goes where the hub goes."""
    fleet, wire = scene.fleet, scene.fleet.wire
    v2, v3 = scene.cast.releases["v2"], scene.cast.releases["v3"]
    # A route that must not be served for long without its hub.
    settings = tmp_path / "strict.toml"
    settings.write_text(f"refuse_after_s = {REFUSE_AFTER_S}\n" + (fleet.root / "route.toml").read_text())
    await asyncio.to_thread(fleet.cli, "route", "set", TENANT, STRICT, "--file", str(settings), "--yes")
    await scene.promote("v2", STRICT)
    before = {node.name: scene.flips(node) for node in fleet.nodes}
    rev = (await scene.api.state()).status.rev
    strict = f"{TENANT}/{STRICT}"
    scene.callers.start({TENANT: scene.cast.prompts, strict: scene.cast.prompts}, every_s=0.05)
    taken = wire.taken

    wire.swallow()
    result = await scene.roll_back(wait="flipped")
    assert result.reached == "committed", "what was not heard from is not counted, however long one waits"
    row = await scene.until("the far node is lost", lambda row: not all(r.linked for r in row.replicas))
    assert (row.pointer.release, row.flipped, row.proven, row.placed) == (v2, 1, 1, 2)
    assert row.attested is None
    near, far = sorted(row.replicas, key=lambda replica: replica.node)
    assert (near.state, far.state, far.flipped_ms, far.admitted_left) == ("proven", None, None, None)
    assert far.heard_age_s is not None
    assert far.heard_age_s > (near.heard_age_s or 0)
    await until("its age counts up", lambda age=far.heard_age_s: _older(scene, age), fleet)
    assert wire.swallowed > 0
    assert await scene.answers(NEAR) == ["v2"] * 4
    assert await scene.answers(FAR) == ["v3"] * 4, "it serves on what it was last told"

    # The strict route serves until it has been without a hub for too long, and then says so.
    refusal = await until("the strict route refuses", lambda: _refused(scene, strict), fleet)
    assert json.loads(refusal.text)["error"]["code"] == "hub_lost"
    await until("its agent tries again", lambda: _taken(wire, taken), fleet)
    status = await asyncio.to_thread(fleet.agent_cli, fleet.far, "status")
    assert status["agent"]["link"]["connected"] is False

    said = await scene.pin("v2")
    assert f"pinned {TENANT}/{ROUTE} to v2 ({v2[:6]}); before: v3 ({v3[:6]})" in said
    assert f"{FAR}: in force" in said
    assert await scene.answers(FAR) == ["v2"] * 4

    wire.heal()
    row = await scene.until("the pin is seen", lambda row: "PIN" in row.flags and row.flipped == 2)
    far = next(replica for replica in row.replicas if replica.node == FAR)
    assert (far.pinned, far.linked, far.state) == (v2, True, "flipped")
    assert [pin.reason for pin in (await table(fleet.far)).pins] == ["hub link down, rolling back"]
    answer = await until("the strict route is served again", lambda: _served(scene, strict), fleet)
    assert scene.named(answer.by) == "v2"

    await scene.unpin()
    await scene.settled()
    await scene.until("attested, and pinned nowhere", lambda row: row.attested == (2, 2) and "PIN" not in row.flags)
    await scene.callers.stop()

    events = await scene.events_since(rev)
    assert [(e.kind.value, scene.named(e.from_release), scene.named(e.to_release)) for e in events] == [
        ("rollback", "v3", "v2"),
        ("pin", "v3", "v2"),
        ("unpin", "v2", "v2"),
    ]
    pin = events[1]
    assert (pin.actor.partition("@")[2], pin.reason) == (FAR, "hub link down, rolling back")
    assert pin.payload["at_ms"] <= pin.at_ms
    assert (await scene.api.verify_audit()).ok
    for node in fleet.nodes:
        assert scene.flips(node) == [*before[node.name], "v2"], "one flip each, and none to and fro"
        assert in_turn(scene.asked(node.name), scene) == ["v3", "v2"]
        assert [a for a in scene.asked(node.name) if not a.ok] == [], "no request failed"
    assert in_turn(scene.asked(NEAR, strict), scene) == ["v2"]
    statuses = [status for status, _ in groupby(answer.status for answer in scene.asked(FAR, strict))]
    assert statuses == [200, 503, 200]


async def test_a_pin_against_the_hub_outlasts_reconnection_moves_and_a_dead_agent_and_ends_with_one_flip(
    scene: Scene,
) -> None:
    """Cut: connections break. The pin goes elsewhere than the hub goes."""
    fleet, wire = scene.fleet, scene.fleet.wire
    v1, v2 = scene.cast.releases["v1"], scene.cast.releases["v2"]
    before = {node.name: scene.flips(node) for node in fleet.nodes}
    rev = (await scene.api.state()).status.rev
    scene.callers.start({TENANT: scene.cast.prompts}, every_s=0.05)

    wire.cut()
    rolled = await scene.roll_back(wait="committed")
    await scene.until("the near node has flipped", lambda row: (row.flipped, row.proven) == (1, 1))
    assert (await scene.far_row()).state is None
    await scene.pin("v1")
    assert await scene.answers(FAR) == ["v1"] * 4
    wire.heal()

    row = await scene.until("the drift is seen", lambda row: "PIN" in row.flags and all(r.linked for r in row.replicas))
    assert row.preview.generation == row.pointer.generation
    far = await until("its word on the new generation", lambda: _answered(scene), fleet)
    assert (far.pinned, far.state, far.code, far.flipped_ms) == (v1, "waiting", "pinned", None)
    assert (row.pointer.release, row.flipped, row.proven) == (v2, 1, 1), "drift is not counted"
    assert "v1" in far.detail

    # Neither later moves nor a new agent undo it.
    undo = UndoRequest(event=rolled.events[0].id, confirmed=True, idempotency_key=new_key(), reason="again")
    await scene.api.send(TENANT, ROUTE, undo, wait="committed", timeout=0)
    await scene.until("the near node is back on v3", lambda row: (row.flipped, row.proven) == (1, 1))
    fleet.kill_agent(fleet.far)
    fleet.start_agent(fleet.far)
    await scene.roll_back(wait="committed")
    await scene.until(
        "the near node flips, the far one is linked again",
        lambda row: (row.flipped, row.proven) == (1, 1) and all(r.linked for r in row.replicas),
    )
    assert await scene.answers(FAR) == ["v1"] * 4
    assert (await scene.far_row()).pinned == v1

    await scene.unpin()
    await scene.settled()
    assert await scene.answers(FAR) == ["v2"] * 4
    await scene.callers.stop()
    events = await scene.events_since(rev)
    assert [(e.kind.value, scene.named(e.from_release), scene.named(e.to_release)) for e in events] == [
        ("rollback", "v3", "v2"),
        ("pin", "v3", "v1"),
        ("undo", "v2", "v3"),
        ("rollback", "v3", "v2"),
        ("unpin", "v2", "v2"),
    ]
    assert scene.flips(fleet.nodes[0]) == [*before[NEAR], "v2", "v3", "v2"]
    assert scene.flips(fleet.far) == [*before[FAR], "v1", "v2"]
    assert in_turn(scene.asked(NEAR), scene) == ["v3", "v2", "v3", "v2"]
    assert in_turn(scene.asked(FAR), scene) == ["v3", "v1", "v2"]
    assert [answer for answer in scene.callers.answers if not answer.ok] == [], "no request failed"


@pytest.mark.parametrize("for_longer", [False, True], ids=["within the TTL", "for longer than the TTL"])
async def test_what_is_held_up_on_the_way_flips_once_when_it_arrives(scene: Scene, for_longer: bool) -> None:
    """As TCP does it: nothing is lost, it only comes late; after the TTL over a link that both ends gave up."""
    fleet, wire = scene.fleet, scene.fleet.wire
    v2 = scene.cast.releases["v2"]
    before = {node.name: scene.flips(node) for node in fleet.nodes}
    rev = (await scene.api.state()).status.rev
    scene.callers.start({TENANT: scene.cast.prompts}, every_s=0.05)
    taken = wire.taken
    wire.hold()
    await scene.roll_back(wait="committed")
    await scene.until("the near node has flipped", lambda row: (row.flipped, row.proven) == (1, 1))
    if for_longer:
        await scene.until("the far node is given up", lambda row: not all(r.linked for r in row.replicas))
    else:
        await until("it has not been heard for a while", lambda: _older(scene, 3.0), fleet)
        assert (await scene.far_row()).linked, "nobody can know yet"
    assert (await scene.far_row()).state is None
    assert await scene.answers(FAR) == ["v3"] * 4
    wire.heal()
    row = await scene.settled()
    assert row.pointer.release == v2
    assert await scene.answers(FAR) == ["v2"] * 4
    await scene.callers.stop()
    assert (wire.taken > taken) is for_longer
    assert [event.kind.value for event in await scene.events_since(rev)] == ["rollback"]
    for node in fleet.nodes:
        assert scene.flips(node) == [*before[node.name], "v2"]
        assert in_turn(scene.asked(node.name), scene) == ["v3", "v2"]
    assert [answer for answer in scene.callers.answers if not answer.ok] == [], "no request failed"


async def _older(scene: Scene, age: float) -> bool:
    return ((await scene.far_row()).heard_age_s or 0) > age


async def _answered(scene: Scene) -> ReplicaRow | None:
    far = await scene.far_row()
    return far if far.state is not None else None


async def _taken(wire: Wire, before: int) -> bool:
    return wire.taken > before


async def _refused(scene: Scene, model: str) -> Answer | None:
    answer = await scene.callers.ask(FAR, model, scene.cast.prompts[0])
    return answer if answer.status == 503 else None


async def _served(scene: Scene, model: str) -> Answer | None:
    answer = await scene.callers.ask(FAR, model, scene.cast.prompts[0])
    return answer if answer.status == 200 else None
