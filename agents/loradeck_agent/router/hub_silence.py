"""How long the hub has been silent, by this router's monotonic clock: the clock of `refuse_after_s`."""

import time

from loradeck_agent.router.table import Table

AGENT_SILENT_S = 10.0
"""An agent that has not called for this long cannot know whether the hub is there."""

_MARK_EVERY_S = 5.0


class HubSilence:
    """Seconds since the hub's last sign of life, as the agent reports it.

    It starts without a link and with the age of the table's file, until the agent reports a link.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._connected = False
        self._marked = 0.0
        self.start()

    def start(self) -> None:
        """Begins with the age of the table's file, once that was opened."""
        self._seen = time.monotonic() - self._table.hub_silent_s

    def agent_called(self) -> None:
        """The agent has called on the control socket: the link that it reported last still stands."""
        if self._connected:
            self._mark(time.monotonic())

    def hub(self, connected: bool, silent_s: float = 0.0) -> None:
        """The agent reports its link to the hub.

        `silent_s`: for how long nothing had come over the link when it was given up. A link that swallows messages is
        noticed late, and the clock of `refuse_after_s` starts with the last message.
        """
        now = time.monotonic()
        if connected:
            self._mark(now)
        elif self._connected:
            self._mark(now)
            self._seen = now - silent_s
        self._connected = connected

    def silent_s(self, now: float) -> float | None:
        """Seconds since the hub was last known to be there; None while it is."""
        age = now - self._seen
        return None if self._connected and age < AGENT_SILENT_S else age

    def _mark(self, now: float) -> None:
        self._seen = now
        if now - self._marked >= _MARK_EVERY_S:
            self._marked = now
            self._table.mark_hub_seen()
