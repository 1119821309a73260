"""The fleets that benchmarks measure stand: a change of the hub that breaks one is seen here, not in a long run."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.bench.fleet import two_nodes
from tests.bench.seeded import seeded

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def as_make_bench_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'examples'}")


def test_the_seeded_hub_stands_with_every_tenant_proven() -> None:
    with seeded(4, 20) as hub:
        assert hub.hub.poll() is None


def test_two_nodes_hold_every_tenant_and_prove_it() -> None:
    with two_nodes(5) as fleet:
        assert fleet.hub_pid
