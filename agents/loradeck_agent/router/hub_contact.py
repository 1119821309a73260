"""How long the hub has not been heard from, by this router's monotonic clock."""

from __future__ import annotations

import time

from loradeck_agent.router.table import Table

AGENT_SILENT_S = 10.0
"""An agent that has not called for this long cannot know whether the hub is there."""

_NOTE_EVERY_S = 5.0


class Contact:
    """Starts not connected, with the age the table's file carries, until the agent says otherwise."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._connected = False
        self._heard = time.monotonic() - table.heard_s
        self._noted = 0.0

    def agent_called(self) -> None:
        """Any call on the control socket: what the agent said of the hub still holds."""
        if self._connected:
            self._mark(time.monotonic())

    def hub(self, connected: bool, silent_s: float = 0.0) -> None:
        """The agent's word on its link.

        Args:
            silent_s: for how long nothing had come over a link when it was given up. A link that swallows
                what is sent is noticed late, and the clock of `refuse_after_s` starts with the last word heard.
        """
        now = time.monotonic()
        if connected:
            self._mark(now)
        elif self._connected:
            self._mark(now)
            self._heard = now - silent_s
        self._connected = connected

    def age_s(self, now: float) -> float | None:
        """Seconds since the hub was last known to be there; None while it is."""
        age = now - self._heard
        return None if self._connected and age < AGENT_SILENT_S else age

    def _mark(self, now: float) -> None:
        self._heard = now
        if now - self._noted >= _NOTE_EVERY_S:
            self._noted = now
            self._table.note_heard()
