"""Whether this hub makes moves now: not while it starts, while its log lacks moves, or without the lease."""

from __future__ import annotations

from dataclasses import dataclass

from loradeck.hub.fleet.nodes import Fleet
from loradeck.hub.log.log import Log
from loradeck.hub.recovery.recover import BEHIND, Recovery
from loradeck.hub.recovery.startup import SETTLING, Startup
from loradeck.rules.errors import Refused


@dataclass(eq=False)
class MovesAllowed:
    """The one place where it is decided whether moves are made, and why not."""

    _log: Log
    _fleet: Fleet
    _recovery: Recovery
    _startup: Startup

    @property
    def refusing(self) -> str | None:
        """The problem code that every move gets now; None: moves are made."""
        if self._log.lease_lost:
            return "not_active"
        if self._recovery.behind:
            return BEHIND
        return None if self._startup.over else SETTLING

    def check(self) -> None:
        """Does nothing while moves are made.

        Raises: Refused `log_behind`, `settling` or `not_active`.
        """
        code = self.refusing
        if code == BEHIND:
            nodes = sorted(node.name for node in self._fleet.nodes.values() if node.behind)
            raise Refused(
                BEHIND,
                "this hub's log lacks moves that its nodes have seen",
                detail=f"nodes ahead of it: {', '.join(nodes) or 'none linked now'}",
                fix="loradeck hub recover, on the hub's host",
                context={"nodes": nodes},
            )
        if code == SETTLING:
            raise self._startup.refusal()
        if code is not None:
            raise Refused(code, "another hub has taken the lease", fix="use that hub's address")
