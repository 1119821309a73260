"""A hub that looks often at what comes true by time alone: once a second, as it does, is longer than tests take."""

from __future__ import annotations

import pytest

LOOK_S = 0.05


def quicken_ticks(patch: pytest.MonkeyPatch) -> None:
    """Hubs of this process look, and hand out telemetry, every 50 ms. No limit of theirs becomes shorter by it."""
    for name in ("loradeck.hub.hub.TICK_S", "loradeck.hub.hub.LIST_S", "loradeck.hub.views.feed.TICK_S"):
        patch.setattr(name, LOOK_S)
