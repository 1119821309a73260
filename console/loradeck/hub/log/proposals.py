"""Proposals: settings of routes that one person has asked for and that wait for a second one. Kept in memory."""

from __future__ import annotations

from dataclasses import dataclass, field

from loradeck.hub.log.clock import Clock
from loradeck.schemas.ids import PointerKey, digest_of
from loradeck.schemas.route import RouteConfig

OPEN_MS = 24 * 3_600_000
"""How long a proposal waits."""


@dataclass(eq=False)
class Proposals:
    """The newest proposal of each route."""

    _clock: Clock
    _open: dict[PointerKey, tuple[str, str, int]] = field(default_factory=dict, init=False)

    def agreed(self, key: PointerKey, change: tuple[RouteConfig, RouteConfig], person: str) -> str | None:
        """Who else has proposed the change (from, to) of a route's settings; None: nobody, and it is proposed now."""
        before, after = change
        what, now = (
            digest_of({"from": before.model_dump(mode="json"), "to": after.model_dump(mode="json")}),
            self._clock.now_ms(),
        )
        proposed, by, at_ms = self._open.get(key, ("", "", 0))
        if proposed == what and by != person and now - at_ms < OPEN_MS:
            return by
        self._open[key] = (what, person, now)
        return None
