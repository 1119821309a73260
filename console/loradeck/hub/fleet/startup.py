"""The moments after a start, in which a hub does not know yet whether its log is all there was.

A database that was put back from an older copy looks like any other until a node says what it has seen. So a hub
that starts over a log, and knows nodes, moves nothing until half of the nodes that were not lost when that log
was last written have said hello, or one TTL has passed. Each of these followed the log then, so any of them that
was still linked at the next move has seen what is missing. Whoever asks for a move in that time waits a little,
and is then told for whom the hub waits, and for how long at most.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection

from loradeck.rules.errors import Refused
from loradeck.schemas.link import LINK_TTL_S

log = logging.getLogger("loradeck.hub.fleet.startup")

SETTLING = "settling"

HOLD_S = 3.0
"""How long a move waits before it is refused. After a plain restart the nodes are back sooner."""

NAMED = 3
"""Nodes that a refusal names."""


class Settling:
    def __init__(self, nodes: Collection[str], clock: Callable[[], float], changed: Callable[[], None]) -> None:
        """`nodes`: who was linked, as far as the log's last life knew. `changed` is called when it is over."""
        self._nodes = frozenset(nodes)
        self._heard: set[str] = set()
        self._clock = clock
        self._began = clock()
        self._changed = changed
        self._over = asyncio.Event()
        if not self._nodes:
            self._over.set()

    @property
    def over(self) -> bool:
        return self._over.is_set()

    def heard(self, node: str) -> None:
        """A node has said how far it is, and the log had all of that."""
        if self.over or node not in self._nodes:
            return
        self._heard.add(node)
        if 2 * len(self._heard) >= len(self._nodes):
            self.end(f"{len(self._heard)} of {len(self._nodes)} nodes are back")

    def tick(self) -> None:
        """Once a second: nobody waits for longer than a TTL."""
        if not self.over and self._left_s() <= 0:
            self.end(f"{len(self._heard)} of {len(self._nodes)} nodes came back within {LINK_TTL_S:g} s")

    def end(self, why: str) -> None:
        """From here on moves are made."""
        if self.over:
            return
        log.info("settled after %.2f s: %s", self._clock() - self._began, why)
        self._over.set()
        self._changed()

    async def wait(self) -> None:
        """Until it is over, but not for long."""
        if self.over:
            return
        try:
            async with asyncio.timeout(HOLD_S):
                await self._over.wait()
        except TimeoutError:
            pass  # the move is refused, with the reason

    def refusal(self) -> Refused:
        missing = sorted(self._nodes - self._heard)
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        left = max(0.0, self._left_s())
        return Refused(
            SETTLING,
            "this hub has just started and does not know yet whether its log is complete",
            detail=f"it waits for {', '.join(missing[:NAMED])}{more}, {left:.0f} s at most",
            fix=f"send it again in {max(1.0, left):.0f} s; nothing was changed",
            context={"nodes": missing, "seconds": round(left, 1)},
        )

    def _left_s(self) -> float:
        return self._began + LINK_TTL_S - self._clock()
