"""The time after a start, in which a hub does not know yet whether its log is complete, and makes no moves.

A database that was restored from an older copy looks like any other until a node reports the rev it has seen. So a hub
that starts over a log, and knows nodes, moves nothing until half of the nodes that were not lost when that log was last
written have said hello, or one TTL has passed. Each of these nodes followed the log then, so any of them that was still
linked at the next move has seen what is missing. A move that is sent in that time waits a little, and is then refused
with the nodes that the hub waits for, and for how long at most.
"""

import asyncio
import logging
from collections.abc import Callable, Set
from contextlib import suppress
from dataclasses import dataclass, field

from loradeck.rules.errors import Refused
from loradeck.rules.moves.lease import settled
from loradeck.schemas.replica_state import LINK_TTL_S

log = logging.getLogger("loradeck.hub.recovery.startup")

SETTLING = "settling"
"""The problem code of a move that is refused because the hub is starting."""

HOLD_S = 3.0
"""How long a move waits before it is refused. After a plain restart the nodes are back sooner."""

NAMED = 3
"""Nodes that a refusal names."""


@dataclass(eq=False)
class Startup:
    """The nodes that a starting hub waits for, and those of them that have said hello.

    `_nodes` were linked when the log was last written. `_clock` gives monotonic seconds; `_changed` is called when the
    start-up is over.
    """

    _nodes: Set[str]
    _clock: Callable[[], float]
    _changed: Callable[[], None]
    _greeted: set[str] = field(default_factory=set, init=False)
    _over: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    def __post_init__(self) -> None:
        self._began = self._clock()
        if self._settled:
            self._over.set()

    @property
    def over(self) -> bool:
        """Whether moves are made."""
        return self._over.is_set()

    def greeted(self, node: str) -> None:
        """Counts a node's hello: the log has every event that this node has seen."""
        if self.over or node not in self._nodes:
            return
        self._greeted.add(node)
        if self._settled:
            self.end(f"{len(self._greeted)} of {len(self._nodes)} nodes are back")

    def tick(self) -> None:
        """Ends the start-up after a TTL; called once a second."""
        if not self.over and self._settled:
            self.end(f"{len(self._greeted)} of {len(self._nodes)} nodes came back within {LINK_TTL_S:g} s")

    def end(self, why: str) -> None:
        """Ends the start-up: from now on moves are made."""
        if self.over:
            return
        log.info("started after %.2f s: %s", self._clock() - self._began, why)
        self._over.set()
        self._changed()

    async def wait(self) -> None:
        """Waits for the end of the start-up, for `HOLD_S` seconds at most."""
        if self.over:
            return
        with suppress(TimeoutError):  # the move is refused, with the reason
            async with asyncio.timeout(HOLD_S):
                await self._over.wait()

    def refusal(self) -> Refused:
        """The refusal of a move that is sent now."""
        missing = sorted(self._nodes - self._greeted)
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        left = max(0.0, self._began + LINK_TTL_S - self._clock())
        return Refused(
            SETTLING,
            "this hub has just started and does not know yet whether its log is complete",
            detail=f"it waits for {', '.join(missing[:NAMED])}{more}, {left:.0f} s at most",
            fix=f"send it again in {max(1.0, left):.0f} s; nothing was changed",
            context={"nodes": missing, "seconds": round(left, 1)},
        )

    @property
    def _settled(self) -> bool:
        return settled(len(self._nodes), len(self._greeted), self._clock() - self._began)
