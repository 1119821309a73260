"""A fleet in which one of five nodes is hostile, for twenty seconds; `make hostile` plays for ten minutes."""

from __future__ import annotations

import pytest
from tests.attacks.hostile_node import play
from tests.fleets.linked.hub import data_folder

pytestmark = pytest.mark.drawn(seconds=30)


@pytest.mark.timeout(180)
async def test_a_fleet_with_a_hostile_node_loses_no_move_no_tenants_r_and_no_console() -> None:
    async with data_folder() as data:
        tried = await play(20, 7, data)
    assert tried["moves"] >= 4
    assert len(tried) > 10, "it has tried most of what it can"
