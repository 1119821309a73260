"""What a hub says of engines' memory and of requests that met a release which was not loaded."""

from __future__ import annotations

from loradeck.hub.fleet.node import Node
from loradeck.hub.views.metrics import node_metrics, pool_metrics
from loradeck.schemas.capacity import CapacityRow
from loradeck.schemas.counts import ColdFigures
from loradeck.schemas.link import Replica
from loradeck.schemas.replica_state import EngineState


def figures(text: bytes) -> dict[str, float]:
    said = {line.rpartition(" ")[0]: line.rpartition(" ")[2] for line in text.decode().splitlines()}
    return {name.removeprefix("loradeck_"): float(n) for name, n in said.items() if not name.startswith("#")}


def test_slots_by_level_evictions_and_cold_starts_are_metrics_and_what_is_not_known_is_not_there() -> None:
    paged = Replica(
        replica="gpu-01",
        state=EngineState.UP,
        slots=128,
        batch_slots=8,
        loaded=("a" * 64, "b" * 64),
        on_device=1,
        evictions=7,
        load_s=0.25,
    )
    cold = ColdFigures(asked=100, cold=9, refused=1, minute=2, waiting=3)
    nodes = [
        Node("gpu-01", replicas=(paged,), cold=cold),
        Node("gpu-02", replicas=(Replica(replica="gpu-02", state=EngineState.UP, slots=4),)),
    ]
    assert figures(node_metrics(nodes)) == {
        'replica_slots{level="host",replica="gpu-01"}': 128,
        'replica_slots{level="device",replica="gpu-01"}': 8,
        'replica_slots{level="host",replica="gpu-02"}': 4,
        'replica_loaded{level="host",replica="gpu-01"}': 2,
        'replica_loaded{level="device",replica="gpu-01"}': 1,
        'replica_loaded{level="host",replica="gpu-02"}': 0,
        'replica_evictions{replica="gpu-01"}': 7,
        'replica_evictions{replica="gpu-02"}': 0,
        'replica_load_seconds{replica="gpu-01"}': 0.25,
        'node_on_demand_requests{node="gpu-01",what="asked"}': 100,
        'node_on_demand_requests{node="gpu-01",what="cold"}': 9,
        'node_on_demand_requests{node="gpu-01",what="refused"}': 1,
        'node_on_demand_requests{node="gpu-01",what="hinted"}': 0,
        'node_cold_waiting{node="gpu-01"}': 3,
    }


def test_a_pools_capacity_is_metrics_and_what_is_not_known_is_not_there() -> None:
    nobody = dict.fromkeys(
        ("device", "host", "disk", "asked", "cold", "refused", "minute", "waiting", "evictions", "load_s")
    )
    known = {**nobody, "device": (3, 8), "host": (40, 256), "minute": 2, "evictions": 7}
    rows = [
        CapacityRow(name="eu", pool=True, nodes=(1, 2), routes=5, **known),
        CapacityRow(name="us", pool=True, nodes=(0, 0), routes=0, **nobody),
    ]
    assert figures(pool_metrics(rows)) == {
        'pool_nodes{pool="eu"}': 2,
        'pool_nodes_heard{pool="eu"}': 1,
        'pool_routes{pool="eu"}': 5,
        'pool_loaded{level="device",pool="eu"}': 3,
        'pool_slots{level="device",pool="eu"}': 8,
        'pool_loaded{level="host",pool="eu"}': 40,
        'pool_slots{level="host",pool="eu"}': 256,
        'pool_cold_starts_minute{pool="eu"}': 2,
        'pool_evictions{pool="eu"}': 7,
        **{f'pool_{name}{{pool="us"}}': 0 for name in ("nodes", "nodes_heard", "routes")},
    }
