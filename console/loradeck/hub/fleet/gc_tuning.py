"""When the garbage collector goes through the hub's whole heap: after nodes have come or gone, and not while they stay.

A full collection with thousands of linked nodes takes longer than a move may wait, and finds nothing as long as
none of them leaves: what they send and are sent has no cycles.
"""

from __future__ import annotations

import gc
import logging
import time

log = logging.getLogger("loradeck.hub.fleet.gc_tuning")

THRESHOLDS = (20_000, 50, 100)
"""Arguments of `gc.set_threshold`.

A fleet that answers at once has thousands of messages under way: at the usual 700 objects the collector would examine
them again and again.
"""

FEW = 100
"""Links that may come and go before it is worth a full collection; of a large fleet a tenth."""


class Heap:
    """Counts links that come and go. What is there after that is taken out of the collector's sight until the next."""

    def __init__(self) -> None:
        self._changed = self._before = 0

    def settle(self) -> None:
        """What is there now stays: once everything is loaded."""
        gc.set_threshold(*THRESHOLDS)
        gc.freeze()

    def changed(self) -> None:
        """A link was opened or has ended."""
        self._changed += 1

    def tick(self, links: int) -> None:
        """Once a second, with the number of links there are: a full collection as soon as they no longer change."""
        quiet, self._before = self._changed == self._before, self._changed
        if not quiet or self._changed < max(FEW, links // 10):
            return
        self._changed = self._before = 0
        began = time.monotonic()
        gc.unfreeze()  # what links that have ended left behind is in there too
        found = gc.collect()
        gc.freeze()
        log.info("collected objects=%d links=%d ms=%.0f", found, links, (time.monotonic() - began) * 1000)
