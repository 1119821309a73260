"""The fleets that benchmarks measure stand: a change of the hub that breaks one is seen here, not in the next long run."""

from __future__ import annotations

from tests.bench.fleet import two_nodes
from tests.bench.seeded import seeded


def test_the_seeded_hub_stands_with_every_tenant_proven() -> None:
    with seeded(4, 20) as hub:
        assert hub.hub.poll() is None


def test_two_nodes_hold_every_tenant_and_prove_it() -> None:
    with two_nodes(5) as fleet:
        assert fleet.hub_pid
