"""How console and commands say what an engine holds, and how requests for on-demand routes fared."""

from __future__ import annotations

import pytest

from loradeck.client import node_words
from loradeck.schemas.counts import ColdFigures
from loradeck.schemas.manifest import Form
from loradeck.schemas.replica_state import EngineState
from loradeck.schemas.state import NodeReplica, ReleaseView


def replica(**fields: object) -> NodeReplica:
    view = ReleaseView(id="a" * 64, label="v1", form=Form.ADAPTER, base="b" * 64, base_label="B1", adapter=None)
    known = {"replica": "gpu-01", "state": EngineState.UP, "base": None, "base_label": "B1", "build": "", "gpus": ()}
    return NodeReplica.model_validate({**known, "slots": 4, "loaded": (view, view), **fields})


@pytest.mark.parametrize(
    ("fields", "says", "paging"),
    [
        ({}, "2/4", ""),
        ({"batch_slots": 4, "load_s": 0.254}, "2/4", "a load takes 0.25 s"),
        ({"batch_slots": 2}, "host 2/4, device unknown/2", ""),
        ({"batch_slots": 2, "on_device": 1, "evictions": 3}, "host 2/4, device 1/2", "3 turned out"),
    ],
)
def test_the_levels_are_said_where_they_differ_and_as_unknown_where_nobody_says(
    fields: dict[str, object], says: str, paging: str
) -> None:
    assert (node_words.slots(replica(**fields)), node_words.paging(replica(**fields))) == (says, paging)


def test_the_hit_rate_is_of_the_requests_for_on_demand_routes() -> None:
    said = node_words.on_demand(ColdFigures(asked=200, cold=9, refused=1, minute=2, waiting=3))
    assert (
        said == "on demand: 95.0% of 200 met a loaded release, 2 cold starts in the last minute, 3 waiting, 1 refused"
    )
    assert node_words.on_demand(ColdFigures(waiting=1)).startswith("on demand: none met")
