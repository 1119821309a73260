"""What is remembered of the nodes of pools."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from loradeck.hub.fleet.pools import Pools
from loradeck.schemas.pool import PoolConfig

H100 = PoolConfig(hardware="h100")


def node(replica: str, *, starts: bool = False) -> Any:
    build = None if starts else SimpleNamespace(device="H100")
    engine = SimpleNamespace(replica=replica, base="b" * 64, slots=4, build=build, gpus=())
    return SimpleNamespace(labels={}, gateway=False, gpus=(), replicas=(engine,))


def test_the_device_of_an_engine_that_starts_is_remembered_and_that_of_a_replica_that_is_gone_is_not() -> None:
    fleet: Any = SimpleNamespace(nodes={f"n{n}": node(f"n{n}") for n in range(3)})
    state: Any = None
    pools = Pools(state, fleet)
    assert [*pools.slots(H100)] == ["n0", "n1", "n2"]
    fleet.nodes = {"n0": node("n0", starts=True), "n3": node("n3")}
    assert pools.slots(H100) == {"n0": 4, "n3": 4}
    assert {*pools._devices} == {"n0", "n3"}
