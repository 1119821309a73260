"""What is remembered of the nodes of pools, and placements that are computed beside everything else."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from tests.fakes.assigned import assign

from loradeck.hub.automation import pooled_routes
from loradeck.hub.fleet.pools import Pools
from loradeck.rules.serving.assignment import Demand
from loradeck.schemas.pool import PoolConfig

H100 = PoolConfig(hardware="h100")


def node(replica: str, *, starts: bool = False) -> Any:
    build = None if starts else SimpleNamespace(device="H100")
    engine = SimpleNamespace(replica=replica, base="b" * 64, slots=4, build=build, gpus=())
    return SimpleNamespace(labels={}, gateway=False, gpus=(), replicas=(engine,))


def test_the_device_of_an_engine_that_starts_is_remembered_and_that_of_a_replica_that_is_gone_is_not() -> None:
    fleet: Any = SimpleNamespace(nodes={f"n{n}": node(f"n{n}") for n in range(3)})
    state: Any = None
    pools = Pools(state, fleet, state)
    assert [*pools.slots(H100)] == ["n0", "n1", "n2"]
    fleet.nodes = {"n0": node("n0", starts=True), "n3": node("n3")}
    assert pools.slots(H100) == {"n0": 4, "n3": 4}
    assert {*pools._devices} == {"n0", "n3"}


async def test_the_hub_goes_on_with_everything_else_while_a_placement_is_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes = {f"n{n}": 4.0 for n in range(10)}
    routes = {(f"t{n}", "production"): Demand(replicas=1, pool=tuple(nodes)) for n in range(500)}
    looks, since, compute = 0, [0], pooled_routes.assigning

    def counted(*asked: Any) -> Any:
        nonlocal looks
        steps = compute(*asked)
        while True:
            try:
                next(steps)
            except StopIteration as done:
                return done.value
            looks += 1
            yield

    async def others() -> None:
        seen = 0
        while True:
            since.append(looks - seen)
            seen = looks
            await asyncio.sleep(0)

    monkeypatch.setattr(pooled_routes, "assigning", counted)
    going_on = asyncio.create_task(others())
    found = await pooled_routes.assigned_beside(routes, nodes)
    going_on.cancel()
    assert found == assign(routes, nodes)
    assert looks > 1000
    assert max(since) <= pooled_routes.SLICE
