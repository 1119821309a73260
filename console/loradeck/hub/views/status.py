"""The hub's status for consoles: its name, its epoch and rev, and whether it makes moves."""

from __future__ import annotations

from loradeck.hub.fleet.moves_allowed import MovesAllowed
from loradeck.hub.log.changes import Changes
from loradeck.hub.log.clock import Clock
from loradeck.rules.moves.fold import FoldedLog
from loradeck.schemas.state import HubStatus

VERSION = "0.1.0"


class Status:
    """Builds the status.

    Args:
        name: the hub's name in the consoles' header.
        production: whether the consoles show that header in reverse video.
        sqlite: the version of SQLite.
    """

    def __init__(
        self,
        state: FoldedLog,
        moves_allowed: MovesAllowed,
        changes: Changes,
        clock: Clock,
        *,
        name: str,
        production: bool,
        sqlite: str,
    ) -> None:
        self._state = state
        self._moves_allowed = moves_allowed
        self._changes = changes
        self._clock = clock
        self._name = name
        self._production = production
        self._sqlite = sqlite
        self._started_ms = clock.now_ms()

    def now(self) -> HubStatus:
        """The status at this moment."""
        state = self._state
        return HubStatus(
            hub=self._name,
            production=self._production,
            version=VERSION,
            epoch=state.epoch,
            rev=state.rev,
            hash=state.hash,
            at_ms=self._clock.now_ms(),
            started_ms=self._started_ms,
            refusing=self._moves_allowed.refusing,
            sqlite=self._sqlite,
            seq=self._changes.seq,
        )
