"""Heartbeats go out in parts; no link waits longer for its own than before, however late the hub looks."""

from __future__ import annotations

import pytest

from loradeck.hub.links.all_links import Heartbeats
from loradeck.hub.links.node_link import PARTS
from loradeck.schemas.replica_state import HEARTBEAT_S


@pytest.mark.parametrize("every_s", [0.01, 0.1, 0.17, 0.5, 1.3, 2.0])
def test_every_part_is_due_in_every_heartbeats_time(every_s: float) -> None:
    now = 1000.0
    beats = Heartbeats(now)
    last = dict.fromkeys(range(PARTS), now)
    for _ in range(int(60 / every_s)):
        now += every_s
        for part in beats.due(now):
            assert now - last[part] <= HEARTBEAT_S + every_s + HEARTBEAT_S / PARTS
            last[part] = now
    assert all(now - at <= HEARTBEAT_S + every_s for at in last.values())


def test_a_hub_that_was_held_up_gives_every_link_its_heartbeat_at_once() -> None:
    beats = Heartbeats(50.0)
    assert beats.due(50.0 + 3 * HEARTBEAT_S) == frozenset(range(PARTS))


def test_nothing_is_due_twice() -> None:
    beats = Heartbeats(50.0)
    assert beats.due(50.05) == frozenset()
    assert len(beats.due(50.15)) == 1
    assert beats.due(50.15) == frozenset()
