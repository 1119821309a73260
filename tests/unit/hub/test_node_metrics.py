"""What a hub says of engines' memory and of requests that met a release which was not loaded."""

from __future__ import annotations

from loradeck.hub.fleet.nodes import Node
from loradeck.hub.views.metrics import node_metrics
from loradeck.schemas.link import Replica
from loradeck.schemas.replica_state import EngineState
from loradeck.schemas.traffic import ColdFigures


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
    said = {line.rpartition(" ")[0]: line.rpartition(" ")[2] for line in node_metrics(nodes).decode().splitlines()}
    found = {name.removeprefix("loradeck_"): float(n) for name, n in said.items() if not name.startswith("#")}
    assert found == {
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
        'node_cold_waiting{node="gpu-01"}': 3,
    }
