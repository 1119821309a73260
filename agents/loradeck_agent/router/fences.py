"""Fences that gateways have seen: a request waits until this router holds the move, or is refused.

A gateway names the highest fence that it knows of a pointer in the header `x-loradeck-fence`, and an answer carries
that of the entry which this router holds.
"""

import asyncio
import re
from collections import defaultdict

from loradeck.rules.serving import gateway
from loradeck.rules.serving.gateway import FenceVerdict
from loradeck.schemas.ids import Fence, PointerKey

FENCE = "x-loradeck-fence"
"""The header of requests that come through a gateway, and of answers."""

ELSEWHERE = "x-loradeck-elsewhere"
"""The header of a refusal `not_here`: the names of nodes that serve the pointer, with commas between them."""

_FENCE = re.compile(r"(\d{1,16})\.(\d{1,16})", re.ASCII)


def fence_text(fence: Fence) -> str:
    """The header's text: EPOCH.GENERATION."""
    return f"{fence[0]}.{fence[1]}"


def fence_of(text: str) -> Fence | None:
    """The fence that a header names; None: it is none."""
    found = _FENCE.fullmatch(text)
    return (int(found[1]), int(found[2])) if found else None


class Fences:
    """The newest fence of each pointer here, and the requests that wait for a later one."""

    def __init__(self) -> None:
        self._held: dict[PointerKey, Fence] = {}
        self._waiting: defaultdict[PointerKey, dict[asyncio.Future[None], None]] = defaultdict(dict)

    def hold(self, key: PointerKey, fence: Fence) -> None:
        """The router holds an entry of this fence now, durably."""
        if self._held.get(key) == fence:
            return
        self._held[key] = fence
        for waiting in self._waiting.pop(key, ()):
            if not waiting.done():
                waiting.set_result(None)

    async def reached(self, key: PointerKey, seen: Fence) -> bool:
        """Waits, for a second at most, until this router holds that move or a later one; returns whether it does."""
        loop = asyncio.get_running_loop()
        began, waited_s = loop.time(), 0.0
        while (decided := gateway.standing(self._held.get(key), seen, waited_s)) is FenceVerdict.WAIT:
            moved = loop.create_future()
            self._waiting[key][moved] = None
            try:
                done, _ = await asyncio.wait([moved], timeout=gateway.WAIT_S - waited_s)
            finally:
                self._waiting[key].pop(moved, None)
            # A timer that went off has waited for long enough, whatever the rounding of the clock says.
            waited_s = loop.time() - began if done else gateway.WAIT_S
        return decided is FenceVerdict.ADMIT
