"""A gateway's metrics are what readers of Prometheus's text format take: each family in one group, behind its type."""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from types import SimpleNamespace
from typing import Any

from loradeck_agent.gateway.serve import Gateway


async def told(**known: Any) -> str:
    """What a gateway with these requests and nodes says under /metrics."""
    made: Any = Gateway.__new__(Gateway)
    made.proxy = SimpleNamespace(counts=Counter(known["counts"]), retries=2, hints=3)
    made.link = SimpleNamespace(silent_s=1.25)
    health = {name: SimpleNamespace(under_way=n, failures=n + 1) for name, n in known["nodes"].items()}
    made.nodes = SimpleNamespace(by_name={name: SimpleNamespace(health=of) for name, of in health.items()})
    answer = await made._tell(SimpleNamespace(path="/metrics"))
    return str(answer.text)


async def test_the_samples_of_a_family_stand_together_behind_its_type() -> None:
    lines = (await told(counts={"200": 5, "503": 1}, nodes={"n1": 0, "n2": 4})).splitlines()
    families = [key for key, _ in groupby(line.removeprefix("# TYPE ").split("{")[0].split()[0] for line in lines)]
    assert len(families) == len(set(families)), families
    assert [line.split()[2] for line in lines if line.startswith("# TYPE")] == families
    assert 'loradeck_gateway_requests_total{code="200"} 5' in lines
    assert "loradeck_gateway_hub_silent_seconds 1.2" in lines
    assert [line for line in lines if '"n2"' in line] == [
        'loradeck_gateway_node_requests{node="n2"} 4',
        'loradeck_gateway_node_failures{node="n2"} 5',
    ]
