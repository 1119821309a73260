"""R to flipped by how near the prior on another base is: resident, warm, cached, absent. One node, two engines.

The slow ones are what the preview calls `loads in n s` and `cold, n s`, or `first answer in n s` where the node has
answered anything in the last minute: what it said before the key is printed beside what it then took.
"""

from __future__ import annotations

import asyncio
import shutil
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.bench.rows import Row
from tests.fleets.processes.fleet import TENANT, Material, fleet_at, lay, make_material, promote
from tests.fleets.processes.two_bases import TwoBases, lay_other, write_other_base

from incident.fleet import Fleet, Node
from loradeck.client.api import HubApi
from loradeck.client.config import Context
from loradeck.client.idempotency import new_key
from loradeck.rules.moves.rollbacks import rollback_request
from loradeck.schemas.moves import UndoRequest
from loradeck.schemas.replica_state import EngineState
from loradeck.schemas.state import Preview, Readiness
from loradeck_agent.host.state_folder import StateFolder

RESIDENT = 30
WARM = 10
CACHED = 3
ABSENT = 2
ROUTE = "production"
PATIENCE_S = 120.0

Reset = Callable[[], Awaitable[None]]


def measure() -> list[Row]:
    """Starts a hub and one node twice; about two minutes on two free cores."""
    with tempfile.TemporaryDirectory(prefix="ld") as folder:
        material = make_material(Path(folder))
        other = write_other_base(material.base, Path(folder) / "other")
        return asyncio.run(_both_run(material, other)) + asyncio.run(_one_stopped(material, other))


async def _both_run(material: Material, other: Path) -> list[Row]:
    slots = {("gpu-01", "b1"): 3}
    with fleet_at(material.base, TwoBases, names=("gpu-01",), other=other, slots_of=slots) as fleet:
        cast, _ = lay(fleet, material)
        cast = lay_other(fleet, other, material, cast)
        for route, label in (("staging", "v3"), ("canary", "v1")):
            _lay_route(fleet, route)
            _promote_on(fleet, route, cast.releases[label])
            _promote_on(fleet, route, cast.releases["x3"])
        promote(fleet, cast.releases["x1"])
        async with HubApi.to(Context(name="bench", socket=fleet.socket)) as api:
            resident = await _rounds(api, Readiness.RESIDENT, RESIDENT)

            # A slot less, as after a change of its settings: it is the pointer moved longest ago whose way back lies
            # on disk. So the two others are moved before each round.
            await asyncio.to_thread(_restart, fleet, fleet.nodes[0], slots, 2)

            async def move_others() -> None:
                for route in ("staging", "canary"):
                    await _there_and_back(api, route)

            warm = await _rounds(api, Readiness.WARM, WARM, move_others)
    return [
        *_rows("resident", "a pointer move: both engines run and hold their adapters", *resident),
        *_rows("warm", "its engine runs, and the adapter is loaded from disk into a slot that is taken", *warm),
    ]


async def _one_stopped(material: Material, other: Path) -> list[Row]:
    with fleet_at(material.base, TwoBases, names=("gpu-01",), other=other, hold_prior_s=0) as fleet:
        cast, _ = lay(fleet, material)
        cast = lay_other(fleet, other, material, cast)
        promote(fleet, cast.releases["x1"])
        async with HubApi.to(Context(name="bench", socket=fleet.socket)) as api:
            cached = await _rounds(api, Readiness.CACHED, CACHED)
            adapter = (await api.release(cast.releases["v2"])).release.adapter
            assert adapter is not None

            async def forget() -> None:
                await _stopped(api)
                await asyncio.to_thread(_forget, fleet, fleet.nodes[0], adapter)

            absent = await _rounds(api, Readiness.ABSENT, ABSENT, forget)
    start = "starts the engine (embedded, a two-layer model: nearly all of it is imports)"
    return [
        *_rows("cached", f"{start} and loads the adapter from disk", *cached),
        *_rows("absent", f"{start}, fetches the adapter from the hub and loads it", *absent),
    ]


async def _rounds(
    api: HubApi, near: Readiness, rounds: int, reset: Reset | None = None
) -> tuple[list[float], list[float]]:
    """(ms from sending R to its answer 'flipped', ms the preview had said), with an undo after each."""
    taken: list[float] = []
    said: list[float] = []
    for _ in range(rounds):
        if reset is not None:
            await reset()
        preview = (await api.row(TENANT, ROUTE)).preview
        deadline = time.monotonic() + PATIENCE_S
        while preview.readiness is not near:
            assert time.monotonic() < deadline, preview
            await asyncio.sleep(0.05)
            preview = (await api.row(TENANT, ROUTE)).preview
        wait = preview.estimate_ms if near is Readiness.RESIDENT else (preview.wait_s or 0.0) * 1000
        taken.append(await _there_and_back(api, ROUTE, preview))
        if wait:  # nothing is said where nothing was measured yet
            said.append(wait)
    return taken, said


async def _there_and_back(api: HubApi, route: str, preview: Preview | None = None) -> float:
    """R and its undo, proven; ms from sending R to its answer 'flipped'."""
    preview = preview or (await api.row(TENANT, route)).preview
    request = rollback_request(preview, key=new_key(), reason="bench")
    began = time.perf_counter()
    result = await api.send(TENANT, route, request, wait="flipped", timeout=PATIENCE_S)
    ms = (time.perf_counter() - began) * 1000
    assert result.reached in ("flipped", "proven"), result
    undo = UndoRequest(event=result.events[0].id, confirmed=True, idempotency_key=new_key())
    await api.send(TENANT, route, undo, wait="proven", timeout=PATIENCE_S)
    return ms


def _rows(near: str, how: str, taken: list[float], said: list[float]) -> list[Row]:
    rows = [
        Row(f"R to flipped, prior on another base {near}: p50", statistics.median(taken), "ms", len(taken), how=how)
    ]
    if said:
        words = f"  what the preview had said of it, as measured before: {near}"
        rows.append(Row(words, statistics.median(said), "ms", len(said), how="the node's last start, fetch and load"))
    return rows


def _lay_route(fleet: Fleet, route: str) -> None:
    fleet.cli("route", "set", f"{TENANT}/{route}", "--file", str(fleet.root / "route.toml"), "--yes")


def _promote_on(fleet: Fleet, route: str, release: str) -> None:
    fleet.cli("promote", f"{TENANT}/{route}", release, "--yes", "--wait", "proven", "--timeout", "60")


async def _stopped(api: HubApi) -> None:
    """Until the engine of the base that was left has ended."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        states = {replica.replica: replica.state for node in await api.nodes() for replica in node.replicas}
        if states.get("gpu-01.b1") is EngineState.STOPPED:
            return
        assert time.monotonic() < deadline, states
        await asyncio.sleep(0.1)


def _restart(fleet: Fleet, node: Node, slots: dict[tuple[str, str], int], fewer: int) -> None:
    """Starts a node again with another number of slots of its first engine."""
    fleet.stop_node(node)
    slots[node.name, "b1"] = fewer
    fleet.write_configs()
    fleet.start_agent(node)
    fleet.wait_until_up()


def _forget(fleet: Fleet, node: Node, adapter: str) -> None:
    """Takes an adapter from the node's disk while its agent is away."""
    fleet.kill_agent(node)
    folder = StateFolder(node.state)
    shutil.rmtree(folder.release(adapter))
    (folder.releases / f"{adapter}.json").unlink()
    fleet.start_agent(node)
    fleet.wait_until_up()


if __name__ == "__main__":
    for row in measure():
        print(row)
